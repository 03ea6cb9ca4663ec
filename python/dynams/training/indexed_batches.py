"""Batches of images that an index finds: read and decoded by workers, varied and normalised on the device.

What a step trains on is, bit for bit, what it would be with the same images decoded beforehand (`ImageBatches`):
they are brought to one size in the same way, and varied by the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynams.cost.clock import Clock
from dynams.data import Augmentation, DatasetData, IndexedImages, augment, normalise
from dynams.data.augmentation import seen
from dynams.data.cifar import AUGMENTATION
from dynams.data.datasets import SampleData, SampleSet
from dynams.data.folder import suited_to_folders
from dynams.data.source import rows_round_robin
from dynams.data.statistics import Moments
from dynams.training.batches import draw_sides, mirrored_in, share
from dynams.training.config import DataConfig
from dynams.training.loading import SampleBatches
from dynams.training.seeds import generator

# Mean and deviation come from all images, or from as many as have so many pixels together: CIFAR-10's all.
_MOST_BYTES = 256 << 20
_BYTES_AT_ONCE = 8 << 20


@dataclass(frozen=True)
class IndexedBatches:
    """Batches of indexed images: float (B, C, H, W). See `dynams.training.batches.Batches`.

    Attributes:
        reading: reads the images, uint8.
        mean: mean of each channel in [0, 1] units.
        std: standard deviation of each channel.
        augmentation: how training images are varied.
        seed: of the augmentation.
    """

    reading: SampleBatches
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    seed: int = 0

    def __len__(self) -> int:
        return len(self.reading)

    def of(self, samples: SampleSet) -> IndexedBatches:
        """Make batches of other samples, read and seen in the same way."""
        return replace(self, reading=replace(self.reading, samples=samples))

    @property
    def device(self) -> torch.device:
        """Where batches are wanted."""
        return self.reading.device

    @property
    def reading_format(self) -> torch.memory_format:
        """Of the batches that are scored or evaluated."""
        return self.reading.reading_format

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the CPU."""
        return self.reading.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of every class."""
        return self.reading.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W), of what is seen of an image."""
        channels, height, width = self.reading.shape
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
        """Yield this process' share of each step, see `Batches.epoch`; workers read ahead."""
        mirrored = mirrored_in(epoch, self._sides, order)
        rank, order = self.reading.rank, order.cpu()
        shares = [share(*each, rank, self.reading.processes) for each in bounds[first_step:]]
        parts = [order[first:last] for first, last in shares]
        batches = self.reading.read(self.reading.samples.name, parts)
        for step, (first, last) in enumerate(shares, first_step):
            with nullcontext() if clock is None else clock.measure("data", last - first):
                raw, labels = next(batches)
                # The draws of `ImageBatches`.
                draws = generator(
                    self.device, self.seed, purpose=purpose, epoch=epoch, step=step, rank=rank
                )
                told = None if mirrored is None else mirrored[first:last]
                varied = augment(raw, self.augmentation, draws, told)
                batch = self._normalised(varied, self.reading.memory_format), labels
            yield batch

    def plain(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples [start, stop) in order, not augmented, ``batch_size`` at a time."""
        return self.picked(torch.arange(start, stop, device="cpu"), batch_size)

    def picked(self, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples ``indices`` (n,) int64 in that order, not augmented."""
        parts = torch.split(indices.cpu(), batch_size) if len(indices) else ()
        for raw, labels in self.reading.read(self.reading.samples.plain, parts):
            yield self._normalised(seen(raw, self.augmentation), self.reading_format), labels

    def pictures(self, indices: Tensor) -> Tensor | None:
        """Return the images ``indices`` (n,) int64, uint8 (n, C, H, W)."""
        return self.reading.pictures(indices)

    def fingerprint(self, known: SampleData) -> dict[str, Any]:
        """Collect what tells the data from others, as `dynams.training.batches.fingerprint` does of images in memory."""
        told = {name: value for name, value in known.fingerprint().items() if name != "dtype"}
        for name, values in (("mean", self.mean), ("std", self.std)):
            told[name] = [round(value, 5) for value in values]
        return told

    @cached_property
    def _sides(self) -> Tensor | None:
        if not self.augmentation.alternating:
            return None
        return draw_sides(len(self), self.seed, self.device)

    def _normalised(self, raw: Tensor, memory_format: torch.memory_format) -> Tensor:
        return normalise(raw, self.mean, self.std, dtype=torch.float32, memory_format=memory_format)


def find_indexed(config: DataConfig, fabric: Fabric) -> DatasetData:
    """Open the indexes of both splits that ``config`` names; where there are none, one process of a host makes them.

    Raises:
        ValueError: they cannot be had as configured.
    """
    assert config.path is not None  # `check_early` has asked
    assert config.name != "digits"  # and whoever calls
    opened = partial(
        IndexedImages,
        config.path,
        image_size=config.image_size,
        name=config.name,
        image_column=config.image_column,
        label_column=config.label_column,
        index_dir=config.cache,
        tell=fabric.global_rank == 0,
    )
    with fabric.rank_zero_first(local=True) if fabric.world_size > 1 else nullcontext():
        train, test = opened(split="train"), opened(split="test")
    return DatasetData(train, test)


def suited_to(config: DataConfig, shape: Sequence[int]) -> Augmentation:
    """Return the augmentation that suits images (C, H, W) of the data set that ``config`` names."""
    return AUGMENTATION if config.name == "cifar10" else suited_to_folders(min(shape[1:]))


def first_of_each(samples: SampleSet, limit: int) -> SampleSet:
    """Take the first ``limit`` samples, or of those that lie class by class the first of each, then the second, and so on."""
    order = np.arange(len(samples), dtype=np.int64)
    labels = samples.labels.numpy()
    if (np.diff(labels) >= 0).all():
        order = rows_round_robin(labels)
    return samples.subset(torch.from_numpy(np.sort(order[:limit])))


def told_moments(reading: SampleBatches, fabric: Fabric) -> Moments:
    """Add up the pixels of the samples, or of some evenly spaced; every process reads its share of them."""
    size = math.prod(reading.shape)
    count = max(1, min(len(reading), _MOST_BYTES // size))
    rows = torch.arange(count, device="cpu") * len(reading) // count
    first, last = share(0, count, reading.rank, reading.processes)
    parts = torch.split(rows[first:last], max(1, _BYTES_AT_ONCE // size)) if last > first else ()
    batches = reading.read(reading.samples.plain, parts)
    channels = reading.shape[0]
    mine = Moments.of(channels, (images.cpu().numpy() for images, _ in batches))
    sums = torch.tensor([mine.pixels, *mine.sums, *mine.squares], device=fabric.device)
    if fabric.world_size > 1:
        sums = torch.as_tensor(fabric.all_gather(sums)).sum(0)
    pixels, *told = sums.tolist()
    return Moments(pixels, tuple(told[:channels]), tuple(told[channels:]))
