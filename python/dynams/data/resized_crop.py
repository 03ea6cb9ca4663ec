"""Boxes of random size and shape, cut from a whole batch and brought to one size where the batch lies.

What ImageNet-sized images are customarily trained on: torchvision's `RandomResizedCrop` (C. Szegedy et al.,
Going deeper with convolutions, 2015) with its antialiased bilinear filter, the same as Pillow's. Every sample
has a box of its own; its two filters, one an axis, are matrices (rows of a triangle's weights), so that a batch
is two batched matrix products on any device: 0.17 GFLOP for 3 x 256 x 256 -> 224, a 150th of a ResNet-50's
training step. A CPU, where that took 4.2 ms an image, does large ones one by one with torch's own filter, in
1.6 ms (one thread). `grid_sample` has no antialiasing: it reads two pixels an axis however many the box holds.
Beside Pillow it was wrong by up to 93 of 255 levels in noise of 256 pixels cut and brought to 224 (mean 1.1; 0.4
in smoother pictures), by 32 in the mean at 64; the filters by at most 1, Pillow's own rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Of the image's area, and of width to height: torchvision's.
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10
# Side of a result from which a CPU is quicker with one image after the other.
_LARGE = 96


def draw_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw boxes as torchvision does: area, then shape, in ten tries; else the largest central box allowed.

    Drawn are ``torch.rand((2, 10, count))``, areas and shapes, then ``torch.rand((2, count))``, the places;
    in float64, on devices without it in float32.

    Args:
        count: number of boxes B.
        height: of the images.
        width: of the images.
        generator: on the device where the boxes are wanted.

    Returns:
        (4, B) int64: top, left, height and width.
    """
    device = generator.device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    areas, shapes = torch.rand((2, _TRIES, count), generator=generator, device=device, dtype=dtype)
    rows, columns = torch.rand((2, count), generator=generator, device=device, dtype=dtype)
    areas = (SCALE[0] + (SCALE[1] - SCALE[0]) * areas) * (height * width)
    low, high = map(math.log, RATIO)
    shapes = (low + (high - low) * shapes).exp()
    widths, heights = (areas * shapes).sqrt().round(), (areas / shapes).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)
    found = fits.any(0)
    central_height, central_width = _central_box(height, width)
    box_height = torch.where(found, heights.gather(0, first)[0], central_height)
    box_width = torch.where(found, widths.gather(0, first)[0], central_width)
    # Rounding could make a place just below 1 the one beyond the last.
    top = torch.minimum((rows * (height - box_height + 1)).floor(), height - box_height)
    left = torch.minimum((columns * (width - box_width + 1)).floor(), width - box_width)
    top = torch.where(found, top, (height - central_height) // 2)
    left = torch.where(found, left, (width - central_width) // 2)
    return torch.stack([top, left, box_height, box_width]).long()


def resample(images: Tensor, boxes: Tensor, size: int, flips: Tensor | None = None) -> Tensor:
    """Bring a box of each image to ``size`` x ``size``, bilinear and antialiased; nothing outside is read.

    Args:
        images: (B, C, H, W). Not changed.
        boxes: (4, B) int64, top, left, height and width, on the device of ``images``.
        size: side of the result in pixels.
        flips: (B,) bool, which to mirror left to right; None: none.

    Returns:
        (B, C, size, size) of the same dtype and memory format; whole numbers are rounded.
    """
    each = images.device.type == "cpu" and size >= _LARGE
    way = resample_one_by_one if each else resample_by_matrices
    with torch.autocast(images.device.type, enabled=False):
        result = way(images, boxes, size, flips)
    if not images.is_floating_point():
        result.round_()
    channels_last = not images.is_contiguous() and images.is_contiguous(
        memory_format=torch.channels_last
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return result.to(images.dtype, memory_format=layout)


def resample_one_by_one(images: Tensor, boxes: Tensor, size: int, flips: Tensor | None) -> Tensor:
    """Do what `resample` does by a call for each image; not rounded, in float32, or float64 of float64."""
    exact = _exact(images)
    result = torch.empty((*images.shape[:2], size, size), dtype=exact, device=images.device)
    for place, (top, left, height, width) in enumerate(boxes.T.tolist()):
        box = images[place, None, :, top : top + height, left : left + width]
        result[place] = nn.functional.interpolate(
            box.contiguous().to(exact), (size, size), mode="bilinear", antialias=True
        )[0]
    if flips is not None:
        result[flips] = result[flips].flip(3)
    return result


def resample_by_matrices(images: Tensor, boxes: Tensor, size: int, flips: Tensor | None) -> Tensor:
    """Do what `resample` does by matrix products; not rounded, in float32, or float64 of float64."""
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = boxes
    exact = _exact(images)
    down = _filter(top, box_height, height, size, None, exact)
    across = _filter(left, box_width, width, size, flips, exact)
    rows = images.contiguous().to(exact).view(batch, channels * height, width)
    narrow = torch.bmm(rows, across.transpose(1, 2)).view(batch, channels, height, size)
    result = torch.empty((batch, channels, size, size), dtype=exact, device=images.device)
    for channel in range(channels):
        result[:, channel] = torch.bmm(down, narrow[:, channel])
    return result


def centre_crop(images: Tensor, size: int) -> Tensor:
    """View the middle ``size`` x ``size`` pixels of images (B, C, H, W); of an odd rest, less is cut at the top and left.

    Raises:
        ValueError: the images are smaller.
    """
    height, width = images.shape[2:]
    if min(height, width) < size:
        raise ValueError(f"size: got {size} for images of {height} x {width}, want at most those")
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, :, top : top + size, left : left + size]


def _exact(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def _central_box(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest central box whose shape is allowed."""
    if width / height < RATIO[0]:
        return round(width / RATIO[0]), width
    if width / height > RATIO[1]:
        return height, round(height * RATIO[1])
    return height, width


def _filter(
    start: Tensor, length: Tensor, source: int, size: int, flips: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Weights (B, size, source) of the pixels of [start, start + length) in each of ``size`` results.

    A triangle around the result's centre, as wide as two results but no narrower than two pixels; what of it
    is outside the box is cut off, and the rest made to sum to 1.
    """
    device = start.device
    scale = (length.to(dtype) / size)[:, None]
    places = torch.arange(size, device=device, dtype=dtype).expand(len(start), size)
    if flips is not None:
        places = torch.where(flips[:, None], size - 1 - places, places)
    centres = start.to(dtype)[:, None] + (places + 0.5) * scale
    pixels = torch.arange(source, device=device)
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
    distance = (pixels.to(dtype) + 0.5 - centres[:, :, None]).abs_()
    weights = distance.div_(-scale.clamp(min=1.0)[:, :, None]).add_(1.0).clamp_(min=0.0)
    weights.mul_(inside[:, None])
    return weights.div_(weights.sum(2, keepdim=True))
