"""The one way benchmarks here compare: ours and its peers in turn, in one process, so that a machine whose speed drifts
slows both sides alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import dynams_kernels as dk

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
    """versus(ours, {"peer": call, ...}, rounds=15): times all of them round by round.

    The benchmark's own statistics are ours. `extra_info["peers"]` holds for each peer the median seconds and `speedup`,
    the median over rounds of peer / ours: above 1 we are faster.
    """

    def compare(ours: Call, peers: Mapping[str, Call], *, rounds: int = 15, **facts: Any) -> None:
        benchmark.extra_info["threads"] = torch.get_num_threads()
        benchmark.extra_info.update(facts)
        if benchmark.disabled:
            benchmark(ours)
            for call in peers.values():
                call()
            return
        for call in (ours, *peers.values()):  # warm-up: code, caches, the allocator's pages
            call()
            call()
        peer_seconds: dict[str, list[float]] = {name: [] for name in peers}
        our_seconds: list[float] = []

        def peers_round() -> None:
            for name, call in peers.items():
                peer_seconds[name].append(_seconds(call))

        def timed() -> None:
            our_seconds.append(_seconds(ours))

        benchmark.pedantic(timed, setup=peers_round, rounds=rounds, iterations=1)
        benchmark.extra_info["peers"] = {
            name: {
                "median_s": statistics.median(seconds),
                "speedup": statistics.median(
                    peer / our for peer, our in zip(seconds, our_seconds, strict=True)
                ),
            }
            for name, seconds in peer_seconds.items()
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
