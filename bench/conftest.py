"""The one way benchmarks here compare: ours and its peers in turn, in one process, so that a machine whose speed drifts
slows both sides alike."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import dynams_kernels as dk

# What benchmarks share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

Call = Callable[[], Any]


@pytest.fixture(autouse=True)
def fixed_inputs() -> None:
    """Random data, never zeros (some hardware is faster on zeros), the same at every run."""
    torch.manual_seed(0)


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@pytest.fixture
def versus(benchmark: Any) -> Callable[..., None]:
    """versus(ours, {"peer": call, ...}, rounds=15, floors={"floor": call, ...}): times all of them round by round.

    The benchmark's own statistics are ours. `extra_info["peers"]` holds for each peer the median seconds and `speedup`,
    the median over rounds of peer / ours: above 1 we are faster. A floor is what the work cannot do without, such as one
    read of its input: `extra_info["floors"]` holds its median seconds and `ratio`, the median over rounds of ours / floor.
    """

    def compare(
        ours: Call,
        peers: Mapping[str, Call],
        *,
        rounds: int = 15,
        floors: Mapping[str, Call] | None = None,
        **facts: Any,
    ) -> None:
        others = {**peers, **(floors or {})}
        benchmark.extra_info["threads"] = torch.get_num_threads()
        benchmark.extra_info.update(facts)
        if benchmark.disabled:
            benchmark(ours)
            for call in others.values():
                call()
            return
        for call in (ours, *others.values()):  # warm-up: code, caches, the allocator's pages
            call()
            call()
        seconds: dict[str, list[float]] = {name: [] for name in others}
        our_seconds: list[float] = []

        def others_round() -> None:
            for name, call in others.items():
                seconds[name].append(_seconds(call))

        def timed() -> None:
            our_seconds.append(_seconds(ours))

        def ratio(name: str) -> float:
            rounds = zip(seconds[name], our_seconds, strict=True)
            return statistics.median(other / our for other, our in rounds)

        benchmark.pedantic(timed, setup=others_round, rounds=rounds, iterations=1)
        benchmark.extra_info["peers"] = {
            name: {"median_s": statistics.median(seconds[name]), "speedup": ratio(name)}
            for name in peers
        }
        benchmark.extra_info["floors"] = {
            name: {"median_s": statistics.median(seconds[name]), "ratio": 1 / ratio(name)}
            for name in floors or {}
        }

    return compare


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["isa"] = dk.backends()["native_cpu"].get("isa")
    # Names of one machine and of its builds say nothing to anybody else.
    for name in ("node", "release", "python_build"):
        machine_info.pop(name, None)
