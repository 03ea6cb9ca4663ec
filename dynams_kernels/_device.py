"""Where a kernel is launched: on the device of its tensors, whatever the current one is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_HERE: AbstractContextManager[object] = nullcontext()


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's device current, as kernels are launched on the current one; nothing for interpreted ones on the CPU."""
    if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(tensor.device)


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
