"""Mean and standard deviation of every channel, exact up to the last division.

Pixels are whole numbers, so their sum and the sum of their squares are too: both come from counts of
the 256 values and are kept as Python integers; the variance is a ratio of two integers. The result
does not depend on the order, the grouping or the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """Pixels seen in each channel, their sums and the sums of their squares, one a channel."""

    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]

    @classmethod
    def of(cls, channels: int, chunks: Iterable[NDArray[np.uint8]]) -> Moments:
        """Add up the pixels of all images in ``chunks``, each (n, channels, H, W)."""
        pixels = 0
        counts = torch.zeros(channels, 256, dtype=torch.int64, device="cpu")
        for images in chunks:
            pixels += images.shape[0] * images.shape[2] * images.shape[3]
            for channel in range(channels):
                values = torch.from_numpy(images[:, channel].reshape(-1))
                counts[channel] += torch.bincount(values, minlength=256)
        rows = counts.tolist()
        return cls(
            pixels=pixels,
            sums=tuple(sum(n * value for value, n in enumerate(row)) for row in rows),
            squares=tuple(sum(n * value**2 for value, n in enumerate(row)) for row in rows),
        )

    def mean(self) -> tuple[float, ...]:
        """Return the mean of each channel in [0, 1] units."""
        return tuple(total / (255 * self.pixels) for total in self.sums)

    def std(self) -> tuple[float, ...]:
        """Return the standard deviation (of the population) of each channel in [0, 1] units.

        A constant channel has 1: whatever it is divided by, it is zero after the mean is taken off.
        """
        return tuple(
            math.sqrt(self.pixels * square - total * total) / (255 * self.pixels) or 1.0
            for total, square in zip(self.sums, self.squares, strict=True)
        )
