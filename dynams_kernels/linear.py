"""Margins of a linear head, whose logits are never stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._kinds import BIT, MARGIN_KINDS, check_kind
from dynams_kernels._ops import linear
from dynams_kernels.distances import distances_of


def linear_margin(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    width: int | float | Sequence[int | float] | None = None,
    kind: str = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
) -> Tensor:
    """Margins of the logits ``features @ weight.T + bias``, which are never stored.

    The logits exist one tile at a time, in the precision of torch's matrix product for the dtype (under autocast: for
    the autocast dtype, as ``F.linear``); margins are accumulated in float32. Differentiable with respect to features,
    weight and bias.

    Several widths share one pass over features and weight: the logits at a width are those at the width below plus the
    columns between. (Not for ``distance``, with gradients, or in half precision on the CPU: there, one pass a width.)

    Args:
        features: (B, D) or (B, width); float32, float16, bfloat16 or float64.
        weight: (C, D), C >= 2, of the features' dtype; a slim head uses its leading columns in place.
        bias: (C,) or None.
        width: how many leading features take part: an int in [1, D] or a fraction of D in (0, 1]
            (max(1, floor(width * D + 0.5)) of them); None: all. A list or tuple of widths: the margins at each.
        kind: see :func:`margin`.
        labels: (B,) int64 in [0, C), for ``label``.
        class_distances: (C, C) float32, for ``distance``; computed from the weight at this width when None (as it must
            be with several widths).

    Returns:
        (B,) float32, or (n, B) for n widths, in their order; float64 for float64 features.

    Raises:
        TypeError, ValueError: as :func:`margin`, and for a width outside [1, D] or (0, 1].
    """
    given_weight = weight
    features, weight, bias = _checks.check_linear(features, weight, bias, width)
    features, weight, bias = _autocast(features, weight, bias)
    _checks.check_same_dtype(features, weight, bias)
    check_kind(kind, MARGIN_KINDS)
    if kind == "label":
        labels = _checks.check_labels(labels, kind, features.shape[0], features.device)
    else:
        labels = None
    with_gradient = torch.is_grad_enabled() and (
        features.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    if not isinstance(width, (list, tuple)):
        if kind == "distance":
            class_distances = _distances_at(given_weight[:, : weight.shape[1]], class_distances)
        else:
            class_distances = None
        return linear.linear_row_score(
            features, weight, bias, labels, class_distances, BIT[kind], with_gradient
        )
    if kind == "distance" and class_distances is not None:
        raise ValueError(
            "class_distances: got a tensor with several widths, want None: each width has its own"
        )
    widths = _checks.resolve_widths(width, given_weight.shape[1])
    if kind != "distance" and not with_gradient:
        return _margins_at_widths(features, weight, bias, labels, widths, BIT[kind])
    margins = []
    for w in widths:
        if kind == "distance":
            class_distances = _distances_at(given_weight[:, :w], None)
        margins.append(
            linear.linear_row_score(
                features[:, :w],
                weight[:, :w],
                bias,
                labels,
                class_distances,
                BIT[kind],
                with_gradient,
            )
        )
    return torch.stack(margins)


def _distances_at(weight: Tensor, given: Tensor | None) -> Tensor:
    """The distances of a head's classes: those given, else its weight's own."""
    distances = distances_of(weight) if given is None else given
    return _checks.check_class_distances(distances, weight.shape[0], weight.device)


def _margins_at_widths(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    widths: list[int],
    kind_bit: int,
) -> Tensor:
    """Margins (n, B) at n widths in any order, from one pass over their ascending set."""
    ascending = sorted(set(widths))
    margins: Tensor = linear.linear_width_scores(
        features, weight, bias, labels, ascending, kind_bit
    )
    if ascending == widths:
        return margins
    return torch.stack([margins[ascending.index(w)] for w in widths])


_AUTOCAST_DEVICES = frozenset({"cpu", "cuda"})


def _autocast_enabled(device_type: str) -> bool:
    known = device_type in _AUTOCAST_DEVICES or torch.amp.is_autocast_available(device_type)
    return known and torch.is_autocast_enabled(device_type)


def _autocast(
    features: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype in which `F.linear` would multiply them here."""
    device_type = "cpu" if features.is_cpu else features.device.type
    if features.dtype == torch.float64 or not _autocast_enabled(device_type):
        return features, weight, bias
    dtype = torch.get_autocast_dtype(device_type)
    return features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
