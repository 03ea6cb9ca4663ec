"""The widest floating point that a device computes in."""

from __future__ import annotations

import torch


def wide_dtype(device: torch.device | None) -> torch.dtype:
    """Return float64, or float32 on Apple's GPUs, which have no other; None is the CPU."""
    return torch.float32 if device is not None and device.type == "mps" else torch.float64
