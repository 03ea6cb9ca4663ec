"""The baselines without scores: everything, a random subset for good, a new random subset each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dynams.selection.methods.interface import Selection, check_size, permutation
from dynams.selection.signals import Signals


@dataclass(frozen=True)
class Full:
    """All samples, always.

    Source: the reference of every comparison; fair only beside a full run shortened to equal time.
    Cost: no scores; 1 forward and 1 backward pass of every sample an epoch.
    Does not pay: where the data is redundant and the schedule long.
    """

    dynamic: ClassVar[bool] = False
    budgeted: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()

    def select(
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
    ) -> Selection:
        """Keep everything, whatever the size; see `Strategy.select`."""
        return Selection(torch.arange(signals.count, device=signals.device))


@dataclass(frozen=True)
class Random:
    """A new uniform subset at every refresh (repeated random): P(i in S) = size / N.

    Unbiased for the mean loss with all weights 1.

    Source: the baseline that published methods often only tie with (Okanovic et al. 2023, repeated
    sampling of random subsets).
    Cost: no scores, a permutation of N numbers.
    Does not pay: at small budgets with a fixed number of epochs it is a shorter schedule and no more;
    give a full run the same number of steps before drawing conclusions.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def select(
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
    ) -> Selection:
        """Draw `size` samples without replacement; see `Strategy.select`."""
        check_size(signals, size)
        drawn = permutation(signals.count, generator, signals.device)[:size]
        return Selection(drawn.sort().values)


@dataclass(frozen=True)
class StaticRandom(Random):
    """One uniform subset, drawn once and kept: a smaller data set.

    Source: the floor of every coreset study.
    Cost: none.
    Does not pay: whenever the rest of the data can be had at all: `Random` costs the same and sees all
    of it over time.
    """

    dynamic: ClassVar[bool] = False
