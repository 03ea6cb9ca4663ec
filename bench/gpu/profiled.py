"""The launches that Nsight Compute looks at: the selection kernel, held and streamed, and the linear kernels, once each when warm.

ncu --profile-from-start off ... python bench/gpu/profiled.py held|linear|candidates|streamed|skinny ...

ncu prints what it found when the process ends: what may take long is left to a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import dynams_kernels as dk
from gpu import candidates, ledger


def selection(size: int) -> Callable[[], Any]:
    values = torch.randn(size, device="cuda")
    return lambda: dk.smallest_k(values, 6 * size // 10)


def linear(batch: int, width: int, classes: int) -> Callable[[], Any]:
    features = torch.randn(batch, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(classes, width, device="cuda", dtype=torch.bfloat16).mul_(width**-0.5)
    return lambda: dk.linear_margin(features, weight)


def each_candidate() -> Callable[[], Any]:
    """All kernels that could serve the first target's head, but those that the cases or benchmarks before found dead."""
    features = torch.randn(65_536, 1024, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(1000, 1024, device="cuda", dtype=torch.bfloat16).mul_(1024**-0.5)
    head = (features, weight, None, None)
    dead = ledger.dead_candidates()
    names = [name for name in candidates.able(head, ("gap",)) if name not in {*dead, "eager"}]

    def one(name: str) -> None:
        try:
            candidates.scores_by(name, head, ("gap",))
        except Exception as error:
            print(f"profiled.py: {name}: {error}", flush=True)

    def call() -> None:
        for name in names:
            one(name)

    print(f"profiled.py: in this order: {', '.join(names)}", flush=True)
    return call


LAUNCHES: dict[str, Callable[[], Callable[[], Any]]] = {
    "held": lambda: selection(1_280_000),
    "linear": lambda: linear(65_536, 1024, 1000),
    "candidates": each_candidate,
    "streamed": lambda: selection(256_000_000),
    "skinny": lambda: linear(65_536, 1024, 100),
}


def main(names: list[str]) -> None:
    for name in names:
        call = LAUNCHES[name]()
        for _ in range(3):  # compilation, lazy loading, the allocator's memory
            call()
        torch.cuda.synchronize()
        print(f"profiled.py: {name}", flush=True)
        torch.cuda.profiler.start()
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        del call
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:])
