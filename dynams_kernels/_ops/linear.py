"""Scores of a linear head as an operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import eager, registry
from dynams_kernels._gradients import linear_score_gradients
from dynams_kernels._ops.library import define
from dynams_kernels._plain import is_plain

_linear_row_scores = define(
    "linear_row_scores",
    "(Tensor features, Tensor weight, Tensor? bias, Tensor? labels, "
    "Tensor? class_distances, int kind, bool pairs) -> (Tensor, Tensor)",
)
_linear_width_scores = define(
    "linear_width_scores",
    "(Tensor features, Tensor weight, Tensor? bias, Tensor? labels, "
    "SymInt[] widths, int kind) -> Tensor",
)


def linear_row_score(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kind: int,
    with_gradient: bool,
) -> Tensor:
    """One kind of score (B,) of `features @ weight.T + bias`."""
    operands = (features, weight, bias, labels, class_distances)
    if is_plain(*operands):
        return registry.serving(features).linear_row_score(*operands, kind)
    # The gradient is of the logits' pairs that the operator returns beside.
    scores: Tensor = _linear_row_scores(*operands, kind, with_gradient)[0]
    return scores


def linear_width_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    widths: Sequence[int],
    kind: int,
) -> Tensor:
    """One kind of score (n, B) at each of n ascending widths."""
    operands = (features, weight, bias, labels)
    if is_plain(*operands):
        return registry.serving(features).linear_width_scores(*operands, widths, kind)
    scores: Tensor = _linear_width_scores(*operands, widths, kind)
    return scores


@torch.library.register_fake("dynams_kernels::linear_row_scores")
def _linear_row_scores_shape(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kind: int,
    pairs: bool,
) -> tuple[Tensor, Tensor]:
    batch = features.shape[0]
    scores = features.new_empty(batch, dtype=eager.score_dtype(features.dtype))
    return scores, features.new_empty((batch if pairs else 0, 2), dtype=torch.int64)


@torch.library.register_fake("dynams_kernels::linear_width_scores")
def _linear_width_scores_shape(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    widths: Sequence[int],
    kind: int,
) -> Tensor:
    shape = (len(widths), features.shape[0])
    return features.new_empty(shape, dtype=eager.score_dtype(features.dtype))


def _save_linear_row_scores(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
) -> None:
    features, weight, bias, _labels, class_distances, ctx.kind, with_pairs = inputs
    _scores, pairs = output
    ctx.mark_non_differentiable(pairs)
    ctx.with_pairs = with_pairs
    ctx.save_for_backward(features, weight, bias, class_distances, pairs)


def _linear_row_scores_backward(
    ctx: Any, grad: Tensor, _pairs_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    if not ctx.with_pairs:
        raise RuntimeError("linear_row_scores: a gradient needs pairs=True")
    features, weight, bias, class_distances, pairs = ctx.saved_tensors
    grads = linear_score_gradients(
        grad, features, weight, bias, class_distances, pairs, ctx.kind, ctx.needs_input_grad[:3]
    )
    return (*grads, None, None, None, None)


def _linear_width_scores_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError("linear_width_scores: a gradient needs linear_row_scores, width by width")


torch.library.register_autograd(
    "dynams_kernels::linear_width_scores", _linear_width_scores_backward
)
torch.library.register_autograd(
    "dynams_kernels::linear_row_scores",
    _linear_row_scores_backward,
    setup_context=_save_linear_row_scores,
)
