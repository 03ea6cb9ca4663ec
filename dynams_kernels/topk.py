"""The samples nearest the decision boundary: margins, then a selection."""

from __future__ import annotations

from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._kinds import MarginKind, Order
from dynams_kernels._ops.selection import smallest_k
from dynams_kernels._selection_checks import check_k, check_order
from dynams_kernels.linear import linear_margin
from dynams_kernels.logits import margin
from dynams_kernels.selection import SmallestK


def margin_topk(
    logits: Tensor,
    k: int | float,
    *,
    kind: MarginKind = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    order: Order = "index",
) -> SmallestK:
    """The k samples nearest the decision boundary: :func:`margin`, then :func:`smallest_k`.

    Args and errors are theirs.

    Returns:
        SmallestK(margins (k,) float32 (float64 for float64 logits), sample indices (k,) int64).
    """
    logits = _checks.check_logits(logits, 2)
    k = check_k(k, logits.shape[0])
    by_value = check_order(order)
    margins = margin(logits, kind=kind, labels=labels, class_distances=class_distances)
    return SmallestK(*smallest_k(margins, k, by_value))


def linear_margin_topk(
    features: Tensor,
    weight: Tensor,
    k: int | float,
    bias: Tensor | None = None,
    *,
    width: int | float | None = None,
    kind: MarginKind = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    order: Order = "index",
) -> SmallestK:
    """The k samples nearest the decision boundary of a linear head: :func:`linear_margin`, then :func:`smallest_k`.

    Args and errors are theirs.

    Returns:
        SmallestK(margins (k,) float32 (float64 for float64 features), sample indices (k,) int64).
    """
    _checks.check_float("features", features, 2, "(B, D)")
    _checks.resolve_width(width, _checks.check_float("weight", weight, 2, "(C, D)").shape[1])
    k = check_k(k, features.shape[0])
    by_value = check_order(order)
    margins = linear_margin(
        features,
        weight,
        bias,
        width=width,
        kind=kind,
        labels=labels,
        class_distances=class_distances,
    )
    return SmallestK(*smallest_k(margins, k, by_value))
