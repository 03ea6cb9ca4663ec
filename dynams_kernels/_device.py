"""Where a kernel is launched: on the device of its tensors, whatever the current one is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_HERE: AbstractContextManager[object] = nullcontext()


def _stream_of(device: int) -> int:
    stream: int = torch.cuda.current_stream(device).cuda_stream
    return stream


# torch's own C functions, which a build of torch for CPUs lacks: a stream object costs as much as a launch.
_current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
raw_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _stream_of)


def on_device(device: int) -> AbstractContextManager[object]:
    """Makes a CUDA device current, as kernels are launched on the current one; nothing for the -1 of the CPU's tensors."""
    if device < 0 or device == _current_device():
        return _HERE
    return torch.cuda.device(device)


def multiprocessors(tensor: Tensor) -> int:
    """How many multiprocessors the tensor's device has; for interpreted kernels a small number, so that every path is walked."""
    if tensor.device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


# The capability of no device: kernels are interpreted.
INTERPRETED = (0, 0)


def capability(tensor: Tensor) -> tuple[int, int]:
    """The compute capability of the tensor's device."""
    if tensor.device.type != "cuda":
        return INTERPRETED
    return torch.cuda.get_device_capability(tensor.device)
