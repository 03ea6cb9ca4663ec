"""RHO-LOSS: the samples whose loss training can still reduce, by epoch or by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dynams.checks import fraction
from dynams.selection.methods.in_batch import hardest_mask
from dynams.selection.methods.interface import BatchSelection
from dynams.selection.methods.ranked import Ranked
from dynams.selection.signals import Signals
from dynams.selection.timetable import selection_size

_NEEDS = frozenset({"loss", "irreducible_loss"})


def rho_loss(losses: Tensor, irreducible: Tensor) -> Tensor:
    """Return the reducible losses L[y|x; D_t] - L[y|x; D_holdout], of which `largest` takes its share.

    Noisy samples have a large irreducible loss, learnt ones a small loss: neither is taken.

    Source: Mindermann et al. 2022, who keep the largest 32 of every 320 samples read.
    Cost: a network trained on held-out data, which is then not trained on, and one pass of it over all
    samples; then a forward pass of whatever is chosen from. By batches, counting a backward pass as two
    forward ones, that is 1 + 3 f against 3, for a kept fraction f.
    Does not pay: on clean, small data sets, where the hold-out is better spent on training. By batches for
    f >= 2/3; and by wall clock unless the forward pass of the large batch is cheaper than in training
    (lower precision, other devices), since all data is still read.

    Args:
        losses: (N,) floating point, of the network that trains.
        irreducible: (N,) floating point, of one that was trained on held-out data only.

    Raises:
        ValueError: the shapes differ.
    """
    if losses.shape != irreducible.shape:
        raise ValueError(
            f"irreducible: got shape {tuple(irreducible.shape)}, want {tuple(losses.shape)}"
        )
    return losses - irreducible


@dataclass(frozen=True)
class RhoLoss(Ranked):
    """The largest `rho_loss` of all samples, at every refresh; as published it is of every large batch."""

    @property
    def needs(self) -> frozenset[str]:
        """The two losses."""
        return _NEEDS

    def values(self, signals: Signals) -> Tensor:
        """Return the reducible losses."""
        return rho_loss(signals.score("loss"), signals.score("irreducible_loss"))


@dataclass(frozen=True)
class BatchRhoLoss:
    """The `share` of every batch with the largest `rho_loss`, as published. Chosen without a wait.

    Attributes:
        share: of the batch to keep, to the nearest number but at least one, in (0, 1].
    """

    needs: ClassVar[frozenset[str]] = _NEEDS

    share: float = 0.1

    def __post_init__(self) -> None:
        fraction("share", self.share)

    def keep(self, batch: Signals, *, progress: float, generator: Generator) -> BatchSelection:
        """Keep the largest; see `BatchStrategy.keep`."""
        losses = rho_loss(batch.score("loss"), batch.score("irreducible_loss"))
        count = selection_size(batch.count, self.share) if batch.count else 0
        return BatchSelection(hardest_mask(losses, count), count=count)
