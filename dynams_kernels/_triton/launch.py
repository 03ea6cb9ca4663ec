"""Launches of one kernel again and again, past Triton's search for what it compiled: that costs more than the launch itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.tools.tensor_descriptor import TensorDescriptor

from dynams_kernels._device import raw_stream

__all__ = ["Launch"]

# Triton compiles anew where an address is no multiple of this.
_ALIGNMENT = 16


class Launch:
    """A kernel with its grid, numbers and constants; what it is called with are its first arguments, the tensors.

    The first call is Triton's own, which compiles. What that returns is launched directly from then on, on the same device, with
    tensors of the same types at aligned addresses, as it was compiled for. All else stays Triton's own call.
    """

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        numbers: tuple[int, ...],
        constants: Mapping[str, Any],
    ) -> None:
        self._kernel = kernel
        self._grid = grid
        self._numbers = numbers
        self._constants = constants
        self._compiled: dict[Any, tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, device: int, *tensors: Tensor | TensorDescriptor | None) -> None:
        """Launches on the current device, which is this one."""
        addresses = 0
        kinds: list[int | torch.dtype | None] = [device]
        for tensor in tensors:
            if tensor is None:
                kinds.append(None)
                continue
            base = tensor.base if isinstance(tensor, TensorDescriptor) else tensor
            addresses |= base.data_ptr()
            kinds.append(base.dtype)
        aligned = addresses % _ALIGNMENT == 0
        key = tuple(kinds)
        known = self._compiled.get(key) if aligned else None
        if known is not None:
            run, rest = known
            run(*tensors, *rest, stream=raw_stream(device))
            return
        found = self._kernel[self._grid](*tensors, *self._numbers, **self._constants)
        if aligned and isinstance(found, CompiledKernel):
            names = list(inspect.signature(self._kernel.fn).parameters)[
                len(tensors) + len(self._numbers) :
            ]
            rest = (*self._numbers, *(self._constants[name] for name in names))
            self._compiled[key] = found[(*self._grid, 1, 1)[:3]], rest
