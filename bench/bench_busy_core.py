"""What a process beside us costs: one core is kept busy, and the slow-down of ours stands beside that of torch's own kernels.

A kernel that deals its threads fixed shares waits for the thread whose core is shared; torch's do. `quiet_s` beside a benchmark
holds the seconds of ours and of each peer on quiet cores, measured just before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

import dynams_kernels as dk

Call = Callable[[], Any]

_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print("busy", flush=True)
while True:
    pass
"""


@contextmanager
def one_core_busy() -> Iterator[None]:
    """One of the cores that this process may use is shared with another."""
    core = min(os.sched_getaffinity(0))
    spinning = subprocess.Popen(
        [sys.executable, "-c", _SPIN, str(core)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert spinning.stdout is not None
        assert spinning.stdout.readline() == "busy\n"
        yield
    finally:
        spinning.kill()
        spinning.wait()


def quiet_seconds(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """The median seconds of each call, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}


def operations() -> dict[str, tuple[Call, dict[str, Call]]]:
    """Ours, and the peer whose slow-down it is held against."""
    logits, values = torch.randn(16_000, 1000), torch.randn(5_000_000)
    labels = torch.randint(0, 1000, (16_000,))
    features, weight = torch.randn(8192, 1024), torch.randn(1000, 1024) / 32
    wide = torch.randn(32_000, 1024) / 32
    few = features[:1024]
    k = 3_000_000
    own = labels[:8192]
    product: dict[str, Call] = {"F.linear alone": lambda: linear(features, weight)}
    return {
        "margin": (lambda: dk.margin(logits), {"logits.topk(2)": lambda: logits.topk(2)}),
        "scores": (
            lambda: dk.scores(logits, ["loss", "entropy"], labels=labels),
            {"logits.log_softmax(1)": lambda: logits.log_softmax(1)},
        ),
        "smallest_k": (
            lambda: dk.smallest_k(values, k),
            {"torch.topk(sorted=False)": lambda: torch.topk(values, k, sorted=False)},
        ),
        "linear_margin": (lambda: dk.linear_margin(features, weight), product),
        "linear_scores": (
            lambda: dk.linear_scores(features, weight, ["gap", "loss", "entropy"], labels=own),
            product,
        ),
        "linear_margin, 32000 classes": (
            lambda: dk.linear_margin(few, wide),
            {"F.linear alone": lambda: linear(few, wide)},
        ),
    }


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores, and a say in who runs on which",
)
@pytest.mark.parametrize(
    "operation",
    [
        "margin",
        "scores",
        "smallest_k",
        "linear_margin",
        "linear_scores",
        "linear_margin, 32000 classes",
    ],
)
def bench_one_core_busy(benchmark: Any, versus: Callable[..., None], operation: str) -> None:
    ours, peers = operations()[operation]
    quiet = {} if benchmark.disabled else quiet_seconds({"ours": ours, **peers}, rounds=12)
    with one_core_busy():
        versus(ours, peers, rounds=21, quiet_s=quiet)
