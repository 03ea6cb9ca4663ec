"""What one rank takes of an order: shares of a sampler's epoch for training, of all samples for scoring.

A share of an epoch keeps no position: each of its iterators deals what is left of the sampler's order among the
ranks, sample by sample, so that the steps of all ranks together walk that order in stretches. Whatever the
number of ranks was before, a resumed epoch goes on right.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from dynams.checks import whole
from dynams.selection.ranks import of_world
from dynams.selection.timetable import epoch_steps

Item = TypeVar("Item")


class Walked(Protocol):
    """What a share asks of the sampler that it is of."""

    @property
    def consumed(self) -> int:
        """Samples of the epoch that were trained on."""

    def __len__(self) -> int:
        """Count the samples of the epoch."""

    def walk(self, deal: Callable[[Tensor], Sequence[Item]], least: int = 1) -> Iterator[Item]:
        """Walk what `deal` makes of the rest of the order."""

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""

    def advance(self, samples: int) -> None:
        """Count samples as trained on."""


class _Share(Sampler[Item]):
    def __init__(self, sampler: Walked, rank: int, world: int) -> None:
        super().__init__()
        self.sampler = sampler
        self.world = whole("world", world, 1)
        self.rank = whole("rank", rank, 0, self.world - 1)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` in the sampler."""
        self.sampler.set_epoch(epoch)


class SamplerShare(_Share[int]):
    """One rank's samples of an epoch, as many as every other rank's; made by `SubsetSampler.shard`.

    The last samples of an order that cannot be dealt evenly, fewer than ranks, are left out of this epoch.

    Attributes:
        sampler: whose order is dealt.
        rank: from 0.
        world: how many ranks there are.
    """

    def __len__(self) -> int:
        """Return how many the current epoch gives this rank, also where a resumed one has fewer left.

        Raises:
            ValueError: the epoch has fewer samples than ranks.
        """
        return epoch_steps(len(self.sampler), 1, world=self.world)

    def __iter__(self) -> Iterator[int]:
        """Walk this rank's share of the epoch, or, resumed, of what is left of it; as the sampler's own iterators.

        Raises:
            ValueError: the epoch has fewer samples than ranks; or as the sampler's.
        """
        return self.sampler.walk(self._dealt, self.world)

    def _dealt(self, rest: Tensor) -> list[int]:
        len(self)  # refuses an epoch of fewer samples than ranks
        each = len(rest) // self.world
        return rest[: each * self.world][self.rank :: self.world].tolist()


class BatchShare(_Share[list[int]]):
    """One rank's batches of an epoch, as many as every other rank's; made by `SubsetSampler.shard`.

    Every sample of the epoch is in one batch of one rank: batches of `batch_size`, then one of what is left,
    dealt as evenly as can be. Fewer left than ranks join the batches before: one more on the first ranks.
    A resumed epoch of which fewer are left than ranks leaves those out, with a warning.

    Attributes:
        sampler: whose order is dealt.
        rank: from 0.
        world: how many ranks there are.
        batch_size: of each rank.
        drop_last: only full batches, and the rest of the epoch left out.
    """

    def __init__(
        self, sampler: Walked, rank: int, world: int, batch_size: int, drop_last: bool = False
    ) -> None:
        super().__init__(sampler, rank, world)
        self.batch_size = whole("batch_size", batch_size, 1)
        self.drop_last = drop_last

    def advance(self) -> None:
        """Count one step of all ranks in the sampler, with the size that it has: the last one's differs.

        Raises:
            ValueError: all of the epoch was trained on.
            RuntimeError: no epoch was begun.
        """
        left = len(self.sampler) - self.sampler.consumed
        last = 0 < left < self._step + self.world and not self.drop_last
        self.sampler.advance(left if last else self._step)

    def __len__(self) -> int:
        """Return how many the current epoch gives each rank, also where a resumed one has fewer left.

        Raises:
            ValueError: the epoch has fewer samples than ranks.
        """
        return self._count(len(self.sampler))

    def __iter__(self) -> Iterator[list[int]]:
        """Walk this rank's batches of the epoch, or, resumed, of what is left of it; as the sampler's own iterators.

        Raises:
            ValueError: the epoch has fewer samples than ranks; or as the sampler's.
        """
        return self.sampler.walk(self._dealt, self._step if self.drop_last else self.world)

    @property
    def _step(self) -> int:
        """Samples of a full step of all ranks."""
        return self.batch_size * self.world

    def _count(self, samples: int) -> int:
        return epoch_steps(samples, self.batch_size, world=self.world, drop_last=self.drop_last)

    def _dealt(self, rest: Tensor) -> list[list[int]]:
        if 0 < len(rest) < min(self.world, len(self.sampler)) and not self.drop_last:
            warnings.warn(
                f"world: got {self.world}, want at most {len(rest)}, the samples left of the resumed epoch: "
                "they are left out",
                stacklevel=4,
            )
            return []
        steps = self._count(len(rest))
        full = steps if self.drop_last else max(steps - 1, 0)
        # Of this rank's samples alone: numbers of Python's take many times the memory of a tensor's.
        batches = rest[: full * self._step].view(full, self.batch_size, self.world)
        dealt: list[list[int]] = batches[:, :, self.rank].tolist()
        if steps > full:
            dealt.append(rest[full * self._step :][self.rank :: self.world].tolist())
        return dealt


class RankShard(Sampler[int]):
    """One rank's part of all samples, for a loader that `score_batches` scores: a contiguous one, ascending.

    Parts differ by one sample at most, and some are empty where there are fewer samples than ranks.

        scoring = DataLoader(plain, batch_size=1000, sampler=RankShard(len(plain)))
        sampler = SubsetSampler(len(plain), score=lambda: score_batches(model, scoring))

    Args:
        num_samples: of all ranks together.
        rank: from 0; None: that in the default process group, when it is asked for; 0 where there is none.
        world: how many ranks there are; given with `rank`, or None with it.

    Raises:
        ValueError: an argument out of range, or one of `rank` and `world` without the other.
    """

    def __init__(self, num_samples: int, rank: int | None = None, world: int | None = None) -> None:
        super().__init__()
        self.num_samples = whole("num_samples", num_samples, 1)
        if (rank is None) != (world is None):
            name, other = ("rank", "world") if rank is None else ("world", "rank")
            raise ValueError(f"{name}: got None beside {other}, want both or none of them")
        self._world = None if world is None else whole("world", world, 1)
        self._rank = (
            None if rank is None or self._world is None else whole("rank", rank, 0, self._world - 1)
        )

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return of_world() if self._world is None else self._world

    @property
    def rank(self) -> int:
        """Which of them this one is."""
        if self._rank is not None:
            return self._rank
        return dist.get_rank() if self.world > 1 else 0

    @property
    def part(self) -> range:
        """The samples of this rank."""
        rank, world, size = self.rank, self.world, self.num_samples
        return range(rank * size // world, (rank + 1) * size // world)

    def __len__(self) -> int:
        """Return how many this rank's samples are."""
        return len(self.part)

    def __iter__(self) -> Iterator[int]:
        """Walk this rank's samples, ascending."""
        return iter(self.part)
