"""The hardest part of every batch, chosen inside the step: the largest losses, or the smallest margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import fraction, one_of
from dynams.selection.methods.interface import BatchSelection
from dynams.selection.methods.margin import MARGINS
from dynams.selection.methods.ranked import smallest
from dynams.selection.signals import Signals
from dynams.selection.timetable import selection_size


@torch.no_grad()
def smallest_margins_mask(margins: Tensor, size: int) -> Tensor:
    """Mark the samples of a batch that are nearest the decision boundary: (B,) bool. Nothing waits.

    Source: the rule of `smallest_margins` (Wang et al. 2023), of a batch in place of the data set.
    Cost: a look at all B samples, a forward pass of part l of a training step's (l = 1/3 at full width, less
    by a proxy), then a step on the kept fraction f: l + f of a step on all.
    Does not pay: for l + f >= 1; where few samples are learnt, so that what is left out is missed; by a proxy
    that ranks otherwise than the network. See `smallest_margins` for "label" and label noise.

    Args:
        margins: (B,) floating point, as of `dynams_kernels.margin`; NaN is taken last, ties go by index.
        size: how many, in [0, B].

    Raises:
        ValueError: `size` is out of range.
    """
    mask = torch.zeros(margins.shape[0], dtype=torch.bool, device=margins.device)
    # A number that is assigned would be copied to the device first, and the host would wait.
    return mask.index_fill_(0, smallest(margins, size), True)


def hardest_mask(errors: Tensor, size: int) -> Tensor:
    """Mark the samples of a batch with the largest errors: (B,) bool. Nothing waits.

    Source: Fan et al. 2017 (average top-k loss) and Kawaguchi & Lu 2020 (Ordered SGD), who sum the largest
    losses of a batch.
    Cost: as of `smallest_margins_mask`; where the look serves as the step's own forward pass, less.
    Does not pay: as there, and with label noise, which has the largest losses.

    Args:
        errors: (B,) floating point, such as losses; NaN is taken last, ties go by index.
        size: how many, in [0, B].

    Raises:
        ValueError: `size` is out of range.
    """
    return smallest_margins_mask(-errors, size)


@dataclass(frozen=True)
class RankedBatch:
    """Base of the strategies that keep the extreme of one score of every batch.

    A ranking needs no more than an order, so a proxy may look in the network's place.

    Attributes:
        ratio: fraction of every batch to keep, to the nearest number but at least one sample, in (0, 1].
    """

    ratio: float = 0.5

    def __post_init__(self) -> None:
        fraction("ratio", self.ratio)

    def mask(self, batch: Signals, size: int) -> Tensor:
        """Mark the `size` samples to keep: (B,) bool."""
        raise NotImplementedError

    def keep(self, batch: Signals, *, progress: float, generator: Generator) -> BatchSelection:
        """Keep the extreme; see `BatchStrategy.keep`."""
        size = selection_size(batch.count, self.ratio) if batch.count else 0
        return BatchSelection(self.mask(batch, size), count=size)


@dataclass(frozen=True)
class BatchLoss(RankedBatch):
    """`hardest_mask` of every batch, by the loss."""

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def mask(self, batch: Signals, size: int) -> Tensor:
        """Mark the largest losses."""
        return hardest_mask(batch.score("loss"), size)


@dataclass(frozen=True)
class BatchMargin(RankedBatch):
    """`smallest_margins_mask` of every batch.

    Attributes:
        kind: which margin; see `smallest_margins`.
    """

    kind: str = "gap"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("kind", self.kind, MARGINS)

    @property
    def needs(self) -> frozenset[str]:
        """The margin of its kind."""
        return frozenset({self.kind})

    def mask(self, batch: Signals, size: int) -> Tensor:
        """Mark the smallest margins."""
        return smallest_margins_mask(batch.score(self.kind), size)
