"""The gradient of scores with respect to the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from dynams_kernels._backends.eager import class_pairs, score_dtype, shared_softmax
from dynams_kernels._kinds import BIT, KINDS, LABELLED_KINDS, LOGSUMEXP, kinds_of, mask_of

PAIR_KINDS = frozenset({"gap", "label", "distance"})
_SOFTMAX_KINDS = mask_of(frozenset(KINDS) - PAIR_KINDS - {LOGSUMEXP})


def pair_amount(grad: Tensor, pairs: Tensor, class_distances: Tensor | None, kind: str) -> Tensor:
    """The gradient of z_p - z_q: that of the margin, divided by ||w_p - w_q|| for `distance`."""
    if kind != "distance" or class_distances is None:
        return grad
    return grad / class_distances[pairs[:, 0], pairs[:, 1]].to(grad.dtype)


def of_labelled(grad: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """The gradient of a label-based score: a row of a label outside the classes has none, whatever is asked of its NaN."""
    if labels is None:
        return grad
    return torch.where((labels >= 0) & (labels < classes), grad, torch.zeros_like(grad))


def row_score_gradients(
    grad: Tensor, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
) -> Tensor:
    """Gradient (B, C), in the scores' dtype, of the requested scores, given the gradient (n, B) of each."""
    z = logits.to(score_dtype(logits.dtype))
    out = torch.zeros_like(z)
    if z.shape[0] == 0:
        return out
    if kinds & _SOFTMAX_KINDS:
        softmax, log_softmax = shared_softmax(z)
        own = None if labels is None else labels.clamp(0, z.shape[1] - 1).unsqueeze(1)
    for row, kind in enumerate(kinds_of(kinds)):
        given = grad[row]
        if kind in LABELLED_KINDS:
            given = of_labelled(given, labels, z.shape[1])
        if kind in PAIR_KINDS:
            pairs = class_pairs(logits, labels, class_distances, BIT[kind])
            amount = pair_amount(given, pairs, class_distances, kind)
            out = out.scatter_add(1, pairs, torch.stack((amount, -amount), 1))
        else:
            local = _softmax_kind_gradient(kind, softmax, log_softmax, own)
            out = out + given.unsqueeze(1) * local
    return out


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
