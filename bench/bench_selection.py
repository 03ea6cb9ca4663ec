"""Exact selection of the k smallest against torch's and NumPy's partial selections (neither is deterministic under ties)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import dynams_kernels as dk

SIZES = [50_000, 1_280_000, 20_000_000]


def normal(size: int) -> Tensor:
    return torch.randn(size)


def margins(size: int) -> Tensor:
    """What a trained network gives: non-negative, most of it far from 0."""
    return torch.randn(size).abs() * 5


def few_distinct(size: int) -> Tensor:
    return torch.randint(0, 50, (size,)).float()


@pytest.mark.parametrize("size", SIZES, ids="{:,}".format)
@pytest.mark.parametrize("values", [normal, margins, few_distinct], ids=lambda f: f.__name__)
def bench_smallest_k(
    versus: Callable[..., None], size: int, values: Callable[[int], Tensor]
) -> None:
    keys = values(size)
    k = int(0.6 * size)
    array = keys.numpy()

    def touch_and_read_twice() -> None:
        # What no selection into fresh memory can spare.
        torch.empty(k).fill_(1)
        torch.empty(k, dtype=torch.int64).fill_(1)
        keys.sum()
        keys.sum()

    versus(
        lambda: dk.smallest_k(keys, k),
        {
            "torch.topk(sorted=False)": lambda: torch.topk(keys, k, largest=False, sorted=False),
            "numpy.argpartition": lambda: np.argpartition(array, k),
        },
        rounds=15 if size < 5_000_000 else 7,
        floors={"first touch of the output, two reads": touch_and_read_twice},
        # Every key read once, every selected value and index written once.
        bytes=size * 4 + k * 12,
    )


@pytest.mark.parametrize("size", SIZES, ids="{:,}".format)
def bench_smallest_k_into_touched_memory(versus: Callable[..., None], size: int) -> None:
    keys = torch.randn(size)
    k = int(0.6 * size)
    array = keys.numpy()
    out = (torch.zeros(k), torch.zeros(k, dtype=torch.int64))
    theirs = (torch.zeros(k), torch.zeros(k, dtype=torch.int64))
    versus(
        lambda: dk.smallest_k(keys, k, out=out),
        {
            "torch.topk(sorted=False, out=...)": lambda: torch.topk(
                keys, k, largest=False, sorted=False, out=theirs
            ),
            "numpy.argpartition": lambda: np.argpartition(array, k),
        },
        rounds=15 if size < 5_000_000 else 7,
        floors={"two reads": lambda: (keys.sum(), keys.sum())},
        bytes=size * 4 + k * 12,
    )


@pytest.mark.parametrize("group_count", [10, 1000, 100_000], ids="{:,} groups".format)
def bench_smallest_k_grouped(versus: Callable[..., None], group_count: int) -> None:
    keys = torch.randn(1_280_000)
    groups = torch.randint(0, group_count, (1_280_000,))

    def by_sorting() -> Tensor:
        ranked = keys.argsort(stable=True)
        order = ranked[groups[ranked].argsort(stable=True)]
        sizes = torch.bincount(groups, minlength=group_count)
        own = groups[order]
        rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[own]
        return order[rank < (0.6 * sizes + 0.5).long().clamp(min=1)[own]]

    def one_by_one() -> list[Tensor]:
        members = torch.split(
            groups.argsort(stable=True), torch.bincount(groups, minlength=group_count).tolist()
        )
        return [own[dk.smallest_k(keys[own], 0.6).indices] for own in members]

    peers = {"two stable sorts": by_sorting}
    if group_count <= 1000:
        peers["smallest_k of each group"] = one_by_one
    versus(
        lambda: dk.smallest_k_grouped(keys, groups, 0.6),
        peers,
        rounds=7,
        floors={"smallest_k of all": lambda: dk.smallest_k(keys, 0.6)},
        bytes=1_280_000 * 12 + 768_000 * 12,
    )


def bench_smallest_k_in_value_order(versus: Callable[..., None]) -> None:
    keys = torch.randn(1_280_000)
    k = 768_000
    versus(
        lambda: dk.smallest_k(keys, k, order="value"),
        {
            "torch.topk(sorted=True)": lambda: torch.topk(keys, k, largest=False, sorted=True),
            "torch.sort(stable=True)": lambda: torch.sort(keys, stable=True),
        },
        rounds=7,
    )


def bench_few_of_many(versus: Callable[..., None]) -> None:
    keys = torch.randn(1_280_000)
    array = keys.numpy()
    versus(
        lambda: dk.smallest_k(keys, 1000),
        {
            "torch.topk(sorted=False)": lambda: torch.topk(keys, 1000, largest=False, sorted=False),
            "numpy.argpartition": lambda: np.argpartition(array, 1000),
        },
    )


def bench_margin_topk(versus: Callable[..., None]) -> None:
    logits = torch.randn(50_000, 100)

    def plain() -> Tensor:
        top = logits.topk(2, dim=1).values
        return torch.topk(top[:, 0] - top[:, 1], 30_000, largest=False, sorted=False).indices

    versus(lambda: dk.margin_topk(logits, 30_000), {"topk(2), subtract, topk(k)": plain})
