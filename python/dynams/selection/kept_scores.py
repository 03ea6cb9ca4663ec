"""The scores that a sampler keeps: one number a sample for each score, as it was last given."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar, get_args

import torch
from torch import Tensor

import dynams_kernels as dk
from dynams.selection.methods.margin import MARGINS
from dynams.selection.sampler_checks import check_int64
from dynams.selection.signals import LAST_LOSS, TENSORS, VALIDATION, Signals

Pairs = Iterable[tuple[Tensor, Tensor]]

_Kept = TypeVar("_Kept", bound="KeptScores")

# The loss that training left behind may come from a scoring pass as well.
_SAME = {(LAST_LOSS, "loss")}


class KeptScores:
    """Scores of `num_samples` samples; never changed: `updated` gives new ones.

    Whoever is refused halfway therefore still has what was there before.

    Args:
        num_samples: how many samples.
        needs: names of what a strategy needs; those of one number a sample are kept.
        device: where they live.
        first: index of the first of them.
    """

    may_get_none: ClassVar[bool] = False

    def __init__(
        self,
        num_samples: int,
        needs: frozenset[str],
        device: torch.device | str,
        first: int = 0,
    ) -> None:
        self.num_samples = num_samples
        self.first = first
        self.needs = needs
        self.device = torch.empty(0, device=device).device
        self._selectors = {
            name: dk.MarginSelector(num_samples, device=device)
            for name in sorted(needs)
            if name not in TENSORS and not name.startswith(VALIDATION)
        }

    @property
    def complete(self) -> bool:
        """Whether a strategy could select again from what is kept."""
        return self.needs <= set(self._selectors)

    @property
    def margin(self) -> str | None:
        """Which kind of margin is kept; None: none is."""
        return next((kind for kind in MARGINS if kind in self._selectors), None)

    @property
    def margins(self) -> Tensor:
        """A copy of the margins (N,) float32; -inf where never scored, or where none are kept."""
        if self.margin is not None:
            return self._selectors[self.margin].margins
        return torch.full((self.num_samples,), -torch.inf, dtype=torch.float32, device=self.device)

    def updated(self, given: Signals | Pairs) -> tuple[KeptScores, Signals]:
        """Take what `score` gave: signals of all samples, or pairs of indices and scores.

        Returns:
            The scores as they are then, and the signals with all that is needed.

        Raises:
            ValueError, TypeError: what was given is of other samples, lacks something, or has dtypes,
                shapes or indices that do not fit.
        """
        new, rest, _ = self._taken(given)
        return new, new.signals(rest)

    def signals(self, rest: Signals | None = None) -> Signals:
        """Return the scores, as stored: one never scored stays apart from one that scored -inf.

        Args:
            rest: where labels, features and residuals come from.
        """
        stored = {name: each.state_dict()["margins"] for name, each in self._selectors.items()}
        rest = Signals(self.num_samples) if rest is None else rest
        return dataclasses.replace(rest, scores=stored, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all scores, by name."""
        return {name: each.state_dict() for name, each in self._selectors.items()}

    def loaded(self, state: Mapping[str, Any]) -> KeptScores:
        """Return the scores of a state.

        Raises:
            ValueError, TypeError: it lacks a score, or they are of another number of samples.
        """
        if missing := set(self._selectors) - set(state):
            raise ValueError(f"state: got no scores of {', '.join(sorted(missing))}, want them")
        new = KeptScores(self.num_samples, self.needs, self.device)
        for name, each in new._selectors.items():
            if "part" in state[name] and state[name]["num_samples"] != self.num_samples:
                raise ValueError(
                    f"state: got {name} of {state[name]['num_samples']} of {self.num_samples} samples, those of "
                    "one rank of a sharded sampler, want all: gather_state(sampler) gives them"
                )
            each.load_state_dict(state[name])
        return new

    def largest_margin(self, indices: Tensor) -> float:
        """Return the largest margin of some samples (n,) int64; NaN is the largest."""
        return float(self.margins[indices].max())

    def _taken(self: _Kept, given: Signals | Pairs) -> tuple[_Kept, Signals | None, int]:
        """The scores with what was given, the signals that came with it, and how many scores it was."""
        if isinstance(given, Signals):
            updates, rest = self._of_signals(given), given
        else:
            updates, rest = self._of_pairs(given), None
        new = copy.copy(self)
        new._selectors = copy.deepcopy(self._selectors)
        for name, (indices, scores) in updates.items():
            new._selectors[name].update(indices, scores)
        if rest is None:
            new._check_complete()
        return new, rest, sum(len(indices) for indices, _ in updates.values())

    def _of_signals(self, signals: Signals) -> dict[str, tuple[Tensor, Tensor]]:
        if signals.count != self.num_samples:
            raise ValueError(
                f"score: got signals of {signals.count} samples, want {self.num_samples}"
            )
        if missing := signals.missing(self.needs):
            raise ValueError(f"score: got signals without {', '.join(missing)}, want them too")
        places = torch.arange(self.num_samples, device=self.device)
        return {name: (places, signals.score(name).to(self.device)) for name in self._selectors}

    def _of_pairs(self, pairs: Pairs) -> dict[str, tuple[Tensor, Tensor]]:
        if len(self.needs) != 1 or not self.complete:
            needed = ", ".join(sorted(self.needs))
            raise ValueError(f"score: got no Signals, want them, with {needed}")
        if not isinstance(pairs, Iterable):
            raise TypeError(
                f"score: got {type(pairs).__name__}, want pairs of indices and margins, or Signals"
            )
        (name,) = self._selectors
        kind = getattr(pairs, "kind", name)
        if kind != name and (name, kind) not in _SAME:
            raise ValueError(f"score: got {kind}, want {name}{_how(name)}")
        checked = [_checked(pair) for pair in pairs]
        if sum(len(indices) for indices, _ in checked) == 0:
            if self.may_get_none:
                return {}
            raise ValueError("score: got no margins, want pairs of indices and margins")
        # At once: one transfer and one check.
        indices = torch.cat([indices for indices, _ in checked]).to(self.device)
        scores = torch.cat([scores.float() for _, scores in checked]).to(self.device)
        low, high = torch.stack(indices.aminmax()).tolist()
        self._check_range(low, high)
        return {name: (indices - self.first if self.first else indices, scores)}

    def _check_range(self, low: int, high: int) -> None:
        if low < 0 or high >= self.num_samples:
            raise ValueError(f"indices: got {low} to {high}, want them in [0, {self.num_samples})")

    def _check_complete(self) -> None:
        if self.margin is not None:
            return  # ranked from the smallest: samples never scored come first
        for name, stored in self.signals().scores.items():
            never = int(stored.isneginf().sum())
            if never:
                raise ValueError(
                    f"score: got {name} of {self.num_samples - never} samples so far, want all "
                    f"{self.num_samples}: only margins may leave samples out"
                )


def _how(name: str) -> str:
    known = name in get_args(dk.ScoreKind)
    return f': score_batches(..., kind="{name}")' if known else ""


def _checked(pair: object) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"score: got {_kind(pair)}, want pairs of indices and margins")
    indices, margins = pair
    check_int64("indices", indices)
    if indices.dim() != 1:
        raise ValueError(f"indices: got shape {tuple(indices.shape)}, want (n,)")
    if not isinstance(margins, Tensor) or not margins.is_floating_point():
        raise TypeError(f"margins: got {_kind(margins)}, want a floating point tensor")
    if margins.shape != indices.shape:
        raise ValueError(
            f"margins: got shape {tuple(margins.shape)}, want that of indices, {tuple(indices.shape)}"
        )
    return indices, margins.detach()


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
