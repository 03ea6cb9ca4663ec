"""What the machine can do at best, measured in the run whose results are held against it."""

from __future__ import annotations

import statistics
import time

import torch

from gpu.timing import Call, Timed

# Bytes copied, the fastest of which counts: all far beyond any cache, and not all at a distance from their source that sets
# the memory's banks against each other.
COPIED = (1 << 28, (1 << 28) + (1 << 20), 1 << 30)
BF16_SIZE = 8192
# Clocks of a GPU that was idle take tenths of a second to rise.
WARM_SECONDS = 1.0
FP32_SIZE = 4096


def _median(*calls: Call) -> float:
    timed = Timed(calls)
    return statistics.median(timed.seconds() for _ in range(9))


def _copied(size: int) -> float:
    source = torch.randn(size // 4, device="cuda")
    copy = torch.empty_like(source)
    return 2 * size / _median(lambda: copy.copy_(source))


def _matmul(size: int, dtype: torch.dtype, precision: str) -> float:
    left, right = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        return 2 * size**3 / _median(lambda: torch.mm(left, right, out=out))
    finally:
        torch.set_float32_matmul_precision(before)


def _warm() -> None:
    square = torch.randn(BF16_SIZE, BF16_SIZE, device="cuda", dtype=torch.bfloat16)
    end = time.monotonic() + WARM_SECONDS
    while time.monotonic() < end:
        torch.mm(square, square)
        torch.cuda.synchronize()


def measure() -> dict[str, float]:
    """Bytes and floating-point operations a second, and the seconds of the smallest launch.

    `copy` counts bytes read and bytes written; `launch` is one element added in place, one of 100 such in a graph.
    """
    _warm()
    one = torch.zeros(1, device="cuda")
    return {
        "copy": max(map(_copied, COPIED)),
        "bf16 matmul": _matmul(BF16_SIZE, torch.bfloat16, "highest"),
        "tf32 matmul": _matmul(FP32_SIZE, torch.float32, "high"),
        "fp32 matmul": _matmul(FP32_SIZE, torch.float32, "highest"),
        "launch": _median(*[lambda: one.add_(1)] * 100),
    }
