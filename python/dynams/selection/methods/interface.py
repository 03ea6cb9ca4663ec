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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

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
class BatchChoice:
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
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
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


@runtime_checkable
class BatchStrategy(Protocol):
    """Chooses the samples of a batch to back-propagate, from the batch's own forward pass."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals wanted of the batch: "loss", "el2n", "irreducible_loss"..."""
        ...

    def keep(self, batch: Signals, *, progress: float, generator: torch.Generator) -> BatchChoice:
        """Choose of the batch.

        Args:
            batch: with at least what `needs` names, of the batch's samples, detached.
            progress: of the training, in [0, 1].
            generator: of random draws.

        Raises:
            ValueError: a signal is missing.
        """
        ...


def check_size(signals: Signals, size: int) -> int:
    """Return `size`.

    Raises:
        ValueError: it is outside [0, signals.count].
    """
    if not 0 <= size <= signals.count:
        raise ValueError(f"size must be in [0, {signals.count}], got {size}")
    return size


def check_share(name: str, value: float, *, one: bool = True) -> None:
    """Refuse a fraction outside [0, 1], or outside [0, 1) without `one`.

    Raises:
        ValueError: naming it.
    """
    if not 0.0 <= value <= 1.0 or (value == 1.0 and not one):
        raise ValueError(f"{name} must be in [0, 1{']' if one else ')'}, got {value!r}")


def uniform(count: int, generator: torch.Generator, device: torch.device | None) -> Tensor:
    """Draw (count,) float64 in [0, 1) on the generator's device, and bring it to `device`."""
    # Apple's GPUs have no float64; a CPU generator, the usual one, has.
    dtype = torch.float32 if generator.device.type == "mps" else torch.float64
    drawn = torch.rand(count, generator=generator, dtype=dtype, device=generator.device)
    return drawn.to(wide_dtype(device)).to(device)


def permutation(count: int, generator: torch.Generator, device: torch.device | None) -> Tensor:
    """Draw a permutation (count,) int64 on the generator's device, and bring it to `device`."""
    return torch.randperm(count, generator=generator, device=generator.device).to(device)


def wide_dtype(device: torch.device | None) -> torch.dtype:
    """Return float64, where the device has it: sums over a million samples stay exact."""
    return torch.float32 if device is not None and device.type == "mps" else torch.float64
