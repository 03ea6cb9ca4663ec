"""OrderDP: of samples drawn at random, those with the largest last losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dynams.checks import interval, number, whole
from dynams.selection.draws import random_order
from dynams.selection.methods.interface import Selection
from dynams.selection.methods.ranked import largest
from dynams.selection.signals import LAST_LOSS, Signals


def orderdp_subset(
    losses: Tensor, size: int, generator: Generator, *, exploitation: float = 0.6
) -> Tensor:
    """Draw s of the N samples evenly, and keep the q with the largest losses among them.

    The sample of the j-th largest loss is kept with the probability
    gamma_j = sum over l of C(j - 1, l - 1) C(N - j, s - l) / C(N, s), l from max(1, s - N + j) to min(q, j),
    so that, with all weights 1, the gradient is without bias that of the surrogate loss
    L_q = 1 / q sum_j gamma_j L_(j) (their Theorem 1), which leans towards large losses. Nothing is annealed.

    Source: Jin et al. 2026 (OrderDP, ICLR 2026, arXiv:2606.08574), formulas by a public summary of the paper and
    the authors' code (github.com/shengze-xu/OrderDP), which draws once an epoch. Their defaults s = 0.5 N and
    q = 0.6 s keep 0.3 N; here q is the budget's, and s follows from it.
    Cost: none, where the losses are those of the samples' last visits in training; one partial selection
    among s, and the copy of an order of N that the host draws.
    Does not pay: with label noise, which the largest losses are full of; at q / s = 1 it is a random subset, and
    for q > exploitation * N there are too few samples to draw more from: it is `hardest` by old losses.

    Args:
        losses: (N,) floating point, each as old as its sample's last visit; inf where there was none: these
            come first. Equal ones go in the random order drawn, NaN last.
        size: q, how many to keep, in [0, N].
        generator: of the draw.
        exploitation: q / s, in (0, 1]; s is at most N.

    Returns:
        Indices (size,) int64 ascending.

    Raises:
        ValueError: `size` or `exploitation` is out of range.
    """
    count = losses.shape[0]
    size = whole("size", size, 0, count)
    exploitation = number("exploitation", exploitation, "(0, 1]")
    drawn = min(count, math.floor(size / exploitation + 0.5))
    pool = random_order(count, generator, losses.device)[:drawn]
    return pool[largest(losses[pool], size)].sort().values


@dataclass(frozen=True)
class OrderDP:
    """`orderdp_subset` by the last losses that training left behind.

    Attributes:
        exploitation: share of the samples drawn that is kept, in (0, 1]; the authors' is 0.6.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({LAST_LOSS})

    exploitation: float = 0.6

    def __post_init__(self) -> None:
        interval("exploitation", self.exploitation, "(0, 1]")

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Draw, and keep the `size` of largest loss; see `Strategy.select`."""
        losses = signals.score(LAST_LOSS)
        return Selection(orderdp_subset(losses, size, generator, exploitation=self.exploitation))
