"""InfoBatch: drop some of the easy samples at random and let the rest of them count for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dynams.selection.methods.interface import Selection, check_share, uniform, wide_dtype
from dynams.selection.signals import LAST_LOSS, Signals


@dataclass(frozen=True)
class InfoBatch:
    """Each sample of below-mean loss is left out with probability r; its kept peers weigh 1 / (1 - r).

    In the last 1 - delta of the epochs everything is kept at weight 1, which removes what bias is left.
    The expected sum of w_i grad_i over an epoch is that of all samples: E[w_i] = 1 for every i. So the
    weights sum to N on average, over k samples: their mean is N / k and not 1. An epoch of k / B steps
    goes as far as one of N / B, at the same learning rate; this is the published method.

    Source: Qin et al. 2024; r = 0.5 and delta = 0.875 are theirs. They leave out an exact share at
    random; here every sample is decided for itself, as in the paper's formula, which makes the
    expectation exact for any N.
    Cost: none: the losses are those of the samples' last visits in training, remembered (the score
    "last_loss"; inf or NaN where there was none: kept). `size` has no effect: about N (1 - r / 2) are kept.
    Does not pay: where more than half has to go; when augmentation makes the last visit's loss noise;
    with a loss that label smoothing or mixing keeps from telling easy from hard.

    Attributes:
        ratio: r, in [0, 1).
        delta: fraction of the epochs after which everything is kept, in [0, 1].
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({LAST_LOSS})

    ratio: float = 0.5
    delta: float = 0.875

    def __post_init__(self) -> None:
        check_share("ratio", self.ratio, one=False)
        check_share("delta", self.delta)

    def select(
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
    ) -> Selection:
        """Leave out some of the easy samples; see `Strategy.select`."""
        if progress >= self.delta:
            return Selection(torch.arange(signals.count, device=signals.device))
        losses = signals.score(LAST_LOSS).to(wide_dtype(signals.device))
        known = losses.isfinite()
        mean = torch.where(known, losses, 0.0).sum() / known.sum()
        easy = known & (losses < mean)
        kept = ~easy | (uniform(signals.count, generator, signals.device) >= self.ratio)
        weights = torch.where(easy, 1.0 / (1.0 - self.ratio), 1.0).to(torch.float32)
        # How many are kept is random: here the host has to wait for the device, once an epoch.
        indices = kept.nonzero().flatten()
        return Selection(indices, weights[indices])
