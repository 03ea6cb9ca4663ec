"""Numbers as callers have them: Python's, NumPy's, and tensors of one number on the CPU, whose reading waits for nothing."""

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
    if isinstance(number, Tensor) and not (number.dtype in INTEGERS and _is_one(number)):
        return None
    try:
        return operator.index(number)
    except TypeError:
        return None


def as_fraction(number: Any) -> float | None:
    """The float that a number stands for; None for ints, bools and what is no number."""
    if isinstance(number, Tensor):
        return float(number) if number.is_floating_point() and _is_one(number) else None
    if isinstance(number, Real) and not hasattr(number, "__index__"):
        return float(number)
    return None


def _is_one(number: Tensor) -> bool:
    return number.dim() == 0 and number.is_cpu
