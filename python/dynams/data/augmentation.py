"""Random crops and mirror images of a whole uint8 batch at once, where the batch lies.

Small images are shifted: an image is surrounded by `crop_padding` black pixels, a window of its own size is
cut at a random place, and half the windows are mirrored. No sample is handled on its own: on the CPU the
windows are one strided view of the padded batch and are cut in one NumPy indexing (long rows are copied, not
single bytes); elsewhere one indexing cuts and mirrors. Large images have boxes of random size cut from them
instead (`resized_crop`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynams.checks import whole
from dynams.data.resized_crop import centre_crop, random_resized_crops


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied, and how much of an image is seen.

    Attributes:
        crop_padding: largest shift in pixels, up, down, left and right; 0: none.
        flip: mirror an image left to right with probability one half.
        random_resized: cut a box of random size and shape from every image instead, brought to ``size``.
        size: side in pixels of what is seen: of the random box once it is resized, else, and wherever
            images are not varied, of the image's centre; None: the whole image, boxes keeping its height.

    Raises:
        TypeError, ValueError: a value is none of these, or images would be both shifted and resized.
    """

    crop_padding: int = 0
    flip: bool = False
    random_resized: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop_padding", whole("crop_padding", self.crop_padding, 0))
        for name in ("flip", "random_resized"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: got {getattr(self, name)!r}, want True or False")
        if self.random_resized and self.crop_padding:
            raise ValueError(f"crop_padding: got {self.crop_padding} with random_resized, want 0")
        if self.size is not None:
            object.__setattr__(self, "size", whole("size", self.size, 1))


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Shift, or cut a box from, and mirror each image of a batch at random.

    Everything random comes from ``generator``: first, with ``crop_padding`` p > 0,
    ``torch.randint(0, 2 p + 1, (2, B))``, the rows and columns at which the windows start in the
    padded images; then, with ``flip``, ``torch.randint(0, 2, (B,))``, 1 to mirror; of boxes, see
    `random_resized_crops`. The same state of the generator gives the same batch. Nothing waits for
    the device.

    Args:
        images: (B, C, H, W), uint8; other dtypes pass too. Not changed.
        augmentation: what to vary.
        generator: on the device of ``images``.

    Returns:
        (B, C, H, W), or (B, C, size, size), of the same dtype, device and memory format; ``images``
        itself when ``augmentation`` asks for nothing, a view where only for the centre.

    Raises:
        ValueError: ``images`` has not four dimensions, or ``generator`` is on another device.
    """
    if images.dim() != 4:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want (B, C, H, W)")
    if generator.device.type != images.device.type:
        raise ValueError(
            f"generator: got one on {generator.device}, want the device of images, {images.device}"
        )
    if augmentation.random_resized:
        size = images.shape[2] if augmentation.size is None else augmentation.size
        return random_resized_crops(images, size, generator, flip=augmentation.flip)
    images = seen(images, augmentation)
    batch, padding = images.shape[0], augmentation.crop_padding
    starts = flips = None
    if padding:
        starts = torch.randint(
            0, 2 * padding + 1, (2, batch), generator=generator, device=images.device
        )
    if augmentation.flip:
        flips = torch.randint(0, 2, (batch,), generator=generator, device=images.device)
    if images.numel() == 0:
        return images
    channels_last = not images.is_contiguous() and images.is_contiguous(
        memory_format=torch.channels_last
    )
    # From here on "pixels" has its channels where they lie in memory: last or second.
    pixels = images.permute(0, 2, 3, 1) if channels_last else images.contiguous()
    if images.device.type == "cpu" and images.dtype == torch.uint8:
        varied = _vary_on_cpu(pixels, padding, starts, flips, channels_last)
    else:
        varied = _vary(pixels, padding, starts, flips, channels_last)
    return varied.permute(0, 3, 1, 2) if channels_last else varied


def seen(images: Tensor, augmentation: Augmentation) -> Tensor:
    """View what is seen of images (B, C, H, W) that are not varied: all, or the centre."""
    return images if augmentation.size is None else centre_crop(images, augmentation.size)


def _pad(pixels: Tensor, padding: int, channels_last: bool) -> Tensor:
    sides = (padding,) * 4
    return torch.nn.functional.pad(pixels, (0, 0, *sides) if channels_last else sides)


def _vary_on_cpu(
    pixels: Tensor,
    padding: int,
    starts: Tensor | None,
    flips: Tensor | None,
    channels_last: bool,
) -> Tensor:
    varied = pixels
    if starts is not None:
        padded = _pad(pixels, padding, channels_last).numpy()
        tops, lefts = starts.numpy()
        windows = _windows(padded, padding, channels_last)
        varied = torch.from_numpy(windows[np.arange(len(tops)), tops, lefts])
    if flips is not None:
        mirrored = np.flatnonzero(flips.numpy())
        flipped = varied.index_select(0, torch.from_numpy(mirrored)).flip(2 if channels_last else 3)
        if varied is pixels:
            varied = pixels.clone()
        varied.numpy()[mirrored] = flipped.numpy()
    return varied


def _windows(padded: NDArray[np.uint8], padding: int, channels_last: bool) -> NDArray[np.uint8]:
    """View all windows of all padded images: [image, top, left] is a window; nothing is copied."""
    places = 2 * padding + 1
    if channels_last:
        batch, height, width, channels = padded.shape
        row, column = padded.strides[1:3]
        shape = (height - 2 * padding, width - 2 * padding, channels)
    else:
        batch, channels, height, width = padded.shape
        row, column = padded.strides[2:]
        shape = (channels, height - 2 * padding, width - 2 * padding)
    windows: NDArray[np.uint8] = np.ndarray(
        (batch, places, places, *shape),
        np.uint8,
        buffer=padded,
        strides=(padded.strides[0], row, column, *padded.strides[1:]),
    )
    return windows


def _vary(
    pixels: Tensor,
    padding: int,
    starts: Tensor | None,
    flips: Tensor | None,
    channels_last: bool,
) -> Tensor:
    batch, device = pixels.shape[0], pixels.device
    height, width = pixels.shape[1:3] if channels_last else pixels.shape[2:]
    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    if flips is not None:
        columns = torch.where(flips.bool()[:, None], columns.flip(1), columns)
    if starts is not None:
        pixels = _pad(pixels, padding, channels_last)
        rows = rows + starts[0, :, None]
        columns = columns + starts[1, :, None]
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
