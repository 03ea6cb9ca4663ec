"""What a call costs the host while the device works on its own: inputs so small that the device is never the slower."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import dynams_kernels as dk
from gpu import timing

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=timing.ManualClock())]

# Fewer than the launches a device queues before it makes the host wait.
CALLS = 100
SIX_KINDS = ["gap", "probability", "loss", "el2n", "entropy", "confidence"]


def calls() -> dict[str, Callable[[], Any]]:
    features = torch.randn(64, 32, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(16, 32, device="cuda", dtype=torch.bfloat16)
    logits = torch.randn(64, 16, device="cuda")
    labels = torch.randint(16, (64,), device="cuda")
    values = torch.randn(1000, device="cuda")
    return {
        "margin": lambda: dk.margin(logits),
        "smallest_k": lambda: dk.smallest_k(values, 600),
        "linear_margin": lambda: dk.linear_margin(features, weight),
        "scores": lambda: dk.scores(logits, SIX_KINDS, labels=labels),
        "linear_margin, three widths": lambda: dk.linear_margin(
            features, weight, width=[8, 16, 32]
        ),
        "margin_topk": lambda: dk.margin_topk(logits, 30),
        "linear_margin_topk": lambda: dk.linear_margin_topk(features, weight, 30),
    }


OPERATIONS = (
    "margin",
    "smallest_k",
    "linear_margin",
    "scores",
    "linear_margin, three widths",
    "margin_topk",
    "linear_margin_topk",
)


def seconds_a_call(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    seconds = (time.perf_counter() - begin) / CALLS
    torch.cuda.synchronize()
    return seconds


@pytest.mark.parametrize("operation", OPERATIONS)
def bench_host_overhead(
    benchmark: Any, limits: dict[str, float], request: pytest.FixtureRequest, operation: str
) -> None:
    clock = request.node.get_closest_marker("benchmark").kwargs["timer"]
    logits = torch.randn(64, 16, device="cuda")
    value = torch.zeros(1, device="cuda")
    ours = calls()[operation]
    # The second is the cheapest launch that torch has: what this host needs for any.
    peers: dict[str, Callable[[], Any]] = {
        "torch.topk(2)": lambda: torch.topk(logits, 2),
        "add_ of one value": lambda: value.add_(1),
    }
    our_seconds: list[float] = []
    peer_seconds: dict[str, list[float]] = {name: [] for name in peers}

    def one() -> None:
        for name, call in peers.items():
            peer_seconds[name].append(seconds_a_call(call))
        our_seconds.append(seconds_a_call(ours))
        clock.advance(our_seconds[-1])

    with torch.no_grad():
        if benchmark.disabled:
            benchmark(one)
            return
        one()
        our_seconds.clear()
        for seconds in peer_seconds.values():
            seconds.clear()
        benchmark.pedantic(one, rounds=31, iterations=1)
    benchmark.extra_info.update(limit="host", ceilings=limits, threads=torch.get_num_threads())
    benchmark.extra_info["peers"] = {
        name: {
            "median_s": sorted(seconds)[len(seconds) // 2],
            "speedup": timing.speedup(our_seconds, seconds),
            "how": "host clock",
        }
        for name, seconds in peer_seconds.items()
    }
