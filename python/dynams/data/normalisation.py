"""Bytes to normalised floating point: `(images / 255 - mean) / std` as one multiply-add.

The two constants of every channel are computed once in float64 and kept on the device, so that a
batch costs no copy from the host. On the CPU they are spread over a whole image: the multiply-add
then runs over long rows instead of being broadcast over two or three channels (3 times faster).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_LAYOUTS = (torch.preserve_format, torch.contiguous_format, torch.channels_last)


def normalise(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """Make a floating-point batch of zero mean and unit variance.

    Computed in float32 (float64 when asked for) and rounded once to ``dtype``. Nothing waits for
    the device.

    Args:
        images: (B, C, H, W) uint8. Not changed.
        mean: of each of the C channels, in [0, 1] units.
        std: of each of the C channels, in [0, 1] units, positive.
        dtype: floating-point dtype of the result.
        memory_format: torch.channels_last, torch.contiguous_format, or torch.preserve_format.

    Returns:
        (B, C, H, W) of ``dtype`` on the device of ``images``.

    Raises:
        TypeError: ``images`` is not uint8 or ``dtype`` is not floating point.
        ValueError: wrong shape, another number of means or deviations than channels, a deviation
            that is not positive, or an unknown memory format.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images: got dtype {images.dtype}, want uint8")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: got {dtype}, want a floating-point dtype")
    if images.dim() != 4:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want (B, C, H, W)")
    if memory_format not in _LAYOUTS:
        raise ValueError(
            f"memory_format: got {memory_format}, want channels_last, contiguous_format or "
            "preserve_format"
        )
    channels = images.shape[1]
    for name, given in (("mean", mean), ("std", std)):
        if len(given) != channels:
            raise ValueError(
                f"{name}: got {len(given)} values, want one for each of {channels} channels"
            )
    if memory_format == torch.preserve_format:
        kept = not images.is_contiguous() and images.is_contiguous(
            memory_format=torch.channels_last
        )
        memory_format = torch.channels_last if kept else torch.contiguous_format
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    on_cpu = images.device.type == "cpu"
    size = (images.shape[2], images.shape[3]) if on_cpu else (1, 1)
    scale, shift = _constants(
        tuple(mean), tuple(std), size, wide, memory_format, str(images.device)
    )
    if on_cpu:
        values = _relaid(images, memory_format).to(wide)
        return torch.addcmul(shift, values, scale, out=values).to(dtype)
    result = torch.empty(
        images.shape, dtype=dtype, device=images.device, memory_format=memory_format
    )
    return torch.addcmul(shift, images, scale, out=result)


def _relaid(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``images`` in ``memory_format``; bytes are moved one channel at a time, in long strides."""
    if images.is_contiguous(memory_format=memory_format):
        return images
    result = torch.empty_like(images, memory_format=memory_format)
    for channel in range(images.shape[1]):
        result[:, channel] = images[:, channel]
    return result


@lru_cache(maxsize=32)
def _constants(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: tuple[int, int],
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    device: str,
) -> tuple[Tensor, Tensor]:
    """Scale 1 / (255 std) and shift -mean / std, each (1, C, *size)."""
    if not all(value > 0 for value in std):
        raise ValueError(f"std: got {std}, want positive values")
    means = torch.tensor(mean, dtype=torch.float64, device="cpu")
    stds = torch.tensor(std, dtype=torch.float64, device="cpu")
    shape = (1, len(mean), *size)
    scale, shift = (
        constant.to(dtype)
        .view(1, -1, 1, 1)
        .expand(shape)
        .contiguous(memory_format=memory_format)
        .to(device)
        for constant in (1 / (255 * stds), -means / stds)
    )
    return scale, shift
