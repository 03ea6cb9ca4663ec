"""The margin sampler: the subset that an epoch trains on, its order, and where in it training is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

import dynams_kernels as dk
from dynams.selection.schedule import BudgetCurve, Schedule, check_budget, constant
from dynams.selection.strategy import (
    STRATEGIES,
    Strategy,
    overlap,
    permutation,
    progress_at,
    random_selection,
    refresh_block,
    selection_size,
)

Score = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, eq=False)
class Refresh:
    """A change of the selection.

    Attributes:
        epoch: the first epoch that trains on it.
        indices: (k,) int64 ascending, on the sampler's device; not to be written to.
        margins: (num_samples,) float32 copy of all scores, -inf where a sample was never scored.
        threshold: the largest margin selected; NaN where the draw was random or a NaN was selected.
        overlap: the fraction of it that the previous selection held; None for the first one.
    """

    epoch: int
    indices: Tensor
    margins: Tensor
    threshold: float
    overlap: float | None


class MarginSampler(Sampler[int]):
    """Samples of smallest margin, chosen again every few epochs, in a reproducible order.

    Strategies: "margin" (DynaMS) scores all samples at every refresh and keeps those nearest the
    decision boundary; "static" scores once, at the first refresh, and keeps to those scores (the
    ablation: with a constant budget it selects once); "random" draws a new subset at every refresh,
    without scores; "full" keeps everything. During the warm-up all samples are trained on; without
    one, the first scores are those of an untrained network.

    It costs more than it saves unless c + 3 Q b p c < 3 Q (1 - b), with c the cost of the proxy over
    that of the network, b the budget, Q epochs from refresh to refresh and p the fraction of steps
    that train the proxy too (a training step being three forward passes).

    With several processes each holds the same sampler and `score` must give all of them the same
    pairs; sharding the order among ranks is the caller's.

    Args:
        num_samples: N; indices are 0 to N - 1.
        budget: fraction of the samples to keep, or a schedule of it. The default is the authors'.
        epochs: length of the whole training, warm-up included; needed by a budget that varies.
        refresh_every: Q, epochs that train on one selection.
        warmup_epochs: first epochs, on all samples.
        strategy: one of `STRATEGIES`.
        shuffle: permute every epoch; otherwise the order is ascending.
        seed: of permutations and random draws; nothing else decides them but the epoch.
        device: where scores and selection live.

    Attributes:
        selector: the scores.

    Raises:
        ValueError: an argument out of range, an unknown `strategy` (the message lists the known
            ones), or a budget that varies without `epochs`.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        budget: float | Schedule = 0.6,
        epochs: int | None = None,
        refresh_every: int = 1,
        warmup_epochs: int = 0,
        strategy: Strategy = "margin",
        shuffle: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_samples", num_samples, 1),
            ("epochs", 1 if epochs is None else epochs, 1),
            ("refresh_every", refresh_every, 1),
            ("warmup_epochs", warmup_epochs, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}; got {strategy!r}")
        schedule = budget if isinstance(budget, Schedule) else constant(budget)
        steady = isinstance(schedule, BudgetCurve) and schedule.start == schedule.end
        if epochs is None and not steady:
            raise ValueError(f"epochs must be given with a budget that varies, {schedule!r}")
        self.num_samples = num_samples
        self.schedule: Schedule = schedule
        self.epochs = epochs
        self.refresh_every = refresh_every
        self.warmup_epochs = warmup_epochs
        self.strategy = strategy
        self.shuffle = shuffle
        self.seed = seed
        self.selector = dk.MarginSelector(num_samples, device=device)
        self._indices = torch.arange(num_samples, device=device)
        self._selected_at: int | None = None
        self._epoch: int | None = None
        self._consumed = 0
        self._resume_at = 0

    @property
    def indices(self) -> Tensor:
        """The current selection: (k,) int64 ascending, on the sampler's device; not to be written to."""
        return self._indices

    @property
    def epoch(self) -> int | None:
        """The epoch begun last; None before the first."""
        return self._epoch

    @property
    def consumed(self) -> int:
        """Samples of this epoch's order that were iterated, or were trained on before a resume."""
        return self._consumed

    def budget_at(self, epoch: int) -> float:
        """Return the budget that a selection made for `epoch` has; 1.0 in the warm-up.

        Raises:
            ValueError: a foreign schedule gave a budget outside (0, 1].
        """
        if self.strategy == "full" or epoch < self.warmup_epochs:
            return 1.0
        progress = 1.0
        if self.epochs is not None:
            progress = progress_at(epoch, warmup_epochs=self.warmup_epochs, epochs=self.epochs)
        return check_budget(self.schedule(progress), f"the budget of {self.schedule!r}")

    def due(self, epoch: int) -> bool:
        """Tell whether `epoch` starts with a refresh that needs margins."""
        if self.strategy == "static":
            return self._selected_at is None and self._new_block(epoch) is not None
        return self.strategy == "margin" and self._new_block(epoch) is not None

    def begin_epoch(self, epoch: int, score: Score | None = None) -> Refresh | None:
        """Make `epoch` the current one, with a new selection if one is due.

        A second call for the current epoch changes nothing, so a resumed loop may call it again.
        Epochs may be skipped, not gone back to. If anything is refused, or `score` fails, the
        sampler stays as it was.

        Args:
            epoch: from 0.
            score: called where `due(epoch)`; gives pairs of indices (n,) int64 and margins (n,),
                floating point, on any device. Samples left out keep their last score; samples never
                scored are selected first.

        Returns:
            What changed, or None if the selection did not.

        Raises:
            ValueError: `epoch` lies before the current one, `score` is missing where it is due or
                gives no pair, or a pair has sizes or indices that do not fit.
            TypeError: a pair has other dtypes.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if self._epoch is not None and epoch < self._epoch:
            raise ValueError(
                f"epoch must not lie before the current one, {self._epoch}; got {epoch}. "
                "To go back, load a state or make a new sampler"
            )
        if epoch == self._epoch:
            return None
        refresh = self._select(epoch, score)
        if refresh is not None:
            self._indices = refresh.indices
        if self._new_block(epoch) is not None:
            self._selected_at = epoch
        self._epoch = epoch
        self._consumed = self._resume_at = 0
        return refresh

    def order(self) -> Tensor:
        """Return the current epoch's whole order: (k,) int64 on the sampler's device.

        Raises:
            RuntimeError: no epoch was begun.
        """
        if self._epoch is None:
            raise RuntimeError("call begin_epoch(epoch) before the sampler is used in that epoch")
        if not self.shuffle:
            return self._indices.clone()
        places = permutation(len(self), self.seed, self._epoch)
        return self._indices[places.to(self._indices.device)]

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
            "selector": self.selector.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state: the same selection, order and place in it.

        Budget and `refresh_every` may differ from those of the sampler that made the state: they
        decide later epochs only.

        Raises:
            ValueError: it lacks an entry, or is of another number of samples, seed, strategy,
                warm-up or shuffling; nothing is changed then.
            TypeError: its indices are no int64 tensor.
        """
        identity = self._identity()
        wanted = {*identity, "epoch", "selected_at", "consumed", "indices", "selector"}
        if missing := wanted - set(state):
            raise ValueError(f"state lacks {', '.join(sorted(missing))}")
        for name, mine in identity.items():
            if state[name] != mine:
                raise ValueError(f"state was made with {name}={state[name]!r}, this has {mine!r}")
        indices = state["indices"]
        _check_index_vector(indices)
        if indices.shape[0] == 0:
            raise ValueError("the state's selection is empty")
        _check_range(indices, self.num_samples)
        if not 0 <= state["consumed"] <= indices.shape[0]:
            raise ValueError(
                f"consumed must be in [0, {indices.shape[0]}], got {state['consumed']}"
            )
        self.selector.load_state_dict(state["selector"])
        self._indices = indices.to(self._indices.device, copy=True)
        self._epoch, self._selected_at = state["epoch"], state["selected_at"]
        self._consumed = self._resume_at = state["consumed"]

    def _identity(self) -> dict[str, int | str | bool]:
        return {
            "num_samples": self.num_samples,
            "seed": self.seed,
            "strategy": self.strategy,
            "shuffle": self.shuffle,
            "warmup_epochs": self.warmup_epochs,
        }

    def _new_block(self, epoch: int) -> int | None:
        """Return the block of `epoch` if the current selection is that of another one."""

        def block_of(epoch: int) -> int | None:
            return refresh_block(
                epoch, warmup_epochs=self.warmup_epochs, refresh_every=self.refresh_every
            )

        current = None if self._selected_at is None else block_of(self._selected_at)
        block = block_of(epoch)
        return None if block == current else block

    def _select(self, epoch: int, score: Score | None) -> Refresh | None:
        block = self._new_block(epoch)
        if self.strategy == "full" or block is None:
            return None
        size = selection_size(self.num_samples, self.budget_at(epoch))
        previous = None if self._selected_at is None else self._indices
        if self.strategy == "random":
            draw = random_selection(self.num_samples, size, self.seed, block)
            return self._refresh(epoch, draw.to(self._indices.device), float("nan"), previous)
        if self.due(epoch):
            self._update_scores(epoch, score)
        elif size == len(self):  # static, and the schedule has not moved
            return None
        margins, indices = self.selector.smallest(size)
        return self._refresh(epoch, indices, float(margins.max()), previous)

    def _refresh(
        self, epoch: int, indices: Tensor, threshold: float, previous: Tensor | None
    ) -> Refresh:
        shared = None if previous is None else float(overlap(indices, previous, self.num_samples))
        return Refresh(epoch, indices, self.selector.margins, threshold, shared)

    def _update_scores(self, epoch: int, score: Score | None) -> None:
        if score is None:
            raise ValueError(f"score must be given: epoch {epoch} starts with a refresh")
        pairs = [(indices, margins) for indices, margins in score()]
        for indices, margins in pairs:
            _check_pair(indices, margins)
        if sum(indices.shape[0] for indices, _ in pairs) == 0:
            raise ValueError(f"score gave no margins for the refresh of epoch {epoch}")
        # At once: one transfer and one check, and nothing is written unless all of it is right.
        device = self._indices.device
        indices = torch.cat([indices for indices, _ in pairs]).to(device)
        margins = torch.cat([margins.float() for _, margins in pairs]).to(device)
        _check_range(indices, self.num_samples)
        self.selector.update(indices, margins)

    def _walk(self, rest: list[int], start: int) -> Iterator[int]:
        for position, index in enumerate(rest, start + 1):
            self._consumed = position
            yield index


def _check_pair(indices: Tensor, margins: Tensor) -> None:
    _check_index_vector(indices)
    if not isinstance(margins, Tensor) or not margins.is_floating_point():
        raise TypeError(f"margins must be a floating point tensor, got {_kind(margins)}")
    if margins.shape != indices.shape:
        raise ValueError(
            f"margins must have the shape of indices, {tuple(indices.shape)}, "
            f"got {tuple(margins.shape)}"
        )


def _check_index_vector(indices: Tensor) -> None:
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        raise TypeError(f"indices must be an int64 tensor, got {_kind(indices)}")
    if indices.dim() != 1:
        raise ValueError(f"indices must have shape (n,), got {tuple(indices.shape)}")


def _check_range(indices: Tensor, num_samples: int) -> None:
    low, high = torch.stack((indices.min(), indices.max())).tolist()
    if low < 0 or high >= num_samples:
        raise ValueError(f"indices must be in [0, {num_samples}), got values from {low} to {high}")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
