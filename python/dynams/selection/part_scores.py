"""The scores that one rank of several keeps: those of its part of the samples, and nothing of the others'.

Parts are those of `RankShard`. The process group is asked for when scores are given or loaded, not before: samplers
are made before frameworks start theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynams.selection.kept_scores import KeptScores, Pairs
from dynams.selection.ranks import told_by_all
from dynams.selection.scoring import ScoredBatches
from dynams.selection.shares import RankShard
from dynams.selection.signals import Signals


class PartScores(KeptScores):
    """Scores of this rank's part of `total` samples; `num_samples` are those of the part.

    A state holds the part of the rank that made it. Loaded by another rank, or on another number of ranks, it lacks
    scores that were given once: those have to be given again before anything is selected by them.

    Args:
        total: samples of all ranks together.
        needs: names of what a strategy needs.
        device: where the scores live.
    """

    may_get_none: ClassVar[bool] = True  # others may have got some

    def __init__(self, total: int, needs: frozenset[str], device: torch.device | str) -> None:
        super().__init__(0, needs, device)
        self.total = total
        self._scored = False
        self._held = range(0)  # of the part, what no state lacked

    @property
    def part(self) -> range:
        """The samples whose scores are here."""
        return range(self.first, self.first + self.num_samples)

    @property
    def margins(self) -> Tensor:
        """A copy of the part's margins (n,) float32; -inf where never scored, or where none are kept."""
        return super(PartScores, self._here).margins

    def updated(self, given: Signals | Pairs) -> tuple[PartScores, Signals]:
        """Take what `score` gave on this rank, of samples of its part; all ranks come here together.

        Raises:
            ValueError, TypeError: as of `KeptScores`; or no rank was given a score.
            RuntimeError: another rank was given what does not fit.
        """
        made: list[tuple[PartScores, Signals]] = []

        def take() -> int:
            own = given.of_this_rank() if isinstance(given, ScoredBatches) else given
            new, rest, count = self._here._taken(own)
            new._scored, new._held = True, new.part
            made.append((new, new.signals(rest)))
            return count

        if sum(told_by_all("give its scores", take)) == 0:
            raise ValueError("score: got no margins on any rank, want pairs of indices and margins")
        return made[0]

    def signals(self, rest: Signals | None = None) -> Signals:
        """Return the scores of the part, as stored; see `KeptScores.signals`.

        Raises:
            ValueError: a state that was loaded lacked some, and they were not given since.
        """
        here = self._here
        here._check_held()
        return super(PartScores, here).signals(rest)

    def largest_margin(self, indices: Tensor) -> float:
        """Return the largest margin of some samples of all ranks (n,) int64, ascending; all come here together."""
        part = self._here.part
        low, high = torch.searchsorted(
            indices, indices.new_tensor([part.start, part.stop])
        ).tolist()
        mine = self.margins[indices[low:high] - part.start]
        each = told_by_all(
            "tell its largest margin", lambda: float(mine.max()) if len(mine) else None
        )
        return float(torch.tensor([margin for margin in each if margin is not None]).max())

    def state_dict(self) -> dict[str, Any]:
        """Return copies of this rank's scores, by name, and which samples they are of."""
        here = self._here
        held = here._held
        places = slice(held.start - here.first, held.stop - here.first)
        return {
            name: {
                "num_samples": len(held),
                "margins": each.state_dict()["margins"][places].clone(),
                "part": [held.start, held.stop],
                "scored": self._scored,
            }
            for name, each in here._selectors.items()
        }

    def loaded(self, state: Mapping[str, Any]) -> PartScores:
        """Return what a state holds of this rank's part; one without parts holds all.

        Raises:
            ValueError, TypeError: it lacks a score, or they are of another number of samples.
        """
        held = {name: self._held_by(name, state) for name in self._selectors}
        if len(set(held.values())) > 1:
            raise ValueError(f"state: got scores of other samples each, {held}, want the same")
        whole = copy.copy(self)
        whole._scored = any(state[name].get("scored", True) for name in held)
        whole._held = next(iter(held.values()))
        whole._place(whole._held)
        for name, each in whole._selectors.items():
            each.load_state_dict(state[name])
        return whole._here

    @property
    def _here(self) -> PartScores:
        """The scores of the part that is this rank's now."""
        return self._at(RankShard(self.total).part)

    def _held_by(self, name: str, state: Mapping[str, Any]) -> range:
        if name not in state:
            raise ValueError(f"state: got no scores of {name}, want them")
        bounds = state[name].get("part", [0, self.total])
        held = range(*bounds) if len(bounds) == 2 else range(-1)
        if (
            state[name].get("num_samples") != len(held)
            or not 0 <= held.start <= held.stop <= self.total
        ):
            raise ValueError(
                f"state: got {name} of {state[name].get('num_samples')} samples as part {bounds}, want it in "
                f"[0, {self.total}]"
            )
        return held

    def _place(self, part: range) -> None:
        """Begin a part anew."""
        self.first, self.num_samples = part.start, len(part)
        self._selectors = KeptScores(len(part), self.needs, self.device)._selectors

    def _at(self, part: range) -> PartScores:
        """The scores of a part, as far as they are here."""
        if (part.start, len(part)) == (self.first, self.num_samples):  # empty ranges are all equal
            return self
        new = copy.copy(self)
        new._place(part)
        first = max(part.start, self._held.start)
        held = range(first, max(first, min(part.stop, self._held.stop)))
        new._held = held if self._scored else part
        for name, each in new._selectors.items() if held else ():
            stored = each.state_dict()
            source = self._selectors[name].state_dict()["margins"]
            stored["margins"][held.start - part.start : held.stop - part.start] = source[
                held.start - self.first : held.stop - self.first
            ]
            each.load_state_dict(stored)
        return new

    def _check_range(self, low: int, high: int) -> None:
        if low < self.first or high >= self.part.stop:
            raise ValueError(
                f"indices: got {low} to {high}, want them in [{self.first}, {self.part.stop}): a sharded sampler's "
                f"rank scores its part of the {self.total} samples, RankShard({self.total}).part, and no other"
            )

    def _check_complete(self) -> None:
        self._check_held()
        super()._check_complete()

    def _check_held(self) -> None:
        """Refuse to take what a loaded state lacked for what was never scored."""
        if self._held == self.part:
            return
        for name, each in self._selectors.items():
            never = each.state_dict()["margins"].isneginf()
            never[self._held.start - self.first : self._held.stop - self.first] = False
            if never.any():
                raise ValueError(
                    f"score: got no {name} of {int(never.sum())} samples in [{self.first}, {self.part.stop}) that the "
                    "loaded state lacks, as another rank saved it: want them scored, or a state of "
                    "gather_state(sampler)"
                )
