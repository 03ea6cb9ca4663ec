"""Scores of rows of logits as an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import eager, registry
from dynams_kernels._gradients.rows import row_score_gradients
from dynams_kernels._ops.library import define, for_callers
from dynams_kernels._plain import is_plain, refuse_forward_derivatives


def _served(backend: registry.Backend) -> Callable[..., Tensor]:
    def row_scores(
        logits: Tensor,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kinds: int,
        ignored: int,
    ) -> Tensor:
        if labels is not None:
            registry.check_labels(labels, logits.shape[1], ignored)
        return backend.row_scores(logits, labels, class_distances, kinds)

    return row_scores


_row_scores = define(
    "row_scores",
    "(Tensor logits, Tensor? labels, Tensor? class_distances, int kinds, int ignored) -> Tensor",
    _served,
)


def row_scores(
    logits: Tensor,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kinds: int,
    ignored: int,
) -> Tensor:
    """The scores of logits (B, C) named by the bits of `kinds`: a row of (n, B) for each, in bit order."""
    if is_plain(logits, labels, class_distances):
        if labels is not None:
            registry.check_labels(labels, logits.shape[1], ignored)
        return registry.serving(logits).row_scores(logits, labels, class_distances, kinds)
    refuse_forward_derivatives(logits=logits)
    scores: Tensor = _row_scores(logits, labels, class_distances, kinds, ignored)
    return for_callers(scores)


def row_score(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int, ignored: int
) -> Tensor:
    """The one score (B,) of logits (B, C) that is named by a bit."""
    if is_plain(logits, labels, class_distances):
        if labels is not None:
            registry.check_labels(labels, logits.shape[1], ignored)
        return registry.serving(logits).row_score(logits, labels, class_distances, kind)
    refuse_forward_derivatives(logits=logits)
    scores: Tensor = _row_scores(logits, labels, class_distances, kind, ignored)
    return for_callers(scores[0])


@torch.library.register_fake("dynams_kernels::row_scores")
def _row_scores_shape(
    logits: Tensor,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kinds: int,
    ignored: int,
) -> Tensor:
    rows = kinds.bit_count()
    return logits.new_empty((rows, logits.shape[0]), dtype=eager.score_dtype(logits.dtype))


def _save_row_scores(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, labels, class_distances, ctx.kinds, _ignored = inputs
    ctx.save_for_backward(logits, labels, class_distances)


def _row_scores_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, labels, class_distances = ctx.saved_tensors
    gradient = row_score_gradients(grad, logits, labels, class_distances, ctx.kinds)
    return gradient.to(logits.dtype), None, None, None, None


torch.library.register_autograd(
    "dynams_kernels::row_scores", _row_scores_backward, setup_context=_save_row_scores
)
