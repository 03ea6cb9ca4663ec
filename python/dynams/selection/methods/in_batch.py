"""The hardest part of every batch: chosen inside the step, or beforehand by a small network of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import fraction, number, one_of, whole
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


class Filter:
    """`hardest_mask` of every batch by the losses of a small network of its own, trained before the network.

    The small one sees the very batches of the training to come, augmented alike. It keeps the largest losses of
    each and trains on them at every `every`-th step. What it kept is trained on in the end, with no look at all.

    Source: the filtered recipe of cifar10-airbench (Jordan 2024); selecting by a small network trained first is
    that of Coleman et al. 2020.
    Cost: a forward pass of the small network for every sample of every epoch, a step of it on the kept for every
    `every`-th batch, and each batch made twice. One byte a sample and epoch of memory, and of every checkpoint.
    Does not pay: where the small network is not much cheaper than the kept batch's step saves, on small
    images and thin networks; nor does it follow what the network itself has learnt.

    Args:
        ratio: fraction of every batch to keep, to the nearest number but at least one sample, in (0, 1].
        every: steps from one update of the small network to the next.
        model: name of the small network.
        channels: of its groups, where it is a "sprint" network.
        depth: convolutions of its groups, where it is a "sprint" network.

    Attributes:
        choices: (epochs that select, N) bool: row by row which places of an epoch's order are trained on;
            None: the small network has not been trained yet.

    Raises:
        ValueError: an argument out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(
        self,
        ratio: float = 0.5,
        every: int = 4,
        model: str = "sprint",
        channels: Sequence[int] = (32, 64, 64),
        depth: int = 2,
    ) -> None:
        self.ratio = number("ratio", ratio, "(0, 1]")
        self.every = whole("every", every, 1)
        self.model = model
        self.channels = tuple(whole("channels", each, 1) for each in channels)
        self.depth = whole("depth", depth, 1)
        self.choices: Tensor | None = None

    @property
    def rows(self) -> int | None:
        """Epochs that there are choices for; None: there are none yet."""
        return None if self.choices is None else len(self.choices)

    def kept(self, count: int) -> int:
        """How many it keeps of a batch of `count`."""
        return selection_size(count, self.ratio) if count else 0

    def kept_of(self, losses: Tensor) -> BatchSelection:
        """Keep the largest of the small network's losses (B,) of a batch."""
        size = self.kept(len(losses))
        return BatchSelection(hardest_mask(losses, size), count=size)

    def keep(self, batch: Signals, *, progress: float, generator: Generator) -> BatchSelection:
        """Keep the largest of the small network's losses; see `BatchStrategy.keep`."""
        return self.kept_of(batch.score("loss"))

    def replay(self, row: int, start: int, stop: int) -> BatchSelection:
        """Return what was kept of the places [start, stop) of the order of the `row`-th epoch that selects.

        Raises:
            RuntimeError: nothing was kept yet.
        """
        if self.choices is None:
            raise RuntimeError("choices: got None, want the small network trained first")
        return BatchSelection(self.choices[row, start:stop], count=self.kept(stop - start))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the choices: "choices" (E, N) bool, or None."""
        return {"choices": None if self.choices is None else self.choices.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it lacks the choices.
        """
        if "choices" not in state:
            raise ValueError("state: got no choices, want all entries")
        choices = state["choices"]
        self.choices = None if choices is None else choices.clone()
