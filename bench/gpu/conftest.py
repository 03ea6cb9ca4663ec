"""Fixtures of the GPU benchmarks: which of them run, and how ours and its peers are timed."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpu import (
    backends,
    candidate_table,
    candidates,
    ceilings,
    known,
    ledger,
    outcomes,
    peers,
    targets,
    timing,
)

HERE = Path(__file__).parent
# Compiling a peer may take this long. Ours has no limit but the test's own.
PEER_SECONDS = 20.0
# And all peers of a benchmark together: well below what a test may take (device_guard.py).
PEERS_SECONDS = 40.0
Inputs = tuple[Any, ...]


# ------------------------------------------------------------------------------------ which benchmarks run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--targets-only",
        action="store_true",
        help="the benchmarks that a target or a choice rests on",
    )


def targets_only(config: pytest.Config) -> bool:
    """Whether that was asked for; the option is unknown where pytest was given a folder above this one."""
    return bool(config.getoption("--targets-only", default=False))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU all are skipped. What a target rests on comes first, then what was longest not measured, by the committed reports;
    with --targets-only the candidates of a linear head come before the first target that may choose one of them.
    """
    mine = [item for item in items if HERE in item.path.parents]
    if not torch.cuda.is_available():
        for item in mine:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        return
    if targets_only(config):
        names = candidate_table.before_linear(targets.names())
        mine = [item for item in mine if item.name in names]
    else:
        names = targets.names()
    order = {name: place for place, name in enumerate(names)}
    last = known.measured()
    mine.sort(key=lambda item: (order.get(item.name, len(order)), last.get(item.name, "")))
    items[:] = [item for item in items if HERE not in item.path.parents] + mine


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """What was measured goes with the report to the ledger (see outcomes.py)."""
    made: Any = yield
    report = made.get_result()
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if report.when == "call" and report.passed and benchmark is not None and benchmark.stats:
        report.user_properties.append((outcomes.ENTRY, benchmark.stats.as_dict(include_data=False)))


# ------------------------------------------------------------------------------------ measuring


@pytest.fixture(scope="session")
def limits() -> dict[str, float]:
    """The machine's ceilings in this process."""
    measured = ceilings.measure()
    gc.collect()
    torch.cuda.empty_cache()
    ledger.write({"session": {"ceilings": measured, "peers": peers.installed()}})
    return measured


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> Any:
    """Each GPU backend that serves row scores and selection."""
    usable = backends.gpu_backends()
    if request.param not in usable:
        pytest.skip(f"the {request.param} backend cannot run here")
    return usable[request.param]


def prepared(
    name: str,
    calls: list[timing.Call],
    seconds: float,
    own_clock: float,
    trial: candidates.Trial = nullcontext,
) -> timing.Timed | str:
    """A peer ready to be timed, or why it is not: a peer's trouble of any kind is a line of the report."""
    if seconds <= 0:
        return "not tried: the peers before it took the time"
    try:
        with timing.time_limit(min(seconds, PEER_SECONDS), name), trial():
            return timing.Timed(calls, own_clock)
    except Exception as error:
        torch.cuda.synchronize()
        return timing.first_line(error)


@pytest.fixture
def against(
    benchmark: Any, limits: dict[str, float], request: pytest.FixtureRequest
) -> Iterator[Callable[..., None]]:
    """against(ours, {"peer": function}, inputs, bytes=..., flops=...): device times of ours and its peers, round by round.

    `inputs()` makes one set of arguments; all functions take the same. `bytes` (inputs once, outputs once) and `flops` are
    what a call must move and do at least; `limit` names the ceiling that bounds it. `untried(first set)` gives further peers,
    each with the trial that it must pass before it is timed.
    """

    def compare(
        ours: Callable[..., Any],
        rivals: Mapping[str, Callable[..., Any]],
        inputs: Callable[[], Inputs],
        *,
        bytes: int,
        flops: int = 0,
        limit: str = "copy",
        rounds: int = timing.ROUNDS,
        untried: Callable[..., Mapping[str, tuple[Callable[..., Any], candidates.Trial]]]
        | None = None,
    ) -> None:
        cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        sets = [inputs() for _ in range(timing.sets_beyond_cache(bytes, cache))]
        info = benchmark.extra_info
        info.update(bytes=bytes, flops=flops, limit=limit, sets=len(sets), ceilings=limits)
        info.update(threads=torch.get_num_threads())
        trials = untried(*sets[0]) if untried else {}
        if benchmark.disabled:
            for function in (
                ours,
                *rivals.values(),
                *(function for function, _ in trials.values()),
            ):
                function(*sets[0])
            benchmark(lambda: torch.cuda.synchronize())
            return
        with torch.no_grad():
            # What multiplies nothing does not reach the limit of the GPU's power, nor do its peers.
            own_clock = timing.OWN_CLOCK if flops else timing.WARM
            timed = timing.Timed([partial(ours, *one) for one in sets], own_clock)
            info["launches"] = timing.launches(partial(ours, *sets[0]))
            info["extra_bytes"] = timing.peak_extra_bytes(partial(ours, *sets[0]))
            ready: dict[str, timing.Timed | str] = {}
            for name, (function, trial) in trials.items():
                calls = [partial(function, *one) for one in sets]
                ready[name] = prepared(name, calls, PEER_SECONDS, own_clock, trial)
            end = time.monotonic() + PEERS_SECONDS
            for name, function in rivals.items():
                calls = [partial(function, *one) for one in sets]
                ready[name] = prepared(name, calls, end - time.monotonic(), own_clock)
            failed = {name: why for name, why in ready.items() if isinstance(why, str)}
            measure(
                timed,
                {name: one for name, one in ready.items() if isinstance(one, timing.Timed)},
                rounds,
            )
        info["how"] = timed.how
        info["failed_peers"] = failed

    def measure(timed: timing.Timed, ready: Mapping[str, timing.Timed], rounds: int) -> None:
        peer_seconds: dict[str, list[float]] = {name: [] for name in ready}
        our_seconds: list[float] = []
        clock: timing.ManualClock = request.node.get_closest_marker("benchmark").kwargs["timer"]

        def peers_round() -> None:
            for name, rival in ready.items():
                peer_seconds[name].append(rival.seconds())

        def one() -> None:
            our_seconds.append(timed.seconds())
            clock.advance(our_seconds[-1])

        benchmark.pedantic(one, setup=peers_round, rounds=rounds, iterations=1)
        benchmark.extra_info["peers"] = {
            name: {
                "median_s": sorted(seconds)[len(seconds) // 2],
                "speedup": timing.speedup(our_seconds, seconds),
                "how": ready[name].how,
            }
            for name, seconds in peer_seconds.items()
        }

    yield compare
    gc.collect()
    torch.cuda.empty_cache()
