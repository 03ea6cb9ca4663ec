"""The gradient of scores of a linear head with respect to features, weight and bias.

The logits are formed again, tile by tile, in the precision of torch's product; only the gradients themselves are as large as
what they belong to.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from dynams_kernels._backends.products import apart
from dynams_kernels._gradients.rows import (
    PAIR_KINDS,
    of_labelled,
    pair_amount,
    row_score_gradients,
)
from dynams_kernels._kinds import BIT, LOGSUMEXP, kinds_of, row_of

# Features (B, D), weight (C, D) and bias (C,), and their gradients.
Operands = tuple[Tensor, Tensor, Tensor | None]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

# What a tile of logits holds: on a GPU enough to fill it, on a CPU no more than stays in cache.
_TILE_ELEMENTS = {"cpu": 1 << 21}
_TILE_ELEMENTS_ELSEWHERE = 1 << 24
# A tile of fewer rows would make the weight's gradient, read and written by each, the slower part.
TILE_ROWS = 4096
_LOSS, _ENTROPY, _LOGSUMEXP = BIT["loss"], BIT["entropy"], BIT[LOGSUMEXP]


def linear_score_gradients(
    grad: Tensor,
    scores: Tensor,
    operands: Operands,
    labels: Tensor | None,
    class_distances: Tensor | None,
    pairs: Tensor,
    kinds: int,
    needed: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients with respect to features (B, D), weight (C, D) and bias (C,), those of them that are needed.

    A margin between two classes touches two rows of the weight a sample: they are gathered and added, without logits. Loss and
    entropy know the probability of a class from its logit and the row's logsumexp, so that tiles may be of any classes. The
    other kinds need whole rows of logits.

    `grad` is the gradient (n, B) of each of the scores (n, B), of which one is the logsumexp where there is a loss or an entropy;
    `pairs` are the classes (B, 2) between which a margin is, where it is the only score, else (0, 2).
    """
    names = kinds_of(kinds)
    if len(names) == 1 and names[0] in PAIR_KINDS and pairs.shape[0] == grad.shape[1]:
        return _pair_gradients(grad[0], operands, labels, class_distances, pairs, names[0], needed)
    sums = Sums(operands, grad.dtype, needed)
    if kinds & _LOGSUMEXP:
        _add_tiles(sums, grad, scores, operands, labels, kinds)
        kinds_left = kinds & ~(_LOSS | _ENTROPY | _LOGSUMEXP)
    else:
        kinds_left = kinds
    if kinds_left:
        rest = grad[[row_of(kind, kinds) for kind in kinds_of(kinds_left)]]
        _add_whole_rows(sums, rest, operands, labels, class_distances, kinds_left)
    return sums.as_given()


class Sums:
    """The gradients as they add up over tiles, in the scores' dtype."""

    def __init__(
        self,
        operands: Operands,
        dtype: torch.dtype,
        needed: tuple[bool, bool, bool],
    ) -> None:
        self._operands = operands
        # Of features, weight and bias; None where not needed.
        self.totals = [
            torch.zeros_like(operand, dtype=dtype) if wanted and operand is not None else None
            for operand, wanted in zip(self._operands, needed, strict=True)
        ]

    def add(self, logits_grad: Tensor, rows: slice, classes: slice) -> None:
        """What a tile's gradient (rows, classes) adds; products are in the operands' dtype, as torch's own backward forms them."""
        features, weight, _ = self._operands
        of_features, of_weight, of_bias = self.totals
        narrow = logits_grad.to(features.dtype)
        if of_features is not None:
            of_features[rows] += narrow @ weight[classes]
        if of_weight is not None:
            of_weight[classes] += narrow.T @ features[rows]
        if of_bias is not None:
            of_bias[classes] += logits_grad.sum(0)

    def as_given(self) -> Gradients:
        """The gradients in their operands' dtypes."""
        features, weight, bias = (
            None if total is None or operand is None else total.to(operand.dtype)
            for total, operand in zip(self.totals, self._operands, strict=True)
        )
        return features, weight, bias


def tile_elements(features: Tensor) -> int:
    """How many logits of a head of these features are formed at once."""
    return _TILE_ELEMENTS.get(features.device.type, _TILE_ELEMENTS_ELSEWHERE)


def _add_tiles(
    sums: Sums,
    grad: Tensor,
    scores: Tensor,
    operands: Operands,
    labels: Tensor | None,
    kinds: int,
) -> None:
    """Adds the gradients of logsumexp, p; of loss, p - onehot(y); of entropy, -p (log p + entropy); log p = z - logsumexp.

    That of the logsumexp itself is zero but in second derivatives.
    """
    features, weight, bias = operands
    batch, classes = features.shape[0], weight.shape[0]
    pull, logsumexp = grad[row_of(LOGSUMEXP, kinds)], scores[row_of(LOGSUMEXP, kinds)]
    of_label = None
    if kinds & _LOSS:
        of_label = of_labelled(grad[row_of("loss", kinds)], labels, classes)
        pull = pull + of_label
    step = max(1, min(batch, TILE_ROWS))
    width = max(1, tile_elements(features) // step)
    for begin in range(0, batch, step):
        rows = slice(begin, begin + step)
        block = apart(features[rows])
        for first in range(0, classes, width):
            columns = slice(first, first + width)
            tile = linear(block, weight[columns], None if bias is None else bias[columns])
            log_p = tile.to(grad.dtype) - logsumexp[rows].unsqueeze(1)
            p = log_p.exp()
            of_p = pull[rows].unsqueeze(1)
            if kinds & _ENTROPY:
                row = row_of("entropy", kinds)
                information = torch.where(p > 0, log_p, torch.zeros_like(log_p))
                surprise = information + scores[row, rows].unsqueeze(1)
                of_p = of_p - grad[row, rows].unsqueeze(1) * surprise
            logits_grad = of_p * p
            if of_label is not None and labels is not None:
                logits_grad = less_at(logits_grad, labels[rows] - first, of_label[rows])
            sums.add(logits_grad, rows, columns)


def less_at(tile: Tensor, place: Tensor, amount: Tensor) -> Tensor:
    """The tile (rows, columns) less an amount a row at one column, where that column is in the tile."""
    inside = (place >= 0) & (place < tile.shape[1])
    taken = torch.where(inside, -amount, torch.zeros_like(amount))
    return tile.scatter_add(1, place.clamp(0, tile.shape[1] - 1).unsqueeze(1), taken.unsqueeze(1))


def _add_whole_rows(
    sums: Sums,
    grad: Tensor,
    operands: Operands,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kinds: int,
) -> None:
    features, weight, bias = operands
    step = max(1, tile_elements(features) // weight.shape[0])
    for begin in range(0, features.shape[0], step):
        rows = slice(begin, begin + step)
        logits = linear(apart(features[rows]), weight, bias)
        block_labels = None if labels is None else labels[rows]
        logits_grad = row_score_gradients(
            grad[:, rows], logits, block_labels, class_distances, kinds
        )
        sums.add(logits_grad, rows, slice(None))


def _pair_gradients(
    grad: Tensor,
    operands: Operands,
    labels: Tensor | None,
    class_distances: Tensor | None,
    pairs: Tensor,
    kind: str,
    needed: tuple[bool, bool, bool],
) -> Gradients:
    features, weight, bias = operands
    if kind == "label":
        grad = of_labelled(grad, labels, weight.shape[0])
    amount = pair_amount(grad, pairs, class_distances, kind)
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
