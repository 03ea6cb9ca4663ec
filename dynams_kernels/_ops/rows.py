"""Scores of rows of logits as an operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import eager, registry
from dynams_kernels._gradients import row_score_gradient
from dynams_kernels._ops.library import define
from dynams_kernels._plain import is_plain

_row_scores = define(
    "row_scores",
    "(Tensor logits, Tensor? labels, Tensor? class_distances, int kinds) -> Tensor",
)


def row_scores(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
) -> Tensor:
    """The scores of logits (B, C) named by the bits of `kinds`: a row of (n, B) for each, in bit order."""
    if is_plain(logits, labels, class_distances):
        return registry.serving(logits).row_scores(logits, labels, class_distances, kinds)
    scores: Tensor = _row_scores(logits, labels, class_distances, kinds)
    return scores


def row_score(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
) -> Tensor:
    """The one score (B,) of logits (B, C) that is named by a bit."""
    if is_plain(logits, labels, class_distances):
        return registry.serving(logits).row_score(logits, labels, class_distances, kind)
    scores: Tensor = _row_scores(logits, labels, class_distances, kind)
    return scores[0]


@torch.library.register_fake("dynams_kernels::row_scores")
def _row_scores_shape(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
) -> Tensor:
    rows = bin(kinds).count("1")
    return logits.new_empty((rows, logits.shape[0]), dtype=eager.score_dtype(logits.dtype))


def _save_row_scores(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, labels, class_distances, ctx.kinds = inputs
    ctx.save_for_backward(logits, labels, class_distances)


def _row_scores_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, labels, class_distances = ctx.saved_tensors
    return row_score_gradient(grad, logits, labels, class_distances, ctx.kinds), None, None, None


torch.library.register_autograd(
    "dynams_kernels::row_scores", _row_scores_backward, setup_context=_save_row_scores
)
