"""Gradients of the scores in closed form, in plain torch: class distances and the choice of classes are constants."""

from __future__ import annotations

import torch
from torch import Tensor

from dynams_kernels._backends.eager import TILE_ELEMENTS, class_pairs, score_dtype, shared_softmax
from dynams_kernels._backends.products import apart
from dynams_kernels._kinds import BIT, KINDS, kinds_of, mask_of

_PAIR_KINDS = frozenset({"gap", "label", "distance"})
_SOFTMAX_KINDS = frozenset(KINDS) - _PAIR_KINDS


def _pair_amount(grad: Tensor, pairs: Tensor, class_distances: Tensor | None, kind: str) -> Tensor:
    """The gradient of z_p - z_q: that of the margin, divided by ||w_p - w_q|| for `distance`."""
    if kind != "distance" or class_distances is None:
        return grad
    return grad / class_distances[pairs[:, 0], pairs[:, 1]].to(grad.dtype)


def row_score_gradient(
    grad: Tensor, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
) -> Tensor:
    """Gradient (B, C) of the requested scores, given the gradient (n, B) of each."""
    wanted = kinds_of(kinds)
    z = logits.to(score_dtype(logits.dtype))
    out = torch.zeros_like(z)
    if z.shape[0] == 0:
        return out.to(logits.dtype)
    if kinds & mask_of(_SOFTMAX_KINDS):
        softmax, log_softmax = shared_softmax(z)
        own = None if labels is None else labels.clamp(0, z.shape[1] - 1).unsqueeze(1)
    for row, kind in enumerate(wanted):
        if kind in _PAIR_KINDS:
            pairs = class_pairs(logits, labels, class_distances, BIT[kind])
            amount = _pair_amount(grad[row], pairs, class_distances, kind)
            out = out.scatter_add(1, pairs, torch.stack((amount, -amount), 1))
        else:
            local = _softmax_kind_gradient(kind, softmax, log_softmax, own)
            out = out + grad[row].unsqueeze(1) * local
    return out.to(logits.dtype)


def _softmax_kind_gradient(
    kind: str, softmax: Tensor, log_softmax: Tensor, own: Tensor | None
) -> Tensor:
    """d score / d logits (B, C) of one softmax-based kind; J v = p * (v - p.v) is the softmax's Jacobian."""
    if kind == "probability":
        top = softmax.topk(2, dim=1)
        return _probability_gradient(softmax, top.indices)
    if kind == "confidence":
        first = softmax.argmax(1, keepdim=True)
        largest = softmax.gather(1, first)
        return (largest * softmax).scatter_add(1, first, -largest)
    if kind == "entropy":
        information = torch.where(softmax > 0, log_softmax, torch.zeros_like(log_softmax))
        return -softmax * (information - (softmax * information).sum(1, keepdim=True))
    if own is None:
        raise ValueError(f"labels: got None, want int64 labels: kind {kind!r} needs labels")
    residual = softmax.scatter_add(1, own, torch.full_like(own, -1, dtype=softmax.dtype))
    if kind == "loss":
        return residual
    norm = residual.norm(dim=1, keepdim=True)
    direction = torch.where(norm > 0, residual / norm, torch.zeros_like(residual))
    return softmax * (direction - (softmax * direction).sum(1, keepdim=True))


def _probability_gradient(softmax: Tensor, pairs: Tensor) -> Tensor:
    """d (p_1 - p_2) / d z = p_1 (e_1 - p) - p_2 (e_2 - p)."""
    two = softmax.gather(1, pairs)
    two = torch.stack((two[:, 0], -two[:, 1]), 1)
    return (-softmax * two.sum(1, keepdim=True)).scatter_add(1, pairs, two)


def linear_score_gradients(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_distances: Tensor | None,
    pairs: Tensor,
    kind_bit: int,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to features (B, D), weight (C, D) and bias (C,), those of them that are needed.

    A margin between two classes touches two rows of the weight a sample: they are gathered and added, without logits. The
    probability margin touches all classes: its softmax is formed again, a block of rows at a time.
    """
    (kind,) = kinds_of(kind_bit)
    if kind in _PAIR_KINDS:
        return _pair_gradients(grad, features, weight, bias, class_distances, pairs, kind, needed)
    return _probability_gradients(grad, features, weight, bias, pairs, needed)


def _pair_gradients(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    class_distances: Tensor | None,
    pairs: Tensor,
    kind: str,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    amount = _pair_amount(grad, pairs, class_distances, kind)
    first, second = pairs[:, 0], pairs[:, 1]
    features_grad = weight_grad = bias_grad = None
    if needed[0]:
        difference = weight[first].to(amount.dtype) - weight[second].to(amount.dtype)
        features_grad = (amount.unsqueeze(1) * difference).to(features.dtype)
    if needed[1]:
        pull = amount.unsqueeze(1) * features.to(amount.dtype)
        total = torch.zeros(weight.shape, dtype=amount.dtype, device=weight.device)
        weight_grad = total.index_add(0, first, pull).index_add(0, second, -pull).to(weight.dtype)
    if needed[2] and bias is not None:
        total = torch.zeros(bias.shape, dtype=amount.dtype, device=bias.device)
        bias_grad = total.index_add(0, first, amount).index_add(0, second, -amount).to(bias.dtype)
    return features_grad, weight_grad, bias_grad


def _probability_gradients(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    features_grad = torch.zeros_like(features) if needed[0] else None
    weight_grad = torch.zeros_like(weight, dtype=grad.dtype) if needed[1] else None
    bias_grad = torch.zeros_like(bias, dtype=grad.dtype) if needed[2] and bias is not None else None
    step = max(1, TILE_ELEMENTS // weight.shape[0])
    for begin in range(0, features.shape[0], step):
        block = slice(begin, begin + step)
        logits = torch.nn.functional.linear(apart(features[block]), weight, bias)
        softmax, _ = shared_softmax(logits.to(grad.dtype))
        logits_grad = grad[block].unsqueeze(1) * _probability_gradient(softmax, pairs[block])
        narrow = logits_grad.to(features.dtype)
        if features_grad is not None:
            features_grad[block] = narrow @ weight
        if weight_grad is not None:
            weight_grad += narrow.T @ features[block]
        if bias_grad is not None:
            bias_grad += logits_grad.sum(0)
    return (
        features_grad,
        None if weight_grad is None else weight_grad.to(weight.dtype),
        None if bias_grad is None or bias is None else bias_grad.to(bias.dtype),
    )
