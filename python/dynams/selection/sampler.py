"""The sampler of any strategy: the subset that an epoch trains on, its order, and where in it training is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

import dynams_kernels as dk
from dynams.checks import at_least
from dynams.selection.checks import check_state
from dynams.selection.draws import epoch_order, selection_generator
from dynams.selection.schedule import Schedule, constant
from dynams.selection.strategies.base import TENSORS, VALIDATION, Selection, Signals, Strategy
from dynams.selection.strategies.margin import MARGINS
from dynams.selection.strategies.uniform import Full
from dynams.selection.timetable import Phase, Timetable


@dataclass(frozen=True, eq=False)
class Refresh:
    """A change of the selection.

    Attributes:
        epoch: the first epoch that trains on it.
        indices: (k,) int64 ascending, on the sampler's device; not to be written to.
        margins: (num_samples,) float32 copy of all margins, -inf where a sample was never scored; all
            -inf with a strategy that knows no margins.
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


class SubsetSampler(Sampler[int]):
    """Samples that a strategy selects, chosen again every few epochs, in a reproducible order.

    A dynamic strategy selects at every refresh; a static one at the first refresh, and again from the
    scores of then only where a schedule changes the budget. During the warm-up, and in the tail at the
    end, all samples are trained on. Scores (one number a sample) of the last refresh are kept, in a
    `dynams_kernels.MarginSelector` each; features and residuals are not.

    With several processes each holds the same sampler and must be given the same signals; sharding the
    order among ranks is the caller's.

    Args:
        num_samples: N; indices are 0 to N - 1.
        strategy: what selects; `with_switches` included.
        budget: fraction of the samples to keep, or a schedule of it. The default is the authors'.
        epochs: length of the whole training, warm-up and tail included; needed by a budget that varies
            and by a tail.
        refresh_every: Q, epochs that train on one selection.
        warmup_epochs: first epochs, on all samples.
        tail: fraction of the epochs, at the end, on all samples.
        dynamic: select again at every refresh; None: as the strategy was published.
        shuffle: permute every epoch; otherwise the order is ascending.
        seed: of permutations and random draws; nothing else decides them but the epoch.
        device: where scores and selection live.
        name: what the strategy is called in a state; None: its repr.

    Attributes:
        num_samples: N.
        strategy: as given.
        timetable: when selections are due and how large they are.
        dynamic: whether it selects again at every refresh.

    Raises:
        ValueError: an argument out of range, or a budget that varies, or a tail, without `epochs`.
    """

    def __init__(
        self,
        num_samples: int,
        strategy: Strategy,
        *,
        budget: float | Schedule = 0.6,
        epochs: int | None = None,
        refresh_every: int = 1,
        warmup_epochs: int = 0,
        tail: float = 0.0,
        dynamic: bool | None = None,
        shuffle: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
        name: str | None = None,
    ) -> None:
        super().__init__()
        at_least("num_samples", num_samples, 1)
        self.timetable = Timetable(
            budget if isinstance(budget, Schedule) else constant(budget),
            strategy.budgeted,
            epochs,
            refresh_every,
            warmup_epochs,
            tail,
        )
        self.num_samples = num_samples
        self.strategy = strategy
        self.dynamic = strategy.dynamic if dynamic is None else dynamic
        self.shuffle = shuffle
        self.seed = seed
        self._name = repr(strategy) if name is None else name
        self._scores = {
            score: dk.MarginSelector(num_samples, device=device)
            for score in sorted(strategy.needs)
            if score not in TENSORS and not score.startswith(VALIDATION)
        }
        self._indices = torch.arange(num_samples, device=device)
        self._weights: Tensor | None = None
        self._selected_at: int | None = None
        self._epoch: int | None = None
        self._consumed = 0
        self._resume_at = 0

    @property
    def indices(self) -> Tensor:
        """The current selection: (k,) int64 ascending, on the sampler's device; not to be written to."""
        return self._indices

    @property
    def weights(self) -> Tensor | None:
        """Weights (k,) float32 of the selection's losses, in the order of `indices`; None: all 1."""
        return self._weights

    @property
    def margins(self) -> Tensor:
        """A copy of all margins (num_samples,) float32; -inf where never scored, or nothing scores them."""
        kind = next((kind for kind in MARGINS if kind in self._scores), None)
        if kind is not None:
            return self._scores[kind].margins
        return torch.full((self.num_samples,), -torch.inf, device=self._indices.device)

    @property
    def epoch(self) -> int | None:
        """The epoch begun last; None before the first."""
        return self._epoch

    @property
    def consumed(self) -> int:
        """Samples of this epoch's order that were iterated, or were trained on before a resume."""
        return self._consumed

    def phase(self, epoch: int) -> Phase:
        """Tell whether `epoch` is of the warm-up, the tail, or trains on a selection."""
        return self.timetable.phase(epoch)

    def budget_at(self, epoch: int) -> float:
        """Return the budget that a selection made for `epoch` has.

        It is 1.0 in the warm-up, in the tail, and with a strategy that decides itself how many to keep.

        Raises:
            ValueError: a foreign schedule gave a budget outside (0, 1].
        """
        return self.timetable.budget(epoch)

    def planned_size(self, epoch: int) -> int:
        """Count the samples that `epoch` is to train on: where the strategy decides, at most."""
        return self.timetable.planned_size(epoch, self.num_samples)

    def wanted(self, epoch: int) -> frozenset[str]:
        """Return the names of the signals that `begin_epoch(epoch)` asks for; empty: none."""
        if not self._new_block(epoch):
            return frozenset()
        if self.dynamic or self._selected_at is None:
            return self.strategy.needs
        kept = self._reusable or self.timetable.size(epoch, self.num_samples) == len(self)
        return frozenset() if kept else self.strategy.needs

    def due(self, epoch: int) -> bool:
        """Tell whether `epoch` starts with a refresh that needs signals."""
        return bool(self.wanted(epoch))

    def wanted_after(self, epoch: int) -> bool:
        """Tell whether a refresh of an epoch after `epoch`, the current one, will ask for signals."""
        times = self.timetable
        if times.epochs is None or not self.strategy.needs:
            return bool(self.strategy.needs)
        later = [each for each in range(epoch + 1, times.epochs) if times.block(each) is not None]
        if self.dynamic or self._selected_at is None:
            return any(times.block(each) != times.block(epoch) for each in later)
        return not self._reusable and any(self.planned_size(each) != len(self) for each in later)

    def begin_epoch(
        self, epoch: int, signals: Callable[[], Signals] | None = None
    ) -> Refresh | None:
        """Make `epoch` the current one, with a new selection if one is due.

        A second call for the current epoch changes nothing, so a resumed loop may call it again.
        Epochs may be skipped, not gone back to. If anything is refused, or `signals` fails, the
        sampler stays as it was.

        Args:
            epoch: from 0.
            signals: called where `due(epoch)`; gives what `wanted(epoch)` names, of all samples.

        Returns:
            What changed, or None if the selection did not.

        Raises:
            ValueError: `epoch` lies before the current one, or `signals` is missing where it is due, of
                another number of samples, or lacks something.
        """
        if signals is None:
            return self._begin(epoch, None)
        return self._begin(epoch, lambda wanted: self._take(wanted, signals()))

    def _begin(
        self, epoch: int, take: Callable[[frozenset[str]], Signals] | None
    ) -> Refresh | None:
        """`begin_epoch`, where `take` gets what is wanted, keeps its scores and gives the rest."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if self._epoch is not None and epoch < self._epoch:
            raise ValueError(
                f"epoch must not lie before the current one, {self._epoch}; got {epoch}. "
                "To go back, load a state or make a new sampler"
            )
        if epoch == self._epoch:
            return None
        selection = self._select(epoch, take)
        refresh = None
        if selection is not None:
            refresh = self._refresh(epoch, selection)
            self._indices, self._weights = refresh.indices, refresh.weights
        if self._new_block(epoch):
            self._selected_at = epoch
        self._epoch = epoch
        self._consumed = self._resume_at = 0
        return refresh

    def order(self) -> Tensor:
        """Return the current epoch's whole order: (k,) int64 on the sampler's device.

        Raises:
            RuntimeError: no epoch was begun.
        """
        return self._ordered(self._indices)

    def order_weights(self) -> Tensor | None:
        """Return the weights of `order()`'s samples: (k,) float32; None: all 1.

        Raises:
            RuntimeError: no epoch was begun.
        """
        return None if self._weights is None else self._ordered(self._weights)

    def __len__(self) -> int:
        """Return the size of the selection, also where a resumed epoch has fewer left."""
        return self._indices.shape[0]

    def __iter__(self) -> Iterator[int]:
        """Walk the epoch's order; the first walk after `load_state_dict` starts where that was.

        Raises:
            RuntimeError: no epoch was begun.
        """
        order = self.order()
        start, self._resume_at = self._resume_at, 0
        self._consumed = start
        return self._walk(order[start:].tolist(), start)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return all that an exact resume needs, as copies: tensors, numbers and strings.

        Args:
            consumed: samples of this epoch's order already trained on. None: as many as were
                iterated, which is more than were trained on where DataLoader workers read ahead.

        Raises:
            ValueError: `consumed` is not in [0, len(self)].
        """
        consumed = self._consumed if consumed is None else consumed
        if not 0 <= consumed <= len(self):
            raise ValueError(f"consumed must be in [0, {len(self)}], got {consumed}")
        return {
            **self._identity(),
            "epoch": self._epoch,
            "selected_at": self._selected_at,
            "consumed": consumed,
            "indices": self._indices.clone(),
            "weights": None if self._weights is None else self._weights.clone(),
            "scores": {name: scores.state_dict() for name, scores in self._scores.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state: the same selection, order and place in it.

        Budget and `refresh_every` may differ from those of the sampler that made the state: they
        decide later epochs only.

        Raises:
            ValueError: it lacks an entry, or is of another number of samples, seed, strategy,
                warm-up, tail or shuffling; nothing is changed then.
            TypeError: its indices are no int64 tensor.
        """
        check_state(state, self._identity(), self._scores, self.num_samples)
        indices, weights = state["indices"], state["weights"]
        for name, scores in self._scores.items():
            scores.load_state_dict(state["scores"][name])
        device = self._indices.device
        self._indices = indices.to(device, copy=True)
        self._weights = None if weights is None else weights.to(device, copy=True)
        self._epoch, self._selected_at = state["epoch"], state["selected_at"]
        self._consumed = self._resume_at = state["consumed"]

    @property
    def _device(self) -> torch.device:
        return self._indices.device

    @property
    def _reusable(self) -> bool:
        """Whether the strategy can select again from what is kept."""
        return self.strategy.needs <= set(self._scores)

    def _identity(self) -> dict[str, int | str | bool]:
        return {
            "num_samples": self.num_samples,
            "seed": self.seed,
            "strategy": self._name,
            "shuffle": self.shuffle,
            "warmup_epochs": self.timetable.warmup_epochs,
            "tail_epochs": self.timetable.tail_epochs,
        }

    def _new_block(self, epoch: int) -> bool:
        """Whether `epoch` is of another block than the one selected for, if any."""
        block = self.timetable.block(epoch)
        return block is not None and (
            self._selected_at is None or block != self.timetable.block(self._selected_at)
        )

    def _select(
        self, epoch: int, take: Callable[[frozenset[str]], Signals] | None
    ) -> Selection | None:
        if isinstance(self.strategy, Full):
            return None
        if self.phase(epoch) == "tail":
            if len(self) == self.num_samples and self._weights is None:
                return None
            return Selection(torch.arange(self.num_samples, device=self._indices.device))
        if not self._new_block(epoch):
            return None
        # Before anything is scored: a schedule may be refused.
        size = self.timetable.size(epoch, self.num_samples)
        wanted = self.wanted(epoch)
        again = self.dynamic or self._selected_at is None
        if not again and not (self.strategy.budgeted and size != len(self)):
            return None
        if wanted and take is None:
            raise ValueError(f"signals must be given: epoch {epoch} starts with a refresh")
        rest = take(wanted) if wanted and take else Signals(self.num_samples, device=self._device)
        block = self.timetable.block(epoch) if self.dynamic else 0
        assert block is not None
        selection = self.strategy.select(
            self._with_scores(rest),
            size,
            epoch=epoch,
            progress=self.timetable.progress(epoch),
            generator=selection_generator(self.seed, block),
        )
        if selection.indices.shape[0] == 0:
            raise ValueError(f"{self._name} selected nothing for epoch {epoch}")
        return selection

    def _take(self, wanted: frozenset[str], signals: Signals) -> Signals:
        if signals.count != self.num_samples:
            raise ValueError(f"signals must be of {self.num_samples} samples, got {signals.count}")
        if missing := signals.missing(wanted):
            raise ValueError(f"signals lack {', '.join(missing)}")
        places = torch.arange(self.num_samples, device=self._device)
        for name, scores in self._scores.items():
            scores.update(places, signals.score(name).to(self._device))
        return signals

    def _with_scores(self, rest: Signals) -> Signals:
        # As stored: a sample never scored stays apart from one that scored -inf.
        stored = {name: each.state_dict()["margins"] for name, each in self._scores.items()}
        return Signals(
            self.num_samples,
            stored,
            rest.labels,
            rest.features,
            rest.residuals,
            rest.validation,
            self._device,
        )

    def _refresh(self, epoch: int, selection: Selection) -> Refresh:
        indices = selection.indices.to(self._indices.device)
        margins = self.margins
        previous = None if self._selected_at is None else self._indices
        return Refresh(
            epoch,
            indices,
            margins,
            self._threshold(epoch, indices, margins),
            None if previous is None else self._overlap(indices, previous),
            selection.weights,
        )

    def _overlap(self, indices: Tensor, previous: Tensor) -> float:
        known = torch.zeros(self.num_samples, dtype=torch.bool, device=indices.device)
        known[previous] = True
        return float(known[indices].double().mean())

    def _threshold(self, epoch: int, indices: Tensor, margins: Tensor) -> float:
        if self.phase(epoch) == "tail" or not any(kind in self._scores for kind in MARGINS):
            return float("nan")
        return float(margins[indices].max())

    def _ordered(self, values: Tensor) -> Tensor:
        if self._epoch is None:
            raise RuntimeError("call begin_epoch(epoch) before the sampler is used in that epoch")
        if not self.shuffle:
            return values.clone()
        places = epoch_order(len(self), self.seed, self._epoch)
        return values[places.to(values.device)]

    def _walk(self, rest: list[int], start: int) -> Iterator[int]:
        for position, index in enumerate(rest, start + 1):
            self._consumed = position
            yield index
