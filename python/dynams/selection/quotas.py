"""Shares of a selection: how many samples each group gets, and which samples make up a group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynams.checks import whole
from dynams.selection.draws import random_order


def proportional_quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Share `total` among groups in proportion to their sizes, by largest remainder.

    Each gets the whole part of total * size / sum; what is left goes one by one to the largest
    remainders, among equal ones to the first. Exact: whole numbers only.

    Args:
        sizes: of the groups, at least 0.
        total: in [0, sum of sizes].

    Returns:
        Quotas that sum to `total`, none above its group's size.

    Raises:
        ValueError: `total` is out of range.
    """
    everything = sum(sizes)
    total = whole("total", total, 0, everything)
    if everything == 0:
        return [0 for _ in sizes]
    shares = [divmod(total * size, everything) for size in sizes]
    quotas = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda group: -shares[group][1])
    for group in by_remainder[: total - sum(quotas)]:
        quotas[group] += 1
    return quotas


def equal_quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Share `total` among groups equally; what a small group cannot fill, the others share equally.

    Args:
        sizes: of the groups, at least 0.
        total: in [0, sum of sizes].

    Returns:
        Quotas that sum to `total`, none above its group's size; full groups aside they differ by at
        most 1, the first ones having the larger.

    Raises:
        ValueError: `total` is out of range.
    """
    left = whole("total", total, 0, sum(sizes))
    quotas = [0 for _ in sizes]
    smallest_first = sorted(range(len(sizes)), key=lambda group: sizes[group])
    for place, group in enumerate(smallest_first):
        if sizes[group] * (len(sizes) - place) <= left:
            quotas[group] = sizes[group]
            left -= sizes[group]
            continue
        rest = sorted(smallest_first[place:])
        share, more = divmod(left, len(rest))
        for rank, other in enumerate(rest):
            quotas[other] = share + (rank < more)
        break
    return quotas


def class_members(labels: Tensor, order: Tensor | None = None) -> list[Tensor]:
    """Return the samples of each class that occurs, by ascending label: int64 indices.

    Waits for the device: the classes' sizes are shapes.

    Args:
        labels: (N,) int64.
        order: a permutation of the samples, which each class keeps; None: ascending.
    """
    if order is None:
        order = torch.arange(labels.shape[0], device=labels.device)
    by_class, places = labels[order].sort(stable=True)
    _, counts = torch.unique_consecutive(by_class, return_counts=True)
    return list(torch.split(order[places], counts.tolist()))


def class_parts(labels: Tensor, part_size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the samples by class, large classes split at random into equal parts.

    Methods that compare all samples of a class with one another thus need time in proportion to N and
    memory for one part only. A class no larger than `part_size` stays whole.

    Args:
        labels: (N,) int64.
        part_size: most samples of a part.
        generator: of the split.

    Returns:
        Ascending int64 indices, by ascending label.
    """
    order = random_order(labels.shape[0], generator, labels.device)
    parts: list[Tensor] = []
    for members in class_members(labels, order):
        parts += members.tensor_split(-(-members.shape[0] // part_size))
    return [part.sort().values for part in parts]
