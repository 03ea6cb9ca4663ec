"""The GPU backends themselves, to be called without the public functions' checks and dispatch."""

from __future__ import annotations

import importlib
from typing import Any

import torch


def gpu_backends() -> dict[str, Any]:
    """Those that can run on the current device, by name: "native" and "triton"."""
    found: dict[str, Any] = {}
    try:
        module = importlib.import_module("dynams_kernels._cuda")
        if not module.why_unusable(torch.cuda.current_device()):
            native = importlib.import_module("dynams_kernels._backends.native_cuda")
            found["native"] = native.NativeCuda(module)
    except ImportError:
        pass
    try:
        triton = importlib.import_module("dynams_kernels._backends.triton")
        found["triton"] = triton.Triton()
    except ImportError:
        pass
    return found
