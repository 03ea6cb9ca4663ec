"""Windows of a whole batch at once: images shifted and mirrored, squares of one colour laid over them.

No sample is handled on its own. On the CPU the windows of bytes are one strided view of the batch, which NumPy cuts, or
fills, in one indexing (long rows are copied, not single bytes); elsewhere one indexing cuts and mirrors. Nothing waits
for the device. "Pixels" have their channels where they lie in memory: second, or last with ``channels_last``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pad = Literal["zeros", "reflect"]


def shift_and_mirror(
    pixels: Tensor,
    padding: int,
    pad: Pad,
    starts: Tensor | None,
    flips: Tensor | None,
    *,
    channels_last: bool,
) -> Tensor:
    """Cut a window of its own size from each padded image, then mirror some left to right.

    Args:
        pixels: (B, C, H, W), or (B, H, W, C); contiguous. Not changed.
        padding: pixels on each side; with reflection less than a side has.
        pad: what they are: zeros, or reflections, the outermost pixels not repeated.
        starts: (2, B) int64, top and left of each window in its padded image; None: not shifted.
        flips: (B,) bool, which to mirror; None: none.
        channels_last: where the channels lie.

    Returns:
        As ``pixels``, which itself it is when there is nothing to do.
    """
    if _by_numpy(pixels):
        return _vary_by_numpy(pixels, padding, pad, starts, flips, channels_last)
    return _vary(pixels, padding, pad, starts, flips, channels_last)


def fill_squares(
    pixels: Tensor,
    size: int,
    starts: Tensor,
    colour: Sequence[float],
    *,
    channels_last: bool,
) -> None:
    """Fill a square of each image, in place.

    Args:
        pixels: (B, C, H, W), or (B, H, W, C); contiguous.
        size: of the squares, in pixels a side.
        starts: (2, B) int64, top and left of each.
        colour: a number for each channel.
        channels_last: where the channels lie.
    """
    if _by_numpy(pixels):
        tops, lefts = starts.numpy()
        filling = np.array(colour, np.uint8).reshape(-1 if channels_last else (-1, 1, 1))
        windows = _windows(pixels.numpy(), size, size, channels_last)
        windows[np.arange(len(tops)), tops, lefts] = filling
        return
    height, width = pixels.shape[1:3] if channels_last else pixels.shape[2:]
    tops, lefts = starts[:, :, None]
    rows = torch.arange(height, device=pixels.device) - tops
    columns = torch.arange(width, device=pixels.device) - lefts
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[
        :, None
    ]
    for channel, value in enumerate(colour):
        pixels.select(3 if channels_last else 1, channel).masked_fill_(inside, value)


def _by_numpy(pixels: Tensor) -> bool:
    return pixels.device.type == "cpu" and pixels.dtype == torch.uint8


def _padded(pixels: Tensor, padding: int, channels_last: bool) -> Tensor:
    sides = (padding,) * 4
    return torch.nn.functional.pad(pixels, (0, 0, *sides) if channels_last else sides)


def _vary_by_numpy(
    pixels: Tensor,
    padding: int,
    pad: Pad,
    starts: Tensor | None,
    flips: Tensor | None,
    channels_last: bool,
) -> Tensor:
    varied = pixels
    if starts is not None:
        height, width = pixels.shape[1:3] if channels_last else pixels.shape[2:]
        padded = _padded(pixels, padding, channels_last)
        if pad == "reflect":
            _reflect_edges(padded, padding, (1, 2) if channels_last else (2, 3))
        tops, lefts = starts.numpy()
        windows = _windows(padded.numpy(), height, width, channels_last)
        varied = torch.from_numpy(windows[np.arange(len(tops)), tops, lefts])
    if flips is not None:
        mirrored = np.flatnonzero(flips.numpy())
        flipped = varied.index_select(0, torch.from_numpy(mirrored)).flip(2 if channels_last else 3)
        if varied is pixels:
            varied = pixels.clone()
        varied.numpy()[mirrored] = flipped.numpy()
    return varied


def _reflect_edges(padded: Tensor, padding: int, axes: tuple[int, int]) -> None:
    """Overwrite the padding by reflections, a line of all images at a time, which is quicker than `numpy.pad`."""
    for axis in axes:
        last = padded.shape[axis] - 1 - padding
        for out in range(1, padding + 1):
            padded.select(axis, padding - out).copy_(padded.select(axis, padding + out))
            padded.select(axis, last + out).copy_(padded.select(axis, last - out))


def _windows(pixels: NDArray[Any], height: int, width: int, channels_last: bool) -> NDArray[Any]:
    """View all windows of all images: [image, top, left] is a window; nothing is copied."""
    if channels_last:
        batch, whole_height, whole_width, channels = pixels.shape
        row, column = pixels.strides[1:3]
        shape = (height, width, channels)
    else:
        batch, channels, whole_height, whole_width = pixels.shape
        row, column = pixels.strides[2:]
        shape = (channels, height, width)
    windows: NDArray[Any] = np.ndarray(
        (batch, whole_height - height + 1, whole_width - width + 1, *shape),
        pixels.dtype,
        buffer=pixels,
        strides=(pixels.strides[0], row, column, *pixels.strides[1:]),
    )
    return windows


def _vary(
    pixels: Tensor,
    padding: int,
    pad: Pad,
    starts: Tensor | None,
    flips: Tensor | None,
    channels_last: bool,
) -> Tensor:
    batch, device = pixels.shape[0], pixels.device
    height, width = pixels.shape[1:3] if channels_last else pixels.shape[2:]
    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    if flips is not None:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    if starts is not None:
        rows = rows + starts[0, :, None]
        columns = columns + starts[1, :, None]
        if pad == "reflect":
            rows, columns = _reflected(rows - padding, height), _reflected(columns - padding, width)
        else:
            pixels = _padded(pixels, padding, channels_last)
    sample = torch.arange(batch, device=device)
    if channels_last:
        return pixels[sample[:, None, None], rows[:, :, None], columns[:, None, :]]
    channel = torch.arange(pixels.shape[1], device=device)
    return pixels[
        sample[:, None, None, None],
        channel[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _reflected(places: Tensor, length: int) -> Tensor:
    """The places in [0, length) whose pixels reflection shows at ``places``, less than ``length`` outside."""
    last = length - 1
    return last - (last - places.abs()).abs()
