"""RHO-LOSS: the samples whose loss training can still reduce, by epoch or by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynams.selection.methods.interface import BatchChoice, check_share
from dynams.selection.methods.ranked import Ranked, largest
from dynams.selection.signals import Signals

_NEEDS = frozenset({"loss", "irreducible_loss"})


def reducible_loss(signals: Signals) -> Tensor:
    """Return the loss minus the irreducible loss: that of a network trained on held-out data only."""
    return signals.score("loss") - signals.score("irreducible_loss")


@dataclass(frozen=True)
class RhoLoss(Ranked):
    """The largest reducible losses: L[y|x; D_t] - L[y|x; D_holdout].

    Noisy samples have a large irreducible loss, learnt ones a small loss: neither is taken.

    Source: Mindermann et al. 2022; chosen there from every large batch (`BatchRhoLoss`), here from all
    samples at every refresh.
    Cost: a network trained on held-out data and one pass of it over all samples, once; one forward
    pass of every sample at each refresh. Held-out data is not trained on.
    Does not pay: on clean, small data sets, where the hold-out is better spent on training.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The two losses."""
        return _NEEDS

    def values(self, signals: Signals) -> Tensor:
        """Return the reducible losses."""
        return reducible_loss(signals)


@dataclass(frozen=True)
class BatchRhoLoss:
    """The `share` of every batch with the largest reducible loss, as published.

    Formula: top-k over the batch of L[y|x; D_t] - L[y|x; D_holdout], k = round(share * B), at least 1.
    Source: Mindermann et al. 2022, who keep 32 of 320 (share 0.1).
    Cost: a forward pass of the whole batch, and forward and backward of the kept: 1 + 3 share against
    3 for the whole batch, counting a backward pass as two forward ones. Chosen without a wait.
    Does not pay: for share >= 2/3; and by wall clock unless the forward pass of the large batch is
    cheaper than in training (lower precision, other devices), since all data is still read.

    Attributes:
        share: of the batch to keep, in (0, 1].
    """

    needs: ClassVar[frozenset[str]] = _NEEDS

    share: float = 0.1

    def __post_init__(self) -> None:
        check_share("share", self.share)
        if self.share == 0.0:
            raise ValueError("share must be above 0, got 0.0")

    def keep(self, batch: Signals, *, progress: float, generator: torch.Generator) -> BatchChoice:
        """Keep the largest; see `BatchStrategy.keep`."""
        return top_share(reducible_loss(batch), self.share)


def top_share(values: Tensor, share: float) -> BatchChoice:
    """Keep the `share` of a batch with the largest values: to the nearest number, at least one."""
    size = values.shape[0]
    count = min(size, max(1, math.floor(share * size + 0.5)))
    mask = torch.zeros(size, dtype=torch.bool, device=values.device)
    mask[largest(values, count)] = True
    return BatchChoice(mask, count=count)
