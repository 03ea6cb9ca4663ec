"""Exact partial selection: the k smallest of many values, or of each of many groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._kinds import Order
from dynams_kernels._ops import selection
from dynams_kernels._selection_checks import (
    check_groups,
    check_k,
    check_order,
    check_out,
    check_quotas,
)


class SmallestK(NamedTuple):
    """A selection: the values, and the int64 indices they stand at, as `torch.topk` returns them."""

    values: Tensor
    indices: Tensor


def smallest_k(
    values: Tensor,
    k: int | float,
    *,
    order: Order = "index",
    out: tuple[Tensor, Tensor] | None = None,
) -> SmallestK:
    """The k smallest of N values, exactly: a partial selection in linear time.

    The order is total: ascending value, -inf first, +inf before NaN, NaN last; equal values (-0.0 equals +0.0) by
    lowest index. So the answer is the same bit for bit on every backend, at every run, for any number of threads.
    Selection is not differentiable: a backward pass through the values raises RuntimeError.

    Args:
        values: (N,) float32, float16, bfloat16 or float64; any stride.
        k: how many, 0 <= k <= N; or a float in (0, 1], the fraction of N: max(1, floor(k N + 0.5)), none of no values.
        order: ``index``: ascending indices, what a sampler wants; ``value``: ascending values, ties by index.
        out: (values (k,) in the input's dtype, indices (k,) int64), contiguous, on the values' device, in memory apart from
            theirs and from each other's: written in place and returned. Of millions of values, to touch fresh memory takes
            longer than the selection, so whoever selects again and again keeps its own. Neither they nor the values may
            require grad.

    Returns:
        SmallestK(values (k,) in the input's dtype, indices (k,) int64).

    Raises:
        TypeError, ValueError: naming the argument, what came and what is wanted; nothing is written then.
    """
    values = _checks.check_float("values", values, 1, "(N,)")
    k = check_k(k, values.numel())
    by_value = check_order(order)
    if out is None:
        return SmallestK(*selection.smallest_k(values, k, by_value))
    into = SmallestK(*check_out(out, values, k))
    selection.smallest_k_into(values, by_value, *into)
    return into


def smallest_k_grouped(
    values: Tensor,
    groups: Tensor,
    k: Sequence[int] | Tensor | float,
    *,
    order: Order = "index",
) -> SmallestK:
    """The k[g] smallest values of every group g, together: one :func:`smallest_k` a group, at the price of about one.

    In the same total order. Time is linear in N + G and memory proportional to it, whether there is one group or one for
    each value. On a GPU the host waits, as the groups' sizes must be known, and the values are sorted.

    In a graph of ``torch.compile`` the number of selected values is known where `k` is a sequence; otherwise it depends on
    the data: set ``torch._dynamo.config.capture_dynamic_output_shape_ops``, or the graph breaks here.

    Args:
        values: (N,) float32, float16, bfloat16 or float64; any stride.
        groups: (N,) int64, each value's group in [0, G).
        k: G ints, how many of each group, at most its size; or a float in (0, 1], the fraction of every group:
            max(1, floor(k n + 0.5)) of the n of a group that has any, and G is the highest group and one.
        order: ``index``: ascending indices; ``value``: ascending values over all groups, ties by index.

    Returns:
        SmallestK(values in the input's dtype, indices int64), of all groups together.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is wanted; a k beyond its group's size names the
            group.
    """
    values = _checks.check_float("values", values, 1, "(N,)")
    groups = check_groups(groups, values.shape[0], values.device)
    quotas, fraction, total = check_quotas(k)
    by_value = check_order(order)
    return SmallestK(
        *selection.smallest_k_grouped(values, groups, quotas, fraction, total, by_value)
    )
