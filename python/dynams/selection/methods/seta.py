"""SeTa: of samples drawn at random, a window of groups by loss, which moves from easy to hard and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import at_least, interval, number, whole
from dynams.selection.methods.interface import Selection
from dynams.selection.methods.uniform import random_subset
from dynams.selection.precision import wide_dtype
from dynams.selection.signals import LAST_LOSS, Signals

# Lloyd's algorithm in one dimension, from quantiles: losses of a training run take fewer.
_ROUNDS = 50


@torch.no_grad()
def seta_subset(
    losses: Tensor,
    step: int,
    generator: Generator,
    *,
    ratio: float = 0.1,
    groups: int = 10,
    window: float = 0.5,
) -> Tensor:
    """Leave out a share r at random, and of the rest all but w of k groups by loss: indices (n,) int64, ascending.

    The groups are those of k-means on the losses, easiest first. Of them w = ceil(window * k) are kept, from number
    s = step mod (k - w + 1) on: what is too hard and what is too easy in turn. All weights are 1.

    Source: Zhou et al. 2025 (Scale Efficient Training for Large Datasets, SeTa, CVPR 2025, arXiv:2503.13385),
    formulas by a public summary of the paper and the authors' code (github.com/mrazhou/SeTa), whose class has
    k = 10 and window 0.5, and whose scripts r = 0.1. (The code rounds w; its scripts' k = 5, window 0.9 are w = 4
    there, and 5, which leaves nothing out, by the formula.)
    Cost: a sort of the losses that training left behind, and rounds of O(k log N). How many are kept depends on
    the losses, so the host waits for the device.
    Does not pay: where most losses are near 0 and one group holds nearly everything: epochs are then long and
    short by turns; with epochs between refreshes the window stays for all of them.

    Args:
        losses: (N,) floating point; inf or NaN where there is none yet: in every window.
        step: t, from 0: the epoch.
        generator: of the draw.
        ratio: r, in [0, 1).
        groups: k, at least 1.
        window: in (0, 1].

    Raises:
        ValueError: an argument is out of range.
    """
    ratio, window = number("ratio", ratio, "[0, 1)"), number("window", window, "(0, 1]")
    groups, step = whole("groups", groups, 1), whole("step", step, 0)
    # A product such as 0.7 * 10 is a little more than its number.
    width = math.ceil(round(window * groups, 9))
    first = step % (groups - width + 1)
    drawn = _drawn(losses.shape[0], ratio, generator, losses.device)
    losses = losses[drawn]
    group = loss_groups(losses, groups)
    kept = ((group >= first) & (group < first + width)) | (group < 0)
    # Equal losses are all in one group, which says nothing of them.
    return drawn[kept | ~kept.any()]


@torch.no_grad()
def loss_groups(losses: Tensor, groups: int) -> Tensor:
    """Divide samples by loss into k groups of least squares (k-means): (N,) int64, 0 the easiest.

    Every loss is nearest to the mean of its own group (Lloyd 1982, from quantiles). A group may be empty.

    Args:
        losses: (N,) floating point; one that is not finite is in no group, -1.
        groups: k, at least 1.

    Raises:
        ValueError: `groups` is out of range.
    """
    groups = whole("groups", groups, 1)
    known = losses.isfinite()
    values = losses[known].to(wide_dtype(losses.device)).sort().values
    count = values.shape[0]
    if count == 0:
        return torch.full_like(losses, -1, dtype=torch.int64)
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    places = (torch.arange(groups, device=losses.device) * 2 + 1) * count // (2 * groups)
    means = values[places]
    for _ in range(_ROUNDS):
        cuts = torch.searchsorted(values, (means[1:] + means[:-1]) / 2)
        ends = torch.cat([cuts, cuts.new_tensor([count])])
        starts = torch.cat([cuts.new_zeros(1), cuts])
        sizes = ends - starts
        means = torch.where(sizes > 0, (sums[ends] - sums[starts]) / sizes, means)
    found = torch.searchsorted((means[1:] + means[:-1]) / 2, losses.to(means.dtype), right=True)
    return torch.where(known, found, -1)


@dataclass(frozen=True)
class SeTa:
    """`seta_subset` by the last losses that training left behind; `size` has no effect.

    Attributes:
        ratio: r, in [0, 1).
        groups: k, at least 1.
        window: share of the groups that is kept, in (0, 1].
        delta: fraction of the epochs that select after which only the draw at random is left, in [0, 1]; the
            authors' is 0.875.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({LAST_LOSS})

    ratio: float = 0.1
    groups: int = 10
    window: float = 0.5
    delta: float = 0.875

    def __post_init__(self) -> None:
        interval("ratio", self.ratio, "[0, 1)")
        at_least("groups", self.groups, 1)
        interval("window", self.window, "(0, 1]")
        interval("delta", self.delta, "[0, 1]")

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Draw, and keep the window of this epoch; see `Strategy.select`."""
        if progress >= self.delta:
            return Selection(_drawn(signals.count, self.ratio, generator, signals.device))
        return Selection(
            seta_subset(
                signals.score(LAST_LOSS),
                epoch,
                generator,
                ratio=self.ratio,
                groups=self.groups,
                window=self.window,
            )
        )


def _drawn(count: int, ratio: float, generator: Generator, device: torch.device | None) -> Tensor:
    """All but a share of the samples, at least one: indices ascending."""
    size = min(count, max(1, math.floor((1.0 - ratio) * count + 0.5)))
    return random_subset(count, size, generator, device=device)
