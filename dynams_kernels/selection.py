"""Exact partial selection: the k smallest of many values."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._ops import selection


class SmallestK(NamedTuple):
    """A selection: the values, and the int64 indices they stand at, as `torch.topk` returns them."""

    values: Tensor
    indices: Tensor


def smallest_k(values: Tensor, k: int, *, order: str = "index") -> SmallestK:
    """The k smallest of N values, exactly: a partial selection in linear time.

    The order is total: ascending value, -inf first, +inf before NaN, NaN last; equal values (-0.0 equals +0.0) by
    lowest index. So the answer is the same bit for bit on every backend, at every run, for any number of threads.
    Selection is not differentiable: a backward pass through the values raises RuntimeError.

    Args:
        values: (N,) float32, float16, bfloat16 or float64; any stride.
        k: how many, 0 <= k <= N.
        order: ``index``: ascending indices, what a sampler wants; ``value``: ascending values, ties by index.

    Returns:
        SmallestK(values (k,) in the input's dtype, indices (k,) int64).

    Raises:
        TypeError, ValueError: naming the argument, what came and what is wanted.
    """
    values = _checks.check_float("values", values, 1, "(N,)")
    k = _checks.check_k(k, values.numel())
    by_value = _checks.check_order(order)
    return SmallestK(*selection.smallest_k(values, k, by_value))
