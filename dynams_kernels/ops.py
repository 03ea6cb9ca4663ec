"""The primitives as torch operators: dispatch by device, shapes for tracing, and gradients.

The functions here call an operator where torch has a part in the call, and where it has none, what the operator would have come
to. Arguments are taken as already checked (`functional` does that); labels' values alone are checked where they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import eager, registry
from dynams_kernels._gradients import linear_score_gradients, row_score_gradient
from dynams_kernels._plain import is_plain

_library = torch.library.Library("dynams_kernels", "DEF")
_library.define(
    "row_scores(Tensor logits, Tensor? labels, Tensor? class_distances, int kinds) -> Tensor"
)
_library.define(
    "linear_row_scores(Tensor features, Tensor weight, Tensor? bias, Tensor? labels, "
    "Tensor? class_distances, int kind, bool pairs) -> (Tensor, Tensor)"
)
_library.define(
    "linear_width_scores(Tensor features, Tensor weight, Tensor? bias, Tensor? labels, "
    "SymInt[] widths, int kind) -> Tensor"
)
_library.define("smallest_k(Tensor values, SymInt k, bool by_value) -> (Tensor, Tensor)")

for _name in ("row_scores", "linear_row_scores", "linear_width_scores", "smallest_k"):
    _library.impl(_name, getattr(eager, _name), "CompositeExplicitAutograd")
    _library.impl(_name, getattr(registry.gpu, _name), "CUDA")
    if registry.cpu is not eager:
        _library.impl(_name, getattr(registry.cpu, _name), "CPU")

_row_scores = torch.ops.dynams_kernels.row_scores.default
_linear_row_scores = torch.ops.dynams_kernels.linear_row_scores.default
_linear_width_scores = torch.ops.dynams_kernels.linear_width_scores.default
_smallest_k = torch.ops.dynams_kernels.smallest_k.default


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


def smallest_k(values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
    """The k smallest of values (N,) and their indices, in the contract's total order."""
    if is_plain(values):
        return registry.serving(values).smallest_k(values, k, by_value)
    # A compiled graph traces the backward pass at once, so there the refusal is a missing gradient, not an error.
    if torch.compiler.is_compiling():
        values = values.detach()
    selected: tuple[Tensor, Tensor] = _smallest_k(values, k, by_value)
    return selected


@torch.library.register_fake("dynams_kernels::row_scores")
def _row_scores_shape(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
) -> Tensor:
    rows = bin(kinds).count("1")
    return logits.new_empty((rows, logits.shape[0]), dtype=eager.score_dtype(logits.dtype))


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


@torch.library.register_fake("dynams_kernels::smallest_k")
def _smallest_k_shape(values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
    return values.new_empty(k), values.new_empty(k, dtype=torch.int64)


def _save_row_scores(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, labels, class_distances, ctx.kinds = inputs
    ctx.save_for_backward(logits, labels, class_distances)


def _row_scores_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, labels, class_distances = ctx.saved_tensors
    return row_score_gradient(grad, logits, labels, class_distances, ctx.kinds), None, None, None


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


def _smallest_k_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise RuntimeError(
        "selection is not differentiable: index the margins themselves with the selected indices, "
        "margin(logits)[selection.indices], to train on them"
    )


def _linear_width_scores_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError("linear_width_scores: a gradient needs linear_row_scores, width by width")


torch.library.register_autograd("dynams_kernels::smallest_k", _smallest_k_backward)
torch.library.register_autograd(
    "dynams_kernels::linear_width_scores", _linear_width_scores_backward
)
torch.library.register_autograd(
    "dynams_kernels::row_scores", _row_scores_backward, setup_context=_save_row_scores
)
torch.library.register_autograd(
    "dynams_kernels::linear_row_scores",
    _linear_row_scores_backward,
    setup_context=_save_linear_row_scores,
)
