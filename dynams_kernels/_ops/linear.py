"""Scores of a linear head as an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import eager, registry
from dynams_kernels._gradients.linear import linear_score_gradients
from dynams_kernels._kinds import BIT, LOGSUMEXP, mask_of
from dynams_kernels._ops.library import define, for_callers
from dynams_kernels._plain import is_plain, refuse_forward_derivatives

# Their gradients need no more of the logits than two of a row.
_PAIR_BITS = frozenset({BIT["gap"], BIT["label"], BIT["distance"]})
_TILED_KINDS = mask_of(("loss", "entropy"))


def _served(backend: registry.Backend) -> Callable[..., tuple[Tensor, Tensor]]:
    def linear_scores(
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        widths: Sequence[int],
        kinds: int,
        ignored: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor]:
        if labels is not None:
            registry.check_labels(labels, weight.shape[0], ignored)
        operands = (features, weight, bias, labels, class_distances)
        scores, found = backend.linear_scores(*operands, widths, kinds, pairs)
        if found is None:
            found = features.new_empty(0, 2, dtype=torch.int64)
        return scores, found

    return linear_scores


_linear_scores = define(
    "linear_scores",
    "(Tensor features, Tensor weight, Tensor? bias, Tensor? labels, Tensor? class_distances, "
    "SymInt[] widths, int kinds, int ignored, bool pairs) -> (Tensor, Tensor)",
    _served,
)


def linear_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    widths: Sequence[int],
    kinds: int,
    ignored: int,
) -> Tensor:
    """The scores (n, w, B) of `features @ weight.T + bias` named by the n bits of `kinds`, in bit order, at w ascending widths.

    Differentiable at a single width, which is then that of the features and the weight.
    """
    operands = (features, weight, bias, labels, class_distances)
    if is_plain(*operands):
        if labels is not None:
            registry.check_labels(labels, weight.shape[0], ignored)
        return registry.serving(features).linear_scores(*operands, widths, kinds, False)[0]
    refuse_forward_derivatives(features=features, weight=weight, bias=bias)
    if not needs_gradient(features, weight, bias):
        scores: Tensor = _linear_scores(*operands, widths, kinds, ignored, False)[0]
        return scores
    # The gradient is of the logits' pairs that the operator returns beside, or of each row's logsumexp.
    asked = kinds | BIT[LOGSUMEXP] if kinds & _TILED_KINDS else kinds
    scores = _linear_scores(*operands, widths, asked, ignored, kinds in _PAIR_BITS)[0]
    return for_callers(scores if asked == kinds else scores[:-1])


def needs_gradient(features: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a gradient is wanted of any of the head's operands."""
    return torch.is_grad_enabled() and (
        features.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )


@torch.library.register_fake("dynams_kernels::linear_scores")
def _linear_scores_shape(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    widths: Sequence[int],
    kinds: int,
    ignored: int,
    pairs: bool,
) -> tuple[Tensor, Tensor]:
    batch = features.shape[0]
    shape = (kinds.bit_count(), len(widths), batch)
    scores = features.new_empty(shape, dtype=eager.score_dtype(features.dtype))
    return scores, features.new_empty((batch if pairs else 0, 2), dtype=torch.int64)


def _save_linear_scores(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, weight, bias, labels, class_distances, widths, ctx.kinds, _ignored, _pairs = inputs
    scores, pairs = output
    ctx.mark_non_differentiable(pairs)
    ctx.one_width = len(widths) == 1 and widths[0] == features.shape[1] == weight.shape[1]
    ctx.save_for_backward(features, weight, bias, labels, class_distances, scores, pairs)


def _linear_scores_backward(
    ctx: Any, grad: Tensor, _pairs_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    if not ctx.one_width:
        raise RuntimeError("linear_scores: a gradient needs one width, that of the operands")
    features, weight, bias, labels, class_distances, scores, pairs = ctx.saved_tensors
    grads = linear_score_gradients(
        grad[:, 0],
        scores[:, 0],
        (features, weight, bias),
        labels,
        class_distances,
        pairs,
        ctx.kinds,
        ctx.needs_input_grad[:3],
    )
    return (*grads, None, None, None, None, None, None)


torch.library.register_autograd(
    "dynams_kernels::linear_scores", _linear_scores_backward, setup_context=_save_linear_scores
)
