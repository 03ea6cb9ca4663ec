"""The timetable of a training: phases, blocks of epochs that share a selection, budgets and sizes.

Whatever needs to know when a selection is due or how large it is asks here: the sampler, predictions of
cost, comparisons. Everything is a function of the epoch and of the number of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dynams.checks import number, whole
from dynams.selection.schedule import BudgetCurve, Schedule

Phase = Literal["warm-up", "selected", "tail"]


def selection_size(num_samples: int, budget: float) -> int:
    """Count the samples that `budget` keeps: budget * num_samples to the nearest, at least 1.

    Raises:
        ValueError: `num_samples` is not positive, or `budget` is outside (0, 1].
    """
    num_samples, budget = whole("num_samples", num_samples, 1), number("budget", budget, "(0, 1]")
    return max(1, min(num_samples, math.floor(num_samples * budget + 0.5)))


def epoch_steps(size: int, batch_size: int, *, world: int = 1, drop_last: bool = False) -> int:
    """Count the steps of an epoch of `size` samples on `world` ranks, equally many on each.

    What is left after the full batches makes a smaller one, or joins the last where it is fewer than the ranks.

    Raises:
        ValueError: there are fewer samples than ranks, or `batch_size` or `world` is not positive.
    """
    size, world = whole("size", size, 0), whole("world", world, 1)
    full, left = divmod(size, whole("batch_size", batch_size, 1) * world)
    if drop_last:
        return full
    if 0 < size < world:
        raise ValueError(f"world: got {world}, want at most {size}, the samples of the epoch")
    return full + (left >= world)


@dataclass(frozen=True)
class Timetable:
    """When a selection is due and how large it is.

    Attributes:
        schedule: of the budget, over the epochs between warm-up and tail.
        budgeted: False: the strategy decides itself how many to keep.
        epochs: length of the whole training; needed by a budget that varies and by a tail.
        refresh_every: Q, epochs that train on one selection.
        warmup_epochs: first epochs, on all samples.
        tail: fraction of the epochs, at the end, on all samples.
        epoch_length: samples that every epoch walks, whatever is selected; None: what is selected, once.

    Raises:
        ValueError: a value out of range, or a budget that varies, or a tail, without `epochs`.
        TypeError: a value is no number.
    """

    schedule: Schedule
    budgeted: bool = True
    epochs: int | None = None
    refresh_every: int = 1
    warmup_epochs: int = 0
    tail: float = 0.0
    epoch_length: int | None = None

    def __post_init__(self) -> None:
        bounds = {"epochs": 1, "refresh_every": 1, "warmup_epochs": 0, "epoch_length": 1}
        for name, least in bounds.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value, least))
        object.__setattr__(self, "tail", number("tail", self.tail, "[0, 1)"))
        schedule = self.schedule
        steady = isinstance(schedule, BudgetCurve) and schedule.start == schedule.end
        if self.epochs is None and (self.tail or not steady):
            needing = f"with tail={self.tail!r}" if self.tail else f"with budget={schedule!r}"
            raise ValueError(f"epochs: got None {needing}, want the length of the training")

    @property
    def tail_epochs(self) -> int:
        """Epochs of the tail: the fraction to the nearest number."""
        return 0 if self.epochs is None else int(self.tail * self.epochs + 0.5)

    @property
    def selected_epochs(self) -> int:
        """Epochs between warm-up and tail.

        Raises:
            ValueError: the number of epochs is not known.
        """
        return max(0, self._length - self.tail_epochs - self.warmup_epochs)

    @property
    def refreshes(self) -> list[int]:
        """The epochs that begin a block of epochs that share a selection, ascending.

        Raises:
            ValueError: the number of epochs is not known.
        """
        return [
            epoch
            for epoch in range(self.warmup_epochs, self._length, self.refresh_every)
            if self.phase(epoch) == "selected"
        ]

    def phase(self, epoch: int) -> Phase:
        """Tell whether `epoch` is of the warm-up, the tail, or trains on a selection."""
        if epoch < self.warmup_epochs:
            return "warm-up"
        if self.epochs is not None and epoch >= self.epochs - self.tail_epochs:
            return "tail"
        return "selected"

    def block(self, epoch: int) -> int | None:
        """Return the number of the block of epochs that share a selection; None outside selections.

        Block b is made of the `refresh_every` epochs from warmup_epochs + b * refresh_every on; a
        refresh is due where the block changes.
        """
        if self.phase(epoch) != "selected":
            return None
        return (epoch - self.warmup_epochs) // self.refresh_every

    def progress(self, epoch: int) -> float:
        """Return how far `epoch` is through the epochs that select.

        The first of them is at 0, the last one at 1; a single one is at 1. Where their number is not known all
        are at 0: an end that nobody knows of is never near.
        """
        if self.epochs is None:
            return 0.0
        last = self.epochs - self.tail_epochs - 1 - self.warmup_epochs
        if last <= 0:
            return 1.0
        return min(1.0, max(0.0, (epoch - self.warmup_epochs) / last))

    def budget(self, epoch: int) -> float:
        """Return the schedule's budget at `epoch`; 1.0 where nothing or the strategy decides.

        Raises:
            ValueError, TypeError: a foreign schedule gave no number in (0, 1].
        """
        if not self.budgeted or self.phase(epoch) != "selected":
            return 1.0
        budget = self.schedule(self.progress(epoch))
        return number(f"the budget of {self.schedule!r}", budget, "(0, 1]")

    def planned_budget(self, epoch: int) -> float:
        """Return the budget that `epoch` trains with: that of the epoch that began its block."""
        block = self.block(epoch)
        return self.budget(
            epoch if block is None else self.warmup_epochs + block * self.refresh_every
        )

    def planned_size(self, epoch: int, num_samples: int) -> int:
        """Count the samples to select for `epoch`: where the strategy decides, at most."""
        return selection_size(num_samples, self.planned_budget(epoch))

    def planned_sizes(self, num_samples: int) -> list[int]:
        """Count the samples that each epoch of the training walks, at most.

        Raises:
            ValueError: the number of epochs is not known.
        """
        return [self.walked(self.planned_size(epoch, num_samples)) for epoch in range(self._length)]

    def walked(self, selected: int) -> int:
        """Count the samples that an epoch with so many selected walks."""
        return selected if self.epoch_length is None else self.epoch_length

    def total_steps(
        self, num_samples: int, batch_size: int, *, drop_last: bool = False, world: int = 1
    ) -> int:
        """Count the steps of the whole training, at most; see `epoch_steps`.

        Raises:
            ValueError: the number of epochs is not known, an epoch has fewer samples than ranks, or
                `batch_size` or `world` is not positive.
        """
        return sum(
            epoch_steps(size, batch_size, world=world, drop_last=drop_last)
            for size in self.planned_sizes(num_samples)
        )

    @property
    def _length(self) -> int:
        if self.epochs is None:
            raise ValueError("epochs: got None, want the length of the training")
        return self.epochs
