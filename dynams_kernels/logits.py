"""Margins and scores of logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._kinds import (
    BIT,
    LABELLED_KINDS,
    MARGIN_KINDS,
    MarginKind,
    ScoreKind,
    check_kind,
    check_kinds,
    row_of,
)
from dynams_kernels._ops import rows


def margin(
    logits: Tensor,
    *,
    kind: MarginKind = "gap",
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
        logits: (..., C), C >= 2; float32, float16, bfloat16 or float64; any strides.
        kind: which of the four margins.
        labels: (...) int64 in [0, C), for ``label``; a sample labelled -100 has margin NaN.
        class_distances: (C, C) float32, see :func:`class_distances`, for ``distance``.

    Returns:
        (...) float32; float64 for float64 logits.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is wanted. A label outside [0, C) raises on
            the CPU; on a GPU, where looking would cost a synchronisation, that sample's margin is NaN.
    """
    logits = _checks.check_logits(logits)
    check_kind(kind, MARGIN_KINDS)
    leading = logits.shape[:-1]
    used_labels = None
    used_distances = None
    if kind == "label":
        used_labels = _checks.check_labels(labels, kind, leading, logits.device)
    elif kind == "distance":
        used_distances = _checks.check_class_distances(
            class_distances, logits.shape[-1], logits.device
        )
    if len(leading) == 1:
        return rows.row_score(logits, used_labels, used_distances, BIT[kind], _checks.IGNORED)
    flat = _checks.as_rows(logits)
    margins = rows.row_score(flat, used_labels, used_distances, BIT[kind], _checks.IGNORED)
    return margins.view(leading)


def scores(
    logits: Tensor,
    kinds: Sequence[ScoreKind],
    *,
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    ignore_index: int = _checks.IGNORED,
) -> dict[str, Tensor]:
    """Several scores of each sample from one read of the logits.

    Beside the margins ``gap``, ``probability``, ``distance`` and ``label`` (see :func:`margin`), with p = softmax(z):

    - ``loss``: cross-entropy, logsumexp(z) - z_y (nats): minus the label's log-probability.
    - ``el2n``: ||p - onehot(y)||_2 (Paul et al. 2021).
    - ``entropy``: -sum of p log p (nats).
    - ``confidence``: 1 - max p, so that small means certain (least confidence; Coleman et al. 2020).

    A +inf logit takes the limit: the +inf entries share the whole probability.

    Args:
        logits: (..., C), C >= 2; float32, float16, bfloat16 or float64; any strides.
        kinds: names of scores, each at most once.
        labels: (...) int64 in [0, C), for ``label``, ``loss`` and ``el2n``.
        class_distances: (C, C) float32, see :func:`class_distances`, for ``distance``.
        ignore_index: the label of samples whose label-based scores are NaN, so that a selection takes them last.

    Returns:
        A dict in the order of ``kinds``, each score (...) float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: as :func:`margin`; also for a repeated or unknown kind.
    """
    logits = _checks.check_logits(logits)
    mask = check_kinds(kinds)
    classes, leading = logits.shape[-1], logits.shape[:-1]
    used_labels, used_distances, ignored = None, None, _checks.IGNORED
    labelled = next((kind for kind in kinds if kind in LABELLED_KINDS), None)
    if labelled is not None:
        used_labels = _checks.check_labels(labels, labelled, leading, logits.device)
        used_labels, ignored = _checks.resolve_ignored(used_labels, ignore_index, classes)
    if mask & BIT["distance"]:
        used_distances = _checks.check_class_distances(class_distances, classes, logits.device)
    if mask == 0:
        return {}
    flat = _checks.as_rows(logits)
    found = rows.row_scores(flat, used_labels, used_distances, mask, ignored)
    return as_dict(found, kinds, mask, leading)


def as_dict(
    found: Tensor, kinds: Sequence[ScoreKind], mask: int, shape: Sequence[int]
) -> dict[str, Tensor]:
    """Scores (n, ...) in bit order as a dict in the order of `kinds`, each of the shape given."""
    # Of what has a gradient torch lets nobody write into the views that one `unbind` gives.
    count = len(found)
    rows_found = tuple(found[n] for n in range(count)) if found.requires_grad else found.unbind()
    if rows_found[0].shape != shape:
        rows_found = tuple(row.reshape(shape) for row in rows_found)
    return {kind: rows_found[row_of(kind, mask)] for kind in kinds}
