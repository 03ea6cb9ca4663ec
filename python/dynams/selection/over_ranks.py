"""Selection over the ranks by scores that each holds a part of: exact, and the same on all of them.

`dynams_kernels.distributed.smallest_k` tells each rank which samples of its part are selected, without gathering scores;
then every rank gets those of all as bits, N / 8 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor

import dynams_kernels as dk
from dynams.selection.methods.interface import Around, Selection, Strategy
from dynams.selection.methods.ranked import Ranked
from dynams.selection.ranks import check_told_alike, of_world, told_by_all
from dynams.selection.sampler_checks import strategy_name
from dynams.selection.shares import RankShard
from dynams.selection.signals import Signals

_BITS = 8


@dataclass(frozen=True)
class OverRanks(Around):
    """A strategy that ranks by one score, selecting over all ranks by the signals that each has of its part.

    Attributes:
        strategy: what ranks.
        num_samples: N, of all ranks together.

    Raises:
        ValueError: something else than the scores, and the index where they are equal, decides.
    """

    strategy: Ranked
    num_samples: int

    def __post_init__(self) -> None:
        given: Any = self.strategy
        if not isinstance(given, Ranked) or not given.is_plain_ranking:
            raise ValueError(
                f"sharded: got True with {strategy_name(given)}, want a strategy that ranks by one score, equal ones "
                "by index (margin, loss, el2n, entropy...), or sharded=False, where every rank holds all scores"
            )

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Keep the `size` extreme samples of all ranks, which come here together; see `Strategy.select`."""
        facts = {"num_samples": self.num_samples, "strategy": strategy_name(self.strategy)}
        facts |= {"epoch": epoch, "size": size}
        check_told_alike(told_by_all("select", lambda: facts))
        chosen = dk.distributed.smallest_k(_carried(self.strategy.ranking(signals)), size)
        return Selection(_of_all_ranks(chosen.indices, self.num_samples))


def over_ranks(strategy: Strategy, num_samples: int) -> Strategy:
    """Let a strategy select over the ranks; see `OverRanks`, and for what it refuses."""
    ranked: Any = strategy
    return OverRanks(ranked, num_samples)


def _carried(values: Tensor) -> Tensor:
    """Values on a device whose tensors the process group exchanges, wherever the sampler keeps its own."""
    backend = dist.get_backend() if of_world() > 1 else ""
    if backend == "nccl":
        return values.cuda()
    return values.cpu() if backend == "gloo" else values


def _of_all_ranks(mine: Tensor, num_samples: int) -> Tensor:
    """Give every rank the indices that each of them has of its part: all (k,) int64, ascending."""
    world = of_world()
    if world == 1:
        return mine
    parts = [RankShard(num_samples, rank, world).part for rank in range(world)]
    part = parts[dist.get_rank()]
    packed = _packed(mine - part.start, -(-max(map(len, parts)) // _BITS))
    told = [torch.empty_like(packed) for _ in parts]
    dist.all_gather(told, packed)
    return torch.cat([_places(bits) + each.start for bits, each in zip(told, parts, strict=True)])


def _packed(places: Tensor, size: int) -> Tensor:
    """One bit for each place, of eight in a byte the lowest first: (size,) uint8."""
    chosen = torch.zeros(size, _BITS, dtype=torch.uint8, device=places.device)
    chosen.view(-1)[places] = 1
    weights = 2 ** torch.arange(_BITS, dtype=torch.uint8, device=places.device)
    return (chosen * weights).sum(1, dtype=torch.uint8)


def _places(packed: Tensor) -> Tensor:
    weights = 2 ** torch.arange(_BITS, dtype=torch.uint8, device=packed.device)
    return packed[:, None].bitwise_and(weights).view(-1).nonzero().flatten()
