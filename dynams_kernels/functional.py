"""The public functions: margins and scores of logits or of a linear head, and exact partial selection of the smallest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynams_kernels import _checks, ops
from dynams_kernels._backends import registry
from dynams_kernels._kinds import (
    BIT,
    LABELLED_KINDS,
    MARGIN_KINDS,
    SCORE_KINDS,
    check_kind,
)


class SmallestK(NamedTuple):
    """A selection: the values, and the int64 indices they stand at, as `torch.topk` returns them."""

    values: Tensor
    indices: Tensor


def margin(
    logits: Tensor,
    *,
    kind: str = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
) -> Tensor:
    """Distance of each sample to the decision boundary, from its logits.

    With p the predicted class and z the logits of a row:

    - ``gap``: z_(1) - z_(2), the two largest logits' difference (logit units).
    - ``probability``: softmax(z)_(1) - softmax(z)_(2), in [0, 1] (Emam et al. 2021).
    - ``distance``: min over c != p of (z_p - z_c) / ||w_p - w_c||, the distance to the nearest boundary in feature
      space (Emam et al. 2021). Needs ``class_distances``.
    - ``label``: z_y - max over c != y of z_c; negative where the sample is misclassified. Needs ``labels``.

    A row with a NaN logit has margin NaN; two equal largest logits, infinities included, have margin 0.
    Differentiable with respect to the logits (sub-gradient; class distances are constants).

    Args:
        logits: (B, C), C >= 2; float32, float16, bfloat16 or float64; any strides.
        kind: which of the four margins.
        labels: (B,) int64 in [0, C), for ``label``.
        class_distances: (C, C) float32, see :func:`class_distances`, for ``distance``.

    Returns:
        (B,) float32; float64 for float64 logits.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is wanted. A label outside [0, C) raises on
            the CPU; on a GPU, where looking would cost a synchronisation, that row's margin is NaN.
    """
    return _margin(_checks.check_logits(logits), kind, labels, class_distances)


def _margin(
    logits: Tensor, kind: str, labels: Tensor | None, class_distances: Tensor | None
) -> Tensor:
    check_kind(kind, MARGIN_KINDS)
    used_labels = None
    used_distances = None
    if kind == "label":
        used_labels = _checks.check_labels(labels, kind, logits.shape[0], logits.device)
    elif kind == "distance":
        used_distances = _checks.check_class_distances(
            class_distances, logits.shape[1], logits.device
        )
    return ops.row_score(logits, used_labels, used_distances, BIT[kind])


def scores(
    logits: Tensor, kinds: Sequence[str], *, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Several scores of each sample from one read of the logits.

    Beside the margins ``gap``, ``probability`` and ``label`` (see :func:`margin`), with p = softmax(z):

    - ``loss``: cross-entropy, logsumexp(z) - z_y (nats).
    - ``el2n``: ||p - onehot(y)||_2 (Paul et al. 2021).
    - ``entropy``: -sum of p log p (nats).
    - ``confidence``: 1 - max p, so that small means certain (least confidence; Coleman et al. 2020).

    A +inf logit takes the limit: the +inf entries share the whole probability.

    Args:
        logits: (B, C), C >= 2; float32, float16, bfloat16 or float64; any strides.
        kinds: names of scores, each at most once.
        labels: (B,) int64 in [0, C), for ``label``, ``loss`` and ``el2n``.

    Returns:
        A dict in the order of ``kinds``, each score (B,) float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: as :func:`margin`; also for a repeated or unknown kind.
    """
    logits = _checks.check_logits(logits)
    if isinstance(kinds, str) or not isinstance(kinds, Sequence):
        raise TypeError(f"kinds: got {kinds!r}, want a sequence of {', '.join(SCORE_KINDS)}")
    mask, labelled = 0, None
    for kind in kinds:
        mask |= BIT[check_kind(kind, SCORE_KINDS)]
        if labelled is None and kind in LABELLED_KINDS:
            labelled = kind
    if mask.bit_count() != len(kinds):
        raise ValueError(f"kinds: got {list(kinds)!r}, want each kind at most once")
    if labelled is None:
        labels = None
    else:
        labels = _checks.check_labels(labels, labelled, logits.shape[0], logits.device)
    if mask == 0:
        return {}
    rows = ops.row_scores(logits, labels, None, mask).unbind()
    # A kind's row is the number of kinds before it.
    return {kind: rows[(mask & (BIT[kind] - 1)).bit_count()] for kind in kinds}


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
        return ops.linear_row_score(
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
            ops.linear_row_score(
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
    distances = _class_distances(weight) if given is None else given
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
    margins: Tensor = ops.linear_width_scores(features, weight, bias, labels, ascending, kind_bit)
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
    return SmallestK(*ops.smallest_k(values, k, by_value))


def margin_topk(
    logits: Tensor,
    k: int,
    *,
    kind: str = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    order: str = "index",
) -> SmallestK:
    """The k samples nearest the decision boundary: :func:`margin`, then :func:`smallest_k`.

    Args and errors are theirs.

    Returns:
        SmallestK(margins (k,) float32 (float64 for float64 logits), sample indices (k,) int64).
    """
    logits = _checks.check_logits(logits)
    k = _checks.check_k(k, logits.shape[0])
    by_value = _checks.check_order(order)
    margins = _margin(logits, kind, labels, class_distances)
    return SmallestK(*ops.smallest_k(margins, k, by_value))


def linear_margin_topk(
    features: Tensor,
    weight: Tensor,
    k: int,
    bias: Tensor | None = None,
    *,
    width: int | float | None = None,
    kind: str = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    order: str = "index",
) -> SmallestK:
    """The k samples nearest the decision boundary of a linear head: :func:`linear_margin`, then :func:`smallest_k`.

    Args and errors are theirs.

    Returns:
        SmallestK(margins (k,) float32 (float64 for float64 features), sample indices (k,) int64).
    """
    _checks.check_float("features", features, 2, "(B, D)")
    _checks.resolve_width(width, _checks.check_float("weight", weight, 2, "(C, D)").shape[1])
    k = _checks.check_k(k, features.shape[0])
    by_value = _checks.check_order(order)
    margins = linear_margin(
        features,
        weight,
        bias,
        width=width,
        kind=kind,
        labels=labels,
        class_distances=class_distances,
    )
    return SmallestK(*ops.smallest_k(margins, k, by_value))


def class_distances(weight: Tensor, *, width: int | float | None = None) -> Tensor:
    """Pairwise distances ||w_i - w_j||_2 of the classes' weights, for the ``distance`` margin.

    From the Gram matrix W W^T in float64, so that classes with close weights keep their distance; below its rounding
    noise a distance is 0. A constant for differentiation.

    Args:
        weight: (C, D), C >= 2; float32, float16, bfloat16 or float64.
        width: how many leading columns take part, as in :func:`linear_margin`.

    Returns:
        (C, C) float32, symmetric, zero diagonal.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is wanted.
    """
    weight = _checks.check_float("weight", weight, 2, "(C, D)")
    _checks.check_classes("weight", weight.shape[0])
    return _class_distances(weight[:, : _checks.resolve_width(width, weight.shape[1])])


# Rows of the Gram matrix formed at a time: 64 MB of float64 at C = 32,000.
_GRAM_BLOCK_ELEMENTS = 1 << 23


def _class_distances(weight: Tensor) -> Tensor:
    classes = weight.shape[0]
    wide = weight.detach().to(torch.float64)
    squares = wide.square().sum(1)
    distances = torch.empty((classes, classes), dtype=torch.float32, device=weight.device)
    step = max(1, _GRAM_BLOCK_ELEMENTS // classes)
    for begin in range(0, classes, step):
        rows = slice(begin, min(begin + step, classes))
        norms = squares[rows].unsqueeze(1) + squares
        squared = norms - 2 * (wide[rows] @ wide.T)
        # The three terms cancel to within a few units of float64 rounding of `norms`: that much is no distance.
        squared = torch.where(squared > norms * 1e-14, squared, torch.zeros_like(squared))
        distances[rows] = squared.sqrt()
    # Blocks may round (i, j) and (j, i) differently.
    distances = torch.minimum(distances, distances.T)
    return distances.fill_diagonal_(0.0)


def backends() -> dict[str, dict[str, object]]:
    """What is compiled in, what can be used on this machine and why the rest cannot, and which backend serves which device."""
    return registry.describe()
