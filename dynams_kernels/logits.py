"""Margins and scores of logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._kinds import BIT, LABELLED_KINDS, MARGIN_KINDS, SCORE_KINDS, check_kind
from dynams_kernels._ops import rows


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
    return rows.row_score(logits, used_labels, used_distances, BIT[kind])


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
    found = rows.row_scores(logits, labels, None, mask).unbind()
    # A kind's row is the number of kinds before it.
    return {kind: found[(mask & (BIT[kind] - 1)).bit_count()] for kind in kinds}
