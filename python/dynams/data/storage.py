"""Where decoded images live while they are trained on: the device, host memory, or a mapped file.

Batches are cut from uint8 images that were decoded once. On the device nothing is moved at all; from
host memory one byte a channel and pixel is; a mapped file is read by the system as it is needed. The
fastest place that leaves room for training is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from dynams.data.cache import mapped
from dynams.data.errors import DataError
from dynams.data.memory import HostMemory, free_on_device, told
from dynams.data.source import CHUNK_BYTES, Bytes, Rows, Source
from dynams.data.statistics import Moments

Storage = Literal["auto", "device", "host", "disk"]
Place = Literal["device", "host", "disk"]

# Images may take one byte in this many of what is free: the rest is for the model and the system.
_SHARE = 2
_SMALL = 1 << 30


def choose_place(
    storage: Storage,
    size: int,
    device: torch.device,
    host: HostMemory = HostMemory(),  # noqa: B008 (frozen)
) -> Place:
    """Where ``size`` bytes of images should be kept for training on ``device``.

    Automatically: on the device if they take at most half of its free memory, else in host memory
    if they take at most half of what is available, else in a mapped file. Where memory cannot be
    asked for, one GiB is taken to fit.

    Raises:
        ValueError: ``storage`` is unknown, or names memory that is free in no such amount.
    """
    if storage not in get_args(Storage):
        raise ValueError(f"storage: got {storage!r}, want one of {', '.join(get_args(Storage))}")
    if storage == "disk":
        return "disk"
    on_host = device.type == "cpu" or storage == "host"
    if storage != "auto":
        free = host.free() if on_host else free_on_device(device)
        if free is not None and size > free:
            raise ValueError(
                f"storage: got {storage!r} for {told(size)} of images, want 'auto' or 'disk': "
                f"{told(free)} are free; data.storage disk keeps them in a file"
            )
        return "host" if on_host else "device"
    if not on_host and _fits(size, free_on_device(device)):
        return "device"
    return "host" if _fits(size, host.free()) else "disk"


def store(
    source: Source, rows: Rows, place: Place, device: torch.device, cache_dir: Path | None
) -> tuple[Tensor, Moments]:
    """Decode the images ``rows`` (K,) of ``source`` to where they will be kept.

    Args:
        source: what to decode.
        rows: (K,) int64, ascending, of ``source``.
        place: where the images will be kept.
        device: the training device.
        cache_dir: keep decoded files here, and decode none that already are; None: only if
            ``place`` is "disk", beside the data.

    Returns:
        Images (K, C, H, W) uint8, page-locked in host memory that feeds a CUDA device if there is
        room, and the moments of their pixels.

    Raises:
        DataError: an image is damaged or missing, or there is no room.
    """
    if place == "disk":
        file, moments = mapped(source, rows, cache_dir)
        return torch.from_numpy(file), moments
    shape = (len(rows), *source.shape)
    if place == "device":
        images = _room(shape, device)
    else:
        pin = device.type == "cuda" and _may_be_pinned(math.prod(shape))
        images = _room(shape, torch.device("cpu"), pin)
    if cache_dir is not None and source.files:
        file, moments = mapped(source, rows, cache_dir)
        for _ in _copied(_slices(file), images):
            pass
        return images, moments
    return images, Moments.of(source.shape[0], _copied(source.chunks(rows), images))


def _room(shape: tuple[int, ...], device: torch.device, pin: bool = False) -> Tensor:
    try:
        return torch.empty(shape, dtype=torch.uint8, device=device, pin_memory=pin)
    except (RuntimeError, MemoryError) as error:
        raise DataError(
            f"storage: {told(math.prod(shape))} of images do not fit in the memory of {device}; "
            f"data.storage disk keeps them in a file ({str(error).splitlines()[0]})"
        ) from error


def _fits(size: int, free: int | None) -> bool:
    return size <= (_SMALL if free is None else free // _SHARE)


def _may_be_pinned(size: int) -> bool:
    """Page-locked memory is handed out in powers of two and cannot be swapped: half must stay."""
    return _fits(1 << (size - 1).bit_length(), HostMemory().free())


def _slices(images: Bytes) -> Iterator[Bytes]:
    at_once = max(1, CHUNK_BYTES // images[0].size)
    for start in range(0, len(images), at_once):
        yield images[start : start + at_once]


def _copied(chunks: Iterator[Bytes], images: Tensor) -> Iterator[Bytes]:
    """Pass the chunks on, each after it was copied to its place in ``images``."""
    start = 0
    for chunk in chunks:
        stop = start + len(chunk)
        images[start:stop].copy_(torch.from_numpy(chunk))
        yield chunk
        start = stop
