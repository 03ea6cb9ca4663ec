"""Scores that ranks made of a part of the samples each, given to all of them bit for bit alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dynams.selection.ranks import check_told_alike, told_by_all
from dynams.selection.sampler_checks import check_int64

Pair = tuple[Tensor, Tensor]


def gather_scores(pairs: Iterable[Pair], group: Any = None) -> list[Pair]:
    """Give every rank the pairs of all ranks: for scores of your own, of any part of the samples on each.

    All ranks of the group come here together. `score_batches` of a `RankShard` has done so already.

    Args:
        pairs: of indices (n,) int64 and scores (n,), on any device; none where a rank has none. What fails
            while they are made is told to all ranks.
        group: the process group; None: the default one.

    Returns:
        One pair for each rank that has scores, on the CPU, in the order of ranks: the same bits on all. Without a
        process group, the one pair of all that were given.

    Raises:
        ValueError, TypeError: pairs that do not fit.
        RuntimeError: another rank could not give its own.
    """
    told = told_by_all("give its scores", lambda: _joined(pairs), group)
    return [pair for pair in told if len(pair[0])]


def scored_together(
    networks: list[nn.Module],
    facts: Mapping[str, object],
    score: Callable[[], Iterable[Pair]],
    *,
    gather: bool = True,
) -> list[Pair]:
    """Score this rank's part by the statistics of rank 0's networks, and give all ranks all scores.

    Args:
        networks: that `score` calls; as they were afterwards.
        facts: what is to be the same on all ranks, by name.
        score: makes the pairs of this rank's part.
        gather: False: each rank gets its own pairs, as they were made.

    Raises:
        ValueError: ranks differ in `facts` or in the shapes of statistics.
        RuntimeError: another rank failed.
    """
    statistics = [buffer for network in networks for buffer in _statistics(network)]
    facts = {**facts, "shapes of the model's statistics": [list(each.shape) for each in statistics]}
    begun = told_by_all("begin to score", lambda: facts)
    check_told_alike(begun)
    with _statistics_of_rank_0(statistics), _without_broadcasts(networks):
        if gather:
            told = told_by_all("score its part of the samples", lambda: _joined(score()))
            return [pair for pair in told if len(pair[0])]
        mine: list[Pair] = []
        told_by_all("score its part of the samples", lambda: mine.extend(score()))
        return mine


def _joined(pairs: Iterable[Pair]) -> Pair:
    indices, scores = [], []
    for some_indices, some_scores in pairs:
        check_int64("indices", some_indices)
        if not isinstance(some_scores, Tensor) or not some_scores.is_floating_point():
            raise TypeError(f"scores: got {some_scores!r}, want a floating point tensor")
        if some_indices.dim() != 1 or some_scores.shape != some_indices.shape:
            raise ValueError(
                f"scores: got shape {tuple(some_scores.shape)} for indices {tuple(some_indices.shape)}, "
                "want (n,) of both"
            )
        indices.append(some_indices)
        scores.append(some_scores.detach())
    if not indices:
        return torch.empty(0, dtype=torch.int64, device="cpu"), torch.empty(0, device="cpu")
    return torch.cat(indices).cpu(), torch.cat(scores).cpu()


def _statistics(network: nn.Module) -> Iterator[Tensor]:
    """What training writes beside parameters: floating point buffers that are saved with the network."""
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and name not in module._non_persistent_buffers_set:
                yield buffer


@contextmanager
def _statistics_of_rank_0(mine: list[Tensor]) -> Iterator[None]:
    own = [buffer.clone() for buffer in mine]
    carried: list[Any] = [[buffer.cpu() for buffer in mine]]
    dist.broadcast_object_list(carried, src=0)
    try:
        _write(mine, carried[0])
        yield
    finally:
        _write(mine, own)


def _write(buffers: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)


@contextmanager
def _without_broadcasts(networks: list[nn.Module]) -> Iterator[None]:
    """Calls of a DistributedDataParallel that wait for no other rank, which may call it another number of times."""
    wrapped = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, DistributedDataParallel)
    ]
    before = [(each.broadcast_buffers, each.require_forward_param_sync) for each in wrapped]
    try:
        for each in wrapped:
            each.broadcast_buffers = False
        yield
    finally:
        for each, (buffers, parameters) in zip(wrapped, before, strict=True):
            each.broadcast_buffers = buffers
            each.require_forward_param_sync = parameters
