"""Where a kernel is launched: on the device of its tensors, whatever the current one is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

_HERE: AbstractContextManager[object] = nullcontext()


def _stream_of(device: int) -> int:
    stream: int = torch.cuda.current_stream(device).cuda_stream
    return stream


# torch's own C functions, which a build of torch for CPUs lacks: a stream object costs as much as a launch.
_current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
raw_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _stream_of)


def is_current(device: int) -> bool:
    """Whether kernels launched now go to a CUDA device; true of the -1 of the CPU's tensors too."""
    return device < 0 or device == _current_device()


def on_device(device: int) -> AbstractContextManager[object]:
    """Makes a CUDA device current, as kernels are launched on the current one; nothing for the -1 of the CPU's tensors."""
    return _HERE if is_current(device) else torch.cuda.device(device)


@cache
def _multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def multiprocessors(tensor: Tensor) -> int:
    """How many multiprocessors the tensor's device has; for interpreted kernels a small number, so that every path is walked."""
    device = tensor.get_device()
    return 4 if device < 0 else _multiprocessors(device)


# The capability of no device: kernels are interpreted.
INTERPRETED = (0, 0)


@cache
def _capability(device: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def capability(tensor: Tensor) -> tuple[int, int]:
    """The compute capability of the tensor's device."""
    device = tensor.get_device()
    return INTERPRETED if device < 0 else _capability(device)
