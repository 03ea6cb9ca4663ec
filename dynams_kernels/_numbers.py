"""Numbers as callers have them: Python's, NumPy's, and ints in tensors on the CPU, whose reading waits for nothing."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

import torch
from torch import Tensor

INTEGERS = frozenset(
    {
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)


def as_index(number: Any) -> int | None:
    """The int that a number stands for; None for what is none, among it bools and tensors that are not 0-dimensional."""
    if isinstance(number, bool):
        return None
    if isinstance(number, Tensor) and (
        number.dim() != 0 or number.dtype not in INTEGERS or not number.is_cpu
    ):
        return None
    try:
        return operator.index(number)
    except TypeError:
        return None


def as_fraction(number: Any) -> float | None:
    """The float that Python's or NumPy's floating-point number is; None for anything else."""
    # A compiler asks no more of a float than that it is one.
    if isinstance(number, float):
        return number
    if isinstance(number, Real) and not hasattr(number, "__index__"):
        return float(number)
    return None
