"""Batches: which samples a step trains on, and how their bytes become a float batch on the device.

An epoch's order is cut into steps of even size, so no sample is left over and no step is much
smaller than the others; every step is cut into one share for each process. Images stay bytes until
their batch is needed; augmentation and normalisation work on whole batches where the images are.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from dynams.cost.clock import Clock
from dynams.data import Augmentation, ImageData, ImageSet, augment, normalise
from dynams.data.augmentation import seen
from dynams.training.config import DataConfig
from dynams.training.seeds import generator


def step_bounds(samples: int, batch_size: int, *, drop_last: bool = False) -> list[tuple[int, int]]:
    """Cut ``samples`` into the fewest steps of at most ``batch_size``, sizes differing by at most 1.

    With ``drop_last`` into steps of exactly ``batch_size``: fewer samples than that at the end are in none.

    Returns:
        (start, stop) of each step, in order, together covering [0, samples).
    """
    if drop_last:
        samples -= samples % batch_size
    steps = -(-samples // batch_size)
    edges = [samples * step // steps for step in range(steps + 1)] if steps else [0]
    return list(itertools.pairwise(edges))


def share(start: int, stop: int, rank: int, processes: int) -> tuple[int, int]:
    """Return the part of [start, stop) that process ``rank`` handles; sizes differ by at most 1."""
    length = stop - start
    return start + length * rank // processes, start + length * (rank + 1) // processes


def resolve_augmentation(
    config: DataConfig,
    suited: Augmentation,
    shape: tuple[int, ...],
    mean: Sequence[float],
) -> Augmentation:
    """Return the augmentation that ``config`` asks for; what it leaves open is as suits the data.

    Args:
        config: may leave things open.
        suited: what suits the data.
        shape: (C, H, W) of the images.
        mean: of each channel in [0, 1] units, the colour of squares.

    Raises:
        ValueError: images are too small for it, or a setting is of variations that there are not.
    """
    resized = config.crop == "random-resized" or (
        config.crop == "auto" and suited.random_resized and config.crop_padding is None
    )
    size = config.crop_size
    if size is None and resized:
        size = min(shape[1:]) * 7 // 8 if suited.size is None else suited.size
    if size is not None and size > min(shape[1:]):
        raise ValueError(
            f"data.crop_size: got {size} for images of {shape[1]} x {shape[2]}, want at most those"
        )
    if not config.augment:
        return Augmentation(size=size)
    padding = suited.crop_padding if config.crop_padding is None else config.crop_padding
    padding = 0 if resized else padding
    flip = suited.flip if config.flip is None else config.flip
    if config.flips == "alternating" and not flip:
        raise ValueError(
            "data.flips: got alternating for images that are not mirrored, want random, or data.flip=true"
        )
    if config.pad == "reflect" and not padding:
        raise ValueError("data.pad: got reflect for images that are not shifted, want zeros")
    made = Augmentation(
        crop_padding=padding,
        flip=flip,
        random_resized=resized,
        size=size,
        pad=config.pad,
        alternating=config.flips == "alternating",
        cutout=config.cutout,
        colour=tuple(round(255 * each) for each in mean) if config.cutout else None,
    )
    try:
        made.check(*shape[1:])
    except ValueError as error:
        raise ValueError(f"data.{error}") from None
    return made


def draw_sides(samples: int, seed: int, device: torch.device) -> Tensor:
    """Draw which of the samples are mirrored in even epochs, not in odd ones: (N,) bool, the same on every device."""
    draws = generator("cpu", seed, purpose="sides")
    sides = torch.randint(0, 2, (samples,), generator=draws, dtype=torch.bool, device="cpu")
    return sides.to(device)


def mirrored_in(epoch: int, sides: Tensor | None, order: Tensor) -> Tensor | None:
    """Tell which samples of an epoch's ``order`` (n,) int64 are mirrored, (n,) bool on the device of ``sides``; of None, None."""
    return None if sides is None else sides[order.to(sides.device)] ^ (epoch % 2 == 1)


def fingerprint(data: ImageData) -> dict[str, Any]:
    """Collect what tells one data set from another: sizes, classes, a digest of the labels, mean and std."""
    labels = torch.cat([data.train.labels, data.test.labels]).cpu().contiguous()
    return {
        "train": len(data.train),
        "test": len(data.test),
        "shape": list(data.train.images.shape[1:]),
        "classes": list(data.train.classes),
        "labels": hashlib.sha256(labels.numpy().tobytes()).hexdigest(),
        "mean": [round(value, 5) for value in data.mean],
        "std": [round(value, 5) for value in data.std],
    }


class Batches(Protocol):
    """A set of samples, and how they become batches (B, ...) and labels (B,) int64 on the device.

    Attributes:
        device: where batches are.
        reading_format: memory format of the batches that are scored or evaluated, by networks in the same.
        labels: (N,) int64, of all samples.
        classes: name of every class; a label is a position in it.
        shape: of one sample, channels first.
    """

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def reading_format(self) -> torch.memory_format: ...  # noqa: D102

    @property
    def labels(self) -> Tensor: ...  # noqa: D102

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def epoch(
        self,
        order: Tensor,
        bounds: Sequence[tuple[int, int]],
        *,
        epoch: int,
        first_step: int = 0,
        purpose: str = "augmentation",
        clock: Clock | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process' share of each step of an epoch, varied as training wants it, one by one.

        Args:
            order: (n,) int64, the samples of the epoch, in order.
            bounds: (start, stop) of every step in ``order``, see `step_bounds`.
            epoch: which; with step and rank it decides the random draws.
            first_step: the step to begin with.
            purpose: what the draws are for.
            clock: counts what making a batch takes, as "data".
        """

    def plain(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples [start, stop) in order, not varied, ``batch_size`` at a time."""

    def picked(self, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples ``indices`` (n,) int64 in that order, not varied."""

    def pictures(self, indices: Tensor) -> Tensor | None:
        """Return the samples ``indices`` (n,) int64 as pictures (n, C, H, W) uint8; None if they are none."""


@dataclass(frozen=True)
class ImageBatches:
    """Batches of images in memory: float (B, C, H, W), made on the device from the images' bytes.

    Attributes:
        images: the samples.
        device: where batches are wanted.
        mean: mean of each channel in [0, 1] units.
        std: standard deviation of each channel.
        augmentation: how training images are varied.
        memory_format: of training batches.
        reading_format: of the batches that are scored or evaluated, by networks in the same format.
        seed: of the augmentation.
        rank: which of the processes this is.
        processes: how many share every step.
    """

    images: ImageSet
    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    memory_format: torch.memory_format = torch.contiguous_format
    reading_format: torch.memory_format = torch.contiguous_format
    seed: int = 0
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """(N,) int64, where the images are kept."""
        return self.images.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of every class."""
        return self.images.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W), of what is seen of an image."""
        channels, height, width = self.images.images.shape[1:]
        size = self.augmentation.size
        return (channels, height, width) if size is None else (channels, size, size)

    def epoch(
        self,
        order: Tensor,
        bounds: Sequence[tuple[int, int]],
        *,
        epoch: int,
        first_step: int = 0,
        purpose: str = "augmentation",
        clock: Clock | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process' share of each step, see `Batches.epoch`; each is made when it is asked for."""
        with _measured(clock, 0):
            mirrored = mirrored_in(epoch, self._sides, order)
            order = order.to(self._kept)
        for step in range(first_step, len(bounds)):
            first, last = share(*bounds[step], self.rank, self.processes)
            with _measured(clock, last - first):
                draws = generator(
                    self.device,
                    self.seed,
                    purpose=purpose,
                    epoch=epoch,
                    step=step,
                    rank=self.rank,
                )
                told = None if mirrored is None else mirrored[first:last]
                batch = self.training(order[first:last], draws, told)
            yield batch

    def training(
        self, indices: Tensor, draws: torch.Generator, mirrored: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make a batch of the samples ``indices`` (B,) int64, which lie where the images lie.

        ``draws``, on ``device``, decides their augmentation; ``mirrored`` as `augment` takes it.
        """
        raw, labels = self.images.batch(indices, self.device)
        varied = augment(raw, self.augmentation, draws, mirrored)
        return self._normalised(varied, self.memory_format), labels

    def plain(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples [start, stop) in order, not augmented, ``batch_size`` at a time."""
        images = self.images
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            if self._kept == self.device:
                raw, labels = images.images[first:last], images.labels[first:last]
            else:
                raw, labels = images.batch(
                    torch.arange(first, last, device=self._kept), self.device
                )
            yield self._plain(raw), labels

    def picked(self, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples ``indices`` (n,) int64 in that order, not augmented."""
        for part in torch.split(indices.to(self._kept), batch_size):
            raw, labels = self.images.batch(part, self.device)
            yield self._plain(raw), labels

    def pictures(self, indices: Tensor) -> Tensor:
        """Return the images ``indices`` (n,) int64 as they are kept, uint8 (n, C, H, W)."""
        return self.images.images[indices.to(self._kept)]

    @cached_property
    def _sides(self) -> Tensor | None:
        if not self.augmentation.alternating:
            return None
        return draw_sides(len(self), self.seed, self.device)

    @property
    def _kept(self) -> torch.device:
        return self.images.images.device

    def _plain(self, raw: Tensor) -> Tensor:
        return self._normalised(seen(raw, self.augmentation), self.reading_format)

    def _normalised(self, raw: Tensor, memory_format: torch.memory_format) -> Tensor:
        return normalise(raw, self.mean, self.std, dtype=torch.float32, memory_format=memory_format)


def _measured(clock: Clock | None, samples: int) -> AbstractContextManager[None]:
    return nullcontext() if clock is None else clock.measure("data", samples)
