"""Margins and scores of a linear head, whose logits are never stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
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
)
from dynams_kernels._ops import linear
from dynams_kernels.distances import distances_of
from dynams_kernels.logits import as_dict


@overload
def linear_margin(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    width: int | float | None = None,
    kind: MarginKind = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
) -> Tensor: ...


@overload
def linear_margin(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    width: Sequence[int | float],
    kind: MarginKind = "gap",
    labels: Tensor | None = None,
    class_distances: None = None,
) -> Tensor: ...


def linear_margin(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    width: int | float | Sequence[int | float] | None = None,
    kind: MarginKind = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
) -> Tensor:
    """Margins of the logits ``features @ weight.T + bias``, which are never stored.

    The logits exist one tile at a time, in the precision of torch's matrix product for the dtype (under autocast: for
    the autocast dtype, as ``F.linear``); margins are accumulated in float32. Differentiable with respect to features,
    weight and bias.

    Several widths share one pass over features and weight: the logits at a width are those at the width below plus the
    columns between. (Not for ``distance``, with gradients, in half precision on the CPU, or on Hopper's own kernel: there,
    one pass a width.)

    On a GPU, float64, float32 (unless torch may use tf32) and ``distance`` of more than 128 classes hold the logits of some rows
    at a time: 4 M logits, or those of 512 rows where that is more, in at most 128 MiB.

    Args:
        features: (..., D) or (..., width); float32, float16, bfloat16 or float64.
        weight: (C, D), C >= 2, of the features' dtype; a slim head uses its leading columns in place.
        bias: (C,) or None.
        width: how many leading features take part: an int in [1, D] or a fraction of D in (0, 1]
            (max(1, floor(width * D + 0.5)) of them); None: all. A list or tuple of widths: the margins at each.
        kind: see :func:`margin`.
        labels: (...) int64 in [0, C), for ``label``; a sample labelled -100 has margin NaN.
        class_distances: (C, C) float32, for ``distance``; computed from the weight at this width when None (as it must
            be with several widths).

    Returns:
        (...) float32, or (n, ...) for n widths, in their order; float64 for float64 features.

    Raises:
        TypeError, ValueError: as :func:`margin`, and for a width outside [1, D] or (0, 1].
    """
    check_kind(kind, MARGIN_KINDS)
    head = _Head(features, weight, bias, width)
    if kind == "label":
        head.take_labels(labels, kind)
    return head.scores(BIT[kind], class_distances)[0]


@overload
def linear_scores(
    features: Tensor,
    weight: Tensor,
    kinds: Sequence[ScoreKind],
    bias: Tensor | None = None,
    *,
    width: int | float | None = None,
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    ignore_index: int = _checks.IGNORED,
) -> dict[str, Tensor]: ...


@overload
def linear_scores(
    features: Tensor,
    weight: Tensor,
    kinds: Sequence[ScoreKind],
    bias: Tensor | None = None,
    *,
    width: Sequence[int | float],
    labels: Tensor | None = None,
    class_distances: None = None,
    ignore_index: int = _checks.IGNORED,
) -> dict[str, Tensor]: ...


def linear_scores(
    features: Tensor,
    weight: Tensor,
    kinds: Sequence[ScoreKind],
    bias: Tensor | None = None,
    *,
    width: int | float | Sequence[int | float] | None = None,
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    ignore_index: int = _checks.IGNORED,
) -> dict[str, Tensor]:
    """Several scores of the logits ``features @ weight.T + bias``, which are never stored, from one sweep over them.

    They equal ``scores(F.linear(features, weight, bias), kinds)`` within the error of torch's own product and softmax at that
    dtype; precision, autocast and several widths are as of :func:`linear_margin`. (``distance`` takes a sweep of its own.)
    For a language model's head, log-probabilities and entropies of all tokens in O(tokens) memory:

        found = linear_scores(hidden, lm_head.weight, ["loss", "entropy"], labels=tokens)
        log_probabilities = -found["loss"]

    Differentiable with respect to features, weight and bias. The backward pass forms the logits again, tile by tile: of
    ``loss`` and ``entropy`` in any tiles, of the other kinds in whole rows. An infinite logit leaves its row no gradient
    (NaN), as in ``F.cross_entropy``; a row whose label is ignored adds none to that of a label-based score.

    Args:
        features: (..., D) or (..., width); float32, float16, bfloat16 or float64.
        weight: (C, D), C >= 2, of the features' dtype; a slim head uses its leading columns in place.
        kinds: names of scores, each at most once: see :func:`scores`.
        bias: (C,) or None.
        width: how many leading features take part, one or several: see :func:`linear_margin`.
        labels: (...) int64 in [0, C), for ``label``, ``loss`` and ``el2n``.
        class_distances: (C, C) float32, for ``distance``; computed from the weight at this width when None (as it must
            be with several widths).
        ignore_index: the label of samples whose label-based scores are NaN, so that a selection takes them last.

    Returns:
        A dict in the order of ``kinds``, each score (...) float32, or (n, ...) for n widths; float64 for float64 features.

    Raises:
        TypeError, ValueError: as :func:`linear_margin`; also for a repeated or unknown kind.
    """
    mask = check_kinds(kinds)
    head = _Head(features, weight, bias, width)
    labelled = next((kind for kind in kinds if kind in LABELLED_KINDS), None)
    if labelled is not None:
        head.take_labels(labels, labelled, ignore_index)
    if mask == 0:
        return {}
    found = head.scores(mask, class_distances)
    return as_dict(found, kinds, mask, found.shape[1:])


class _Head:
    """A linear head as a call gives it: checked, slim, in the dtype of its product."""

    def __init__(self, features: object, weight: object, bias: object, width: object) -> None:
        slim, slim_weight, checked_bias = _checks.check_linear(features, weight, bias, width)
        self._given_weight: Tensor = weight  # type: ignore[assignment]
        self._leading = slim.shape[:-1]
        self._device = slim.device
        operands = autocast_operands(_checks.as_rows(slim), slim_weight, checked_bias)
        _checks.check_same_dtype(*operands)
        self._features, self._weight, self._bias = operands
        self._labels: Tensor | None = None
        self._ignored = _checks.IGNORED
        self._several = isinstance(width, (list, tuple))
        self._widths = _checks.resolve_widths(width, self._given_weight.shape[1])

    def take_labels(
        self, labels: object, kind: str, ignore_index: object = _checks.IGNORED
    ) -> None:
        """The labels that a kind of score needs."""
        checked = _checks.check_labels(labels, kind, self._leading, self._device)
        classes = self._weight.shape[0]
        self._labels, self._ignored = _checks.resolve_ignored(checked, ignore_index, classes)

    def scores(self, kinds: int, class_distances: Tensor | None) -> Tensor:
        """The scores (n, ...) of the n kinds, (n, w, ...) where w widths were given."""
        if not self._several:
            distances = None
            if kinds & BIT["distance"]:
                distances = self._distances(self._widths[0], class_distances)
            found = self._at(self._widths, kinds, distances)
            return found.view(found.shape[0], *self._leading)
        if class_distances is not None and kinds & BIT["distance"]:
            raise ValueError(
                "class_distances: got a tensor with several widths, want None: each width has its own"
            )
        found = self._at_several(kinds)
        return found.view(*found.shape[:2], *self._leading)

    def _at_several(self, kinds: int) -> Tensor:
        """Scores (n, w, B) at widths in any order: from one pass over their ascending set, where there is such a pass."""
        ascending = sorted(set(self._widths))
        apart = linear.needs_gradient(self._features, self._weight, self._bias)
        if not apart and not kinds & BIT["distance"]:
            found = self._at(ascending, kinds, None)
        else:
            found = torch.cat(
                [self._at([w], kinds, self._own_distances(w, kinds)) for w in ascending], 1
            )
        if ascending == self._widths:
            return found
        return found[:, [ascending.index(w) for w in self._widths]]

    def _own_distances(self, width: int, kinds: int) -> Tensor | None:
        return self._distances(width, None) if kinds & BIT["distance"] else None

    def _at(self, widths: list[int], kinds: int, distances: Tensor | None) -> Tensor:
        features, weight = self._features, self._weight
        widest = widths[-1]
        if features.shape[1] != widest:
            features, weight = features[:, :widest], weight[:, :widest]
        return linear.linear_scores(
            features, weight, self._bias, self._labels, distances, widths, kinds, self._ignored
        )

    def _distances(self, width: int, given: Tensor | None) -> Tensor:
        """The distances of the head's classes at a width: those given, else its weight's own."""
        weight = self._given_weight
        distances = distances_of(weight[:, :width]) if given is None else given
        return _checks.check_class_distances(distances, weight.shape[0], self._device)


_AUTOCAST_DEVICES = frozenset({"cpu", "cuda"})


def _autocast_enabled(device_type: str) -> bool:
    known = device_type in _AUTOCAST_DEVICES or torch.amp.is_autocast_available(device_type)
    return known and torch.is_autocast_enabled(device_type)


def autocast_operands(
    features: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype in which `F.linear` would multiply them here."""
    device_type = "cpu" if features.is_cpu else features.device.type
    if features.dtype == torch.float64 or not _autocast_enabled(device_type):
        return features, weight, bias
    dtype = torch.get_autocast_dtype(device_type)
    return features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
