"""Ranking by one number: the samples of smallest, or largest, scores, by an exact partial selection.

The selection is `dynams_kernels.smallest_k`: exact, in linear time, without a wait for the device, and
with NaN last whichever end is wanted. Equal values go by index, which is right for continuous scores. A
score with few values, such as a count of events, would then favour the front of the data set (often one
class), so an `order` may be given, a random one say, that equal values go by instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

import dynams_kernels as dk
from dynams.checks import one_of, whole
from dynams.selection.draws import random_order
from dynams.selection.methods.interface import Selection
from dynams.selection.signals import Signals

Ties = Literal["index", "random"]
TIES: tuple[str, ...] = ("index", "random")


def smallest(values: Tensor, size: int, *, order: Tensor | None = None) -> Tensor:
    """Return the indices (size,) int64 ascending of the smallest values; NaN counts as the largest.

    Args:
        values: (N,) floating point.
        size: how many, in [0, N].
        order: a permutation of the samples: equal values go by their place in it; None: by index.

    Raises:
        ValueError: `size` is out of range.
    """
    size = whole("size", size, 0, values.shape[0])
    if order is None:
        return dk.smallest_k(values, size).indices
    places = dk.smallest_k(values[order], size).indices
    return order[places].sort().values


def largest(values: Tensor, size: int, *, order: Tensor | None = None) -> Tensor:
    """Return the indices (size,) int64 ascending of the largest values; NaN counts as the smallest.

    Arguments and errors as of `smallest`.
    """
    return smallest(-values, size, order=order)


@dataclass(frozen=True)
class Ranked:
    """Base of the strategies that keep the extreme of one score, by the plain function of their file.

    Attributes:
        ties: how equal scores are told apart: by "index", or in a "random" order.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    keeps_largest: ClassVar[bool] = True
    choose: ClassVar[Callable[..., Tensor]] = staticmethod(largest)
    score: ClassVar[str] = ""

    ties: Ties = "index"

    def __post_init__(self) -> None:
        one_of("ties", self.ties, TIES)

    @property
    def needs(self) -> frozenset[str]:
        """The score it ranks by."""
        return frozenset({self.score})

    @property
    def is_plain_ranking(self) -> bool:
        """Whether nothing but the scores, and the index where they are equal, decides."""
        return self.ties == "index" and type(self).select is Ranked.select

    def values(self, signals: Signals) -> Tensor:
        """Return the number that ranks the samples: (N,) floating point."""
        return signals.score(self.score)

    def ranking(self, signals: Signals) -> Tensor:
        """Return the number of which the smallest are kept: (N,) floating point."""
        values = self.values(signals)
        return -values if self.keeps_largest else values

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Keep the `size` extreme samples; see `Strategy.select`."""
        order = None
        if self.ties == "random":
            order = random_order(signals.count, generator, signals.device)
        return Selection(self.choose(self.values(signals), size, order=order))

    def select_grouped(self, signals: Signals, groups: Tensor, quotas: Sequence[int]) -> Selection:
        """Keep the extreme samples of every group at once, as many as its quota; equal scores go by index.

        Args:
            signals: of all samples.
            groups: (N,) int64 in [0, number of quotas).
            quotas: how many of each group, at most its size.
        """
        return Selection(dk.smallest_k_grouped(self.ranking(signals), groups, quotas).indices)
