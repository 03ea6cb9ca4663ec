"""The baselines without scores: everything, a random subset for good, a new random subset each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import whole
from dynams.selection.draws import random_order
from dynams.selection.methods.interface import Selection
from dynams.selection.signals import Signals


def random_subset(
    count: int, size: int, generator: Generator, *, device: torch.device | None = None
) -> Tensor:
    """Draw samples without replacement, P(i in S) = size / N: indices (size,) int64, ascending.

    Unbiased for the mean loss with all weights 1.

    Source: drawn anew for every epoch, the baseline that published methods often only tie with
    (Okanovic et al. 2023, repeated sampling of random subsets); drawn once, the floor of every coreset
    study.
    Cost: no scores, a permutation of N numbers.
    Does not pay: at small budgets with a fixed number of epochs it is a shorter schedule and no more;
    give a full run the same number of steps before drawing conclusions.

    Args:
        count: N.
        size: how many, in [0, N].
        generator: of the draw.
        device: of the indices; None: the CPU.

    Raises:
        ValueError: `size` is out of range.
    """
    size = whole("size", size, 0, count)
    return random_order(count, generator, device)[:size].sort().values


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
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Keep everything, whatever the size; see `Strategy.select`."""
        return Selection(torch.arange(signals.count, device=signals.device))


@dataclass(frozen=True)
class Random:
    """A new `random_subset` at every refresh (repeated random)."""

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Draw `size` samples; see `Strategy.select`."""
        return Selection(random_subset(signals.count, size, generator, device=signals.device))


@dataclass(frozen=True)
class StaticRandom(Random):
    """One `random_subset`, drawn once and kept: a smaller data set.

    Does not pay: whenever the rest of the data can be had at all: `Random` costs the same and sees all
    of it over time.
    """

    dynamic: ClassVar[bool] = False
