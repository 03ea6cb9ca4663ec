"""The launches that Nsight Compute looks at: the selection kernel, held and streamed, and the linear kernel, once each when warm.

ncu --profile-from-start off ... python bench/gpu/profiled.py held|linear|streamed|skinny ...

ncu prints what it found when the process ends: what may take long is left to a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

import dynams_kernels as dk


def selection(size: int) -> Callable[[], Any]:
    values = torch.randn(size, device="cuda")
    return lambda: dk.smallest_k(values, 6 * size // 10)


def linear(batch: int, width: int, classes: int) -> Callable[[], Any]:
    features = torch.randn(batch, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(classes, width, device="cuda", dtype=torch.bfloat16).mul_(width**-0.5)
    return lambda: dk.linear_margin(features, weight)


LAUNCHES: dict[str, Callable[[], Callable[[], Any]]] = {
    "held": lambda: selection(1_280_000),
    "linear": lambda: linear(65_536, 1024, 1000),
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
