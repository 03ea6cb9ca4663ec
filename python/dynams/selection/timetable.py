"""The timetable of selections: phases, blocks of epochs that share a selection, and budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynams.selection.schedule import BudgetCurve, Schedule, check_budget
from dynams.selection.strategy import progress_at, refresh_block, selection_size

Phase = Literal["warm-up", "selected", "tail"]


@dataclass(frozen=True)
class Timetable:
    """When a selection is due and how large it is: functions of the epoch alone.

    Attributes:
        num_samples: N.
        schedule: of the budget, over the epochs between warm-up and tail.
        budgeted: False: the strategy decides itself how many to keep.
        epochs: length of the whole training; needed by a budget that varies and by a tail.
        refresh_every: Q, epochs that train on one selection.
        warmup_epochs: first epochs, on all samples.
        tail: fraction of the epochs, at the end, on all samples.

    Raises:
        ValueError: a value out of range, or a budget that varies, or a tail, without `epochs`.
    """

    num_samples: int
    schedule: Schedule
    budgeted: bool = True
    epochs: int | None = None
    refresh_every: int = 1
    warmup_epochs: int = 0
    tail: float = 0.0

    def __post_init__(self) -> None:
        for setting, value, least in (
            ("num_samples", self.num_samples, 1),
            ("epochs", 1 if self.epochs is None else self.epochs, 1),
            ("refresh_every", self.refresh_every, 1),
            ("warmup_epochs", self.warmup_epochs, 0),
        ):
            if value < least:
                raise ValueError(f"{setting} must be at least {least}, got {value}")
        if not 0.0 <= self.tail < 1.0:
            raise ValueError(f"tail must be a fraction of the epochs in [0, 1), got {self.tail!r}")
        if self.tail and self.epochs is None:
            raise ValueError(f"epochs must be given with a tail, {self.tail!r}")
        schedule = self.schedule
        steady = isinstance(schedule, BudgetCurve) and schedule.start == schedule.end
        if self.epochs is None and not steady:
            raise ValueError(f"epochs must be given with a budget that varies, {schedule!r}")

    @property
    def tail_epochs(self) -> int:
        """Epochs of the tail: the fraction to the nearest number."""
        return 0 if self.epochs is None else int(self.tail * self.epochs + 0.5)

    def phase(self, epoch: int) -> Phase:
        """Tell whether `epoch` is of the warm-up, the tail, or trains on a selection."""
        if epoch < self.warmup_epochs:
            return "warm-up"
        if self.epochs is not None and epoch >= self.epochs - self.tail_epochs:
            return "tail"
        return "selected"

    def block(self, epoch: int) -> int | None:
        """Return the number of the block of epochs that share a selection; None outside selections."""
        if self.phase(epoch) != "selected":
            return None
        return refresh_block(
            epoch, warmup_epochs=self.warmup_epochs, refresh_every=self.refresh_every
        )

    def progress(self, epoch: int) -> float:
        """Return how far `epoch` is through the epochs that select, in [0, 1]."""
        if self.epochs is None:
            return 1.0
        return progress_at(
            epoch, warmup_epochs=self.warmup_epochs, epochs=self.epochs - self.tail_epochs
        )

    def budget(self, epoch: int) -> float:
        """Return the budget of a selection made for `epoch`; 1.0 where nothing or the strategy decides.

        Raises:
            ValueError: a foreign schedule gave a budget outside (0, 1].
        """
        if not self.budgeted or self.phase(epoch) != "selected":
            return 1.0
        return check_budget(self.schedule(self.progress(epoch)), f"the budget of {self.schedule!r}")

    def size(self, epoch: int) -> int:
        """Count the samples of a selection made for `epoch`."""
        return selection_size(self.num_samples, self.budget(epoch))

    def planned_size(self, epoch: int) -> int:
        """Count the samples that `epoch` is to train on: where the strategy decides, at most."""
        block = self.block(epoch)
        return self.size(
            epoch if block is None else self.warmup_epochs + block * self.refresh_every
        )
