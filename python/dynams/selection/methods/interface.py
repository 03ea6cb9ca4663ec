"""The interface of a strategy: what it is told about the samples, and what it answers.

A strategy of epochs (`Strategy`) chooses the samples that the next epochs train on, from the signals
that a scoring pass or the training itself left behind. A strategy of batches (`BatchStrategy`) chooses
inside a training step which samples of the batch to back-propagate, from the batch's own forward pass.

**Weights.** The trainer's loss of a batch is the sum of w_i * loss_i over its samples, divided by their
number (not by the sum of their weights). Selections therefore state their weights so that the mean over
the whole selection is 1: exactly for the weights of clusters and pursuits, in expectation for those of
importance sampling, whose average would be biased if it were forced to 1. InfoBatch is the one
exception, stated there.

**Randomness** comes from the generator handed in and from nothing else. It is drawn on the generator's
own device: with a CPU generator every device and every process gets the same draw.

Behind each stands a plain function of tensors, the first thing in its method's file, which any loop may call,
also with scores that have a gradient: choices and weights pass none on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

import dynams_kernels as dk
from dynams.selection.signals import Signals


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples to train on.

    Attributes:
        indices: (k,) int64, distinct, ascending.
        weights: (k,) float32, positive: of each sample's loss; None: all 1.
    """

    indices: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True, eq=False)
class BatchSelection:
    """The samples of a batch to back-propagate.

    Attributes:
        mask: (B,) bool, at least one True unless the batch is empty.
        weights: (B,) float32 of each sample's loss, 0 where dropped; None: all 1. The loss to
            back-propagate is the sum of weight * loss over the kept, divided by their number.
        count: how many are kept, where that is known without looking.
    """

    mask: Tensor
    weights: Tensor | None = None
    count: int | None = None

    @property
    def indices(self) -> Tensor:
        """(k,) int64 ascending: places in the batch. Waits for the device unless `count` is known."""
        if self.count is None:
            return self.mask.nonzero().flatten()
        return dk.smallest_k((~self.mask).float(), self.count).indices


@runtime_checkable
class Strategy(Protocol):
    """Chooses the samples that the next epochs train on."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the scores, and "labels", "features", "residuals", "validation.features"..."""
        ...

    @property
    def dynamic(self) -> bool:
        """True: as published it chooses again at every refresh; False: once."""
        ...

    @property
    def budgeted(self) -> bool:
        """False: the method decides itself how many to keep, and `size` has no effect."""
        ...

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Choose `size` samples.

        Args:
            signals: with at least what `needs` names.
            size: how many to keep, in [0, signals.count].
            epoch: the first epoch that will train on them, from 0.
            progress: of the scheduled epochs, in [0, 1].
            generator: of random draws.

        Raises:
            ValueError: a signal is missing or `size` is out of range.
        """
        ...


@dataclass(frozen=True)
class Around:
    """Base of strategies that wrap another: as that one, where nothing else is said.

    Attributes:
        strategy: what is wrapped.
    """

    strategy: Strategy

    @property
    def needs(self) -> frozenset[str]:
        """What the strategy needs."""
        return self.strategy.needs

    @property
    def dynamic(self) -> bool:
        """Whether it selects again at every refresh."""
        return self.strategy.dynamic

    @property
    def budgeted(self) -> bool:
        """Whether it keeps to the size."""
        return self.strategy.budgeted


@runtime_checkable
class BatchStrategy(Protocol):
    """Chooses the samples of a batch to back-propagate, from the batch's own forward pass."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals wanted of the batch: "loss", "el2n", "irreducible_loss"..."""
        ...

    def keep(self, batch: Signals, *, progress: float, generator: Generator) -> BatchSelection:
        """Choose of the batch.

        Args:
            batch: with at least what `needs` names, of the batch's samples, detached.
            progress: of the training, in [0, 1].
            generator: of random draws.

        Raises:
            ValueError: a signal is missing.
        """
        ...
