"""Exact selection of the k smallest on a GPU, and margins selected from as they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
from gpu import peers, timing

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=timing.ManualClock())]


def normal(size: int) -> Tensor:
    return torch.randn(size, device="cuda")


def margins(size: int) -> Tensor:
    """What a trained network gives: non-negative, most of it far from 0."""
    return torch.randn(size, device="cuda").abs_().mul_(5)


def few_distinct(size: int) -> Tensor:
    return torch.randint(0, 50, (size,), device="cuda").float()


def selection_bytes(size: int, k: int) -> int:
    """Every float32 key read once, every selected value and index written once."""
    return 4 * size + 12 * k


def topk_alone(k: int) -> Callable[[Tensor], Any]:
    return lambda v: torch.topk(v, k, largest=False, sorted=False)


SIZES = {
    "1.28M-normal": (1_280_000, normal),
    "256M-normal": (256_000_000, normal),
    "1.28M-margins": (1_280_000, margins),
    "1.28M-few_distinct": (1_280_000, few_distinct),
    "50k-normal": (50_000, normal),
    "20M-normal": (20_000_000, normal),
}
BATCH = (131_072, 1000)


@pytest.mark.parametrize("keys", SIZES)
def bench_smallest_k(against: Callable[..., None], backend: Any, keys: str) -> None:
    size, values = SIZES[keys]
    k = 6 * size // 10
    rivals = {
        "torch.topk(sorted=False)": topk_alone(k),
        "torch.sort": torch.sort,
        "clone": torch.clone,
        **peers.topk_of_values(k),
    }
    against(
        lambda v: backend.smallest_k(v, k, False),
        rivals,
        lambda: (values(size),),
        bytes=selection_bytes(size, k),
    )


def bench_few_of_many(against: Callable[..., None], backend: Any) -> None:
    size, k = 1_280_000, 1000
    against(
        lambda v: backend.smallest_k(v, k, False),
        {"torch.topk(sorted=False)": topk_alone(k), "clone": torch.clone},
        lambda: (normal(size),),
        bytes=selection_bytes(size, k),
    )


def bench_selection_mask(against: Callable[..., None], backend: Any) -> None:
    if not hasattr(backend, "smallest_mask"):
        pytest.skip("this backend has no mask")
    size, k = 1_280_000, 768_000
    against(
        lambda v: backend.smallest_mask(v, k),
        {"indices instead": lambda v: backend.smallest_k(v, k, False)},
        lambda: (normal(size),),
        bytes=5 * size,
    )


def bench_margin_topk(against: Callable[..., None]) -> None:
    rows, classes = BATCH
    k = 6 * rows // 10

    def plain(logits: Tensor) -> Tensor:
        top = logits.topk(2, dim=1).values
        return torch.topk(top[:, 0] - top[:, 1], k, largest=False, sorted=False).indices

    against(
        lambda x: dk.margin_topk(x, k),
        {"margin alone": dk.margin, "topk(2), subtract, topk(k)": plain},
        lambda: (torch.randn(rows, classes, device="cuda").to(torch.bfloat16),),
        bytes=2 * rows * classes + 4 * rows + selection_bytes(rows, k),
    )
