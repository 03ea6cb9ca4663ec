"""Refreshes: when scores are asked for, and what an epoch's beginning makes of a selection. Nothing is changed here.

`Refresher.begun` scores, selects and checks, and returns what is to hold from then on; the sampler puts that
in place of what it had. Whatever fails on the way therefore changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dynams.selection.draws import selection_generator
from dynams.selection.kept_scores import KeptScores, Pairs
from dynams.selection.methods.interface import Selection, Strategy
from dynams.selection.methods.uniform import Full
from dynams.selection.sampler_checks import check_selection
from dynams.selection.signals import Signals
from dynams.selection.timetable import Timetable

Score = Callable[[], "Signals | Pairs"]


@dataclass(frozen=True, eq=False)
class Refresh:
    """A change of the selection.

    Attributes:
        epoch: the first epoch that trains on it.
        indices: (k,) int64 ascending, on the sampler's device; not to be written to.
        margins: (num_samples,) float32 copy of all margins, of a sharded sampler those of this rank's part; -inf
            where a sample was never scored; all -inf with a strategy that knows no margins.
        threshold: the largest margin selected; NaN without margins or where a NaN was selected.
        overlap: the fraction of it that the previous selection held; None for the first one.
        weights: (k,) float32 of the samples' losses; None: all 1.
    """

    epoch: int
    indices: Tensor
    margins: Tensor
    threshold: float
    overlap: float | None
    weights: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Current:
    """What an epoch trains on, and what later epochs are selected from.

    Attributes:
        epoch: the epoch begun last; None before the first.
        selected_at: the epoch that the selection was made for; None: there was none yet.
        indices: (k,) int64 ascending, the selection.
        weights: (k,) float32 of its losses; None: all 1.
        scores: one number a sample for each score.
        start: place in the epoch's order at which every walk of it starts.
    """

    epoch: int | None
    selected_at: int | None
    indices: Tensor
    weights: Tensor | None
    scores: KeptScores
    start: int = 0

    @property
    def size(self) -> int:
        """How many samples are selected."""
        return self.indices.shape[0]

    @property
    def facts(self) -> dict[str, int | Tensor | None]:
        """What every rank of a training must have the same of, to walk the same order from the same place."""
        return {
            "epoch": self.epoch,
            "consumed": self.start,
            "selection": self.indices,
            "weights": self.weights,
        }


@dataclass(frozen=True, eq=False)
class Refresher:
    """Makes refreshes where they are due.

    Attributes:
        num_samples: N.
        strategy: what selects.
        timetable: when selections are due and how large they are.
        dynamic: whether it selects again at every refresh.
        seed: of random draws.
        device: where selections live.
    """

    num_samples: int
    strategy: Strategy
    timetable: Timetable
    dynamic: bool
    seed: int
    device: torch.device

    def wanted(self, current: Current, epoch: int) -> frozenset[str]:
        """Return the names of the scores and signals that the beginning of `epoch` asks for."""
        if not self._new_block(current, epoch):
            return frozenset()
        if self.dynamic or current.selected_at is None:
            return self.strategy.needs
        kept = current.scores.complete or self._size(epoch) == current.size
        return frozenset() if kept else self.strategy.needs

    def wanted_after(self, current: Current, epoch: int) -> bool:
        """Tell whether the beginning of an epoch after `epoch`, the current one, will ask for any."""
        times = self.timetable
        if times.epochs is None or not self.strategy.needs:
            return bool(self.strategy.needs)
        later = [each for each in range(epoch + 1, times.epochs) if times.block(each) is not None]
        if self.dynamic or current.selected_at is None:
            return any(times.block(each) != times.block(epoch) for each in later)
        sizes = (times.planned_size(each, self.num_samples) for each in later)
        return not current.scores.complete and any(size != current.size for size in sizes)

    def begun(
        self, current: Current, epoch: int, score: Score | None
    ) -> tuple[Current, Refresh | None]:
        """Return what holds once `epoch`, a later one, has begun, and the refresh where there is one.

        Raises:
            ValueError, TypeError: there is no `score` where one is due, it gave what does not fit, or the
                schedule or the strategy gave what they may not.
        """
        scores, selection = self._select(current, epoch, score)
        selected_at = epoch if self._new_block(current, epoch) else current.selected_at
        if selection is None:
            return Current(epoch, selected_at, current.indices, current.weights, scores), None
        refresh = self._refresh(current, epoch, selection, scores)
        return Current(epoch, selected_at, refresh.indices, refresh.weights, scores), refresh

    def _size(self, epoch: int) -> int:
        # Of the block's first epoch, also where that was skipped: as long as what was planned.
        return self.timetable.planned_size(epoch, self.num_samples)

    def _new_block(self, current: Current, epoch: int) -> bool:
        """Whether `epoch` is of another block than the one selected for, if any."""
        block, at = self.timetable.block(epoch), current.selected_at
        return block is not None and (at is None or block != self.timetable.block(at))

    def _select(
        self, current: Current, epoch: int, score: Score | None
    ) -> tuple[KeptScores, Selection | None]:
        """The scores, and the selection or None where the old one stays."""
        scores = current.scores
        if isinstance(self.strategy, Full):
            return scores, None
        if self.timetable.phase(epoch) == "tail":
            if current.size == self.num_samples and current.weights is None:
                return scores, None
            return scores, Selection(torch.arange(self.num_samples, device=self.device))
        if not self._new_block(current, epoch):
            return scores, None
        # Before anything is scored: a schedule may be refused.
        size = self._size(epoch)
        again = self.dynamic or current.selected_at is None
        if not again and not (self.strategy.budgeted and size != current.size):
            return scores, None
        if not self.wanted(current, epoch):
            signals = scores.signals()
        elif score is None:
            raise ValueError(
                f"score: got None, want a function that gives scores: epoch {epoch} starts with a refresh"
            )
        else:
            scores, signals = scores.updated(score())
        block = self.timetable.block(epoch) if self.dynamic else 0
        assert block is not None
        selection = self.strategy.select(
            signals,
            size,
            epoch=epoch,
            progress=self.timetable.progress(epoch),
            generator=selection_generator(self.seed, block),
        )
        check_selection(selection, self.strategy, self.num_samples)
        return scores, selection

    def _refresh(
        self, current: Current, epoch: int, selection: Selection, scores: KeptScores
    ) -> Refresh:
        indices, margins = selection.indices.to(self.device), scores.margins
        threshold, overlap = float("nan"), None
        if self.timetable.phase(epoch) == "selected" and scores.margin is not None:
            threshold = scores.largest_margin(indices)
        if current.selected_at is not None:
            known = torch.zeros(self.num_samples, dtype=torch.bool, device=self.device)
            known[current.indices] = True
            overlap = float(known[indices].double().mean())
        return Refresh(epoch, indices, margins, threshold, overlap, selection.weights)
