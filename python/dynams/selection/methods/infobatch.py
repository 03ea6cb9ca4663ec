"""InfoBatch: drop some of the easy samples at random and let the rest of them count for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import interval, number
from dynams.selection.draws import random_numbers
from dynams.selection.methods.interface import Selection
from dynams.selection.precision import wide_dtype
from dynams.selection.signals import LAST_LOSS, Signals


@torch.no_grad()
def infobatch_subset(
    losses: Tensor, generator: Generator, *, ratio: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Leave out each sample of below-mean loss with probability r; its kept peers weigh 1 / (1 - r).

    The expected sum of w_i grad_i over an epoch is that of all samples: E[w_i] = 1 for every i. So the
    weights sum to N on average, over k samples: their mean is N / k and not 1. An epoch of k / B steps
    goes as far as one of N / B, at the same learning rate; this is the published method.

    Source: Qin et al. 2024, who train the last eighth of the epochs on everything, which removes what bias
    is left. They leave out an exact share at random; here every sample is decided for itself, as in the
    paper's formula, which makes the expectation exact for any N.
    Cost: none, where the losses are those of the samples' last visits in training. About N (1 - r / 2) are
    kept; how many is random, so the host waits for the device.
    Does not pay: where more than half has to go; when augmentation makes the last visit's loss noise;
    with a loss that label smoothing or mixing keeps from telling easy from hard.

    Args:
        losses: (N,) floating point; inf or NaN where there is none yet: kept.
        generator: of the draw.
        ratio: r, in [0, 1).

    Returns:
        Indices (k,) int64 ascending, and weights (k,) float32.

    Raises:
        ValueError: `ratio` is out of range.
    """
    ratio = number("ratio", ratio, "[0, 1)")
    losses = losses.to(wide_dtype(losses.device))
    known = losses.isfinite()
    mean = torch.where(known, losses, 0.0).sum() / known.sum()
    easy = known & (losses < mean)
    kept = ~easy | (random_numbers(losses.shape[0], generator, losses.device) >= ratio)
    weights = torch.where(easy, 1.0 / (1.0 - ratio), 1.0).to(torch.float32)
    indices = kept.nonzero().flatten()
    return indices, weights[indices]


@dataclass(frozen=True)
class InfoBatch:
    """`infobatch_subset` by the last losses that training left behind; `size` has no effect.

    Attributes:
        ratio: r, in [0, 1); the authors' is 0.5.
        delta: fraction of the epochs that select after which everything is kept at weight 1, in [0, 1]; the
            authors' is 0.875. Where nobody knows their number, nothing is annealed.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({LAST_LOSS})

    ratio: float = 0.5
    delta: float = 0.875

    def __post_init__(self) -> None:
        interval("ratio", self.ratio, "[0, 1)")
        interval("delta", self.delta, "[0, 1]")

    def values(self, signals: Signals) -> Tensor:
        """Return what is compared with its mean: (N,) floating point."""
        return signals.score(LAST_LOSS)

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Leave out some of the easy samples; see `Strategy.select`."""
        if progress >= self.delta:
            return Selection(torch.arange(signals.count, device=signals.device))
        return Selection(*infobatch_subset(self.values(signals), generator, ratio=self.ratio))
