"""Batches: which samples a step trains on, and how their bytes become a float batch on the device.

An epoch's order is cut into steps of even size, so no sample is left over and no step is much
smaller than the others; every step is cut into one share for each process. Images stay bytes until
their batch is needed; augmentation and normalisation work on whole batches where the images are.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynams.data import Augmentation, ImageData, ImageSet, augment, normalise
from dynams.training.config import DataConfig


def step_bounds(samples: int, batch_size: int) -> list[tuple[int, int]]:
    """Cut ``samples`` into the fewest steps of at most ``batch_size``, sizes differing by at most 1.

    Returns:
        (start, stop) of each step, in order, together covering [0, samples).
    """
    steps = -(-samples // batch_size)
    edges = [samples * step // steps for step in range(steps + 1)] if steps else [0]
    return list(itertools.pairwise(edges))


def share(start: int, stop: int, rank: int, processes: int) -> tuple[int, int]:
    """Return the part of [start, stop) that process ``rank`` handles; sizes differ by at most 1."""
    length = stop - start
    return start + length * rank // processes, start + length * (rank + 1) // processes


def resolve_augmentation(config: DataConfig, suited: Augmentation) -> Augmentation:
    """Return the augmentation that ``config`` asks for; what it leaves open is as suits the data."""
    if not config.augment:
        return Augmentation(crop_padding=0, flip=False)
    return Augmentation(
        crop_padding=suited.crop_padding if config.crop_padding is None else config.crop_padding,
        flip=suited.flip if config.flip is None else config.flip,
    )


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


@dataclass(frozen=True)
class Batches:
    """Makes float batches (B, C, H, W) and labels (B,) int64 on ``device``.

    Attributes:
        device: where batches are wanted.
        mean: mean of each channel in [0, 1] units.
        std: standard deviation of each channel.
        augmentation: how training images are varied.
        memory_format: of training batches.
        reading_format: of the batches that are scored or evaluated, by networks in the same format.
    """

    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    memory_format: torch.memory_format = torch.contiguous_format
    reading_format: torch.memory_format = torch.contiguous_format

    def training(
        self, images: ImageSet, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Make a batch of the samples ``indices`` (B,) int64, which lie where the images lie.

        ``generator``, on ``device``, draws their augmentation.
        """
        raw, labels = images.batch(indices, self.device)
        varied = augment(raw, self.augmentation, generator)
        return self._finish(varied, self.memory_format), labels

    def plain(
        self, images: ImageSet, start: int, stop: int, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples [start, stop) in order, not augmented, ``batch_size`` at a time."""
        kept = images.images.device
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            if kept == self.device:
                raw, labels = images.images[first:last], images.labels[first:last]
            else:
                raw, labels = images.batch(torch.arange(first, last, device=kept), self.device)
            yield self._finish(raw, self.reading_format), labels

    def picked(
        self, images: ImageSet, indices: Tensor, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples ``indices`` (n,) int64 in that order, not augmented."""
        for part in torch.split(indices.to(images.images.device), batch_size):
            raw, labels = images.batch(part, self.device)
            yield self._finish(raw, self.reading_format), labels

    def _finish(self, raw: Tensor, memory_format: torch.memory_format) -> Tensor:
        return normalise(raw, self.mean, self.std, dtype=torch.float32, memory_format=memory_format)
