"""The gradient of scores of a linear head with respect to the features and one rank's classes of it.

With p_c = exp(z_c - logsumexp) every score's gradient with respect to the logit of class c is a p_c + b p_c log p_c + q p_c^2, of
three numbers a row, and amounts at up to three classes: the two largest and the label. All of them follow from the scores of the
whole row, which each rank has; so a rank forms the logits of its own classes again, tile by tile, and asks the others nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from dynams_kernels._backends.products import apart
from dynams_kernels._gradients.linear import TILE_ROWS, Operands, Sums, less_at, tile_elements
from dynams_kernels._kinds import BIT, LABELLED_KINDS, LOGSUMEXP, kinds_of, mask_of, row_of

_PAIRED = mask_of(("gap", "label", "probability", "confidence"))
_DENSE = mask_of(("probability", "loss", "el2n", "entropy", "confidence"))


def kinds_for_gradients(kinds: int) -> int:
    """The kinds whose scores the gradients of these are made of."""
    if kinds & _DENSE:
        kinds |= BIT[LOGSUMEXP]
    if kinds & BIT["el2n"]:
        kinds |= BIT["loss"]
    if kinds & BIT["probability"]:
        kinds |= BIT["confidence"]
    return kinds


def needs_pairs(kinds: int) -> bool:
    """Whether the gradients of these kinds are made of the two largest logits' classes too."""
    return bool(kinds & _PAIRED)


@dataclass(frozen=True)
class Rows:
    """Rows of a sharded head: classes are numbered from the rank's first, those of other ranks are outside [0, C)."""

    scores: Tensor  # (n, B), of `kinds_for_gradients`
    kinds: int
    pairs: Tensor | None  # (B, 2), the classes of the two largest
    labels: Tensor | None  # (B,)
    named: Tensor | None  # (B,), whether the label is a class of any rank


def shard_gradients(
    grad: Tensor, rows: Rows, operands: Operands, needed: tuple[bool, bool, bool]
) -> Sums:
    """Sums with respect to features (what these classes add to it), weight and bias, of the gradient (n, B) of each score."""
    sums = Sums(operands, grad.dtype, needed)
    features, weight, bias = operands
    terms = _Terms(grad, rows)
    batch, classes = features.shape[0], weight.shape[0]
    if classes == 0:
        return sums
    if not rows.kinds & _DENSE:
        for numbers, amount in terms.places:
            _add_places(sums, operands, numbers, amount)
        return sums
    logsumexp = rows.scores[row_of(LOGSUMEXP, rows.kinds)]
    step = max(1, min(batch, TILE_ROWS))
    width = max(1, tile_elements(features) // step)
    for begin in range(0, batch, step):
        block = slice(begin, begin + step)
        block_features = apart(features[block])
        for first in range(0, classes, width):
            columns = slice(first, first + width)
            tile = linear(block_features, weight[columns], None if bias is None else bias[columns])
            log_p = tile.to(grad.dtype) - logsumexp[block].unsqueeze(1)
            logits_grad = terms.dense(log_p, block)
            for numbers, amount in terms.places:
                logits_grad = less_at(logits_grad, numbers[block] - first, -amount[block])
            sums.add(logits_grad, block, columns)
    return sums


class _Terms:
    """The numbers a row that its logits' gradients are made of: `places` are classes (B,) and what is added there."""

    def __init__(self, grad: Tensor, rows: Rows) -> None:
        self.places: list[tuple[Tensor, Tensor]] = []
        self._of_p = torch.zeros_like(grad[0])
        self._of_p_log_p: Tensor | None = None
        self._of_p_squared: Tensor | None = None
        self._rows = rows
        for given, kind in zip(grad, kinds_of(rows.kinds), strict=True):
            if kind in LABELLED_KINDS and rows.named is not None:
                given = torch.where(rows.named, given, 0.0)
            getattr(self, f"_add_{kind}")(given)

    def _score(self, kind: str) -> Tensor:
        """A score, 0 where there is none: of a row whose label is ignored."""
        score = self._rows.scores[row_of(kind, self._rows.kinds)]
        if kind in LABELLED_KINDS and self._rows.named is not None:
            score = torch.where(self._rows.named, score, 0.0)
        return score

    def _classes(self) -> tuple[Tensor, Tensor]:
        assert self._rows.pairs is not None
        first, second = self._rows.pairs.unbind(1)
        return first, second

    def _label(self) -> Tensor:
        assert self._rows.labels is not None
        return self._rows.labels

    def _add_gap(self, given: Tensor) -> None:
        first, second = self._classes()
        self.places += [(first, given), (second, -given)]

    def _add_label(self, given: Tensor) -> None:
        first, second = self._classes()
        label = self._label()
        self.places += [(label, given), (torch.where(first == label, second, first), -given)]

    def _add_probability(self, given: Tensor) -> None:
        first, second = self._classes()
        difference = self._score("probability")
        largest = 1 - self._score("confidence")
        self._of_p = self._of_p - given * difference
        self.places += [(first, given * largest), (second, -given * (largest - difference))]

    def _add_confidence(self, given: Tensor) -> None:
        first, _ = self._classes()
        pull = given * (1 - self._score("confidence"))
        self._of_p = self._of_p + pull
        self.places.append((first, -pull))

    def _add_loss(self, given: Tensor) -> None:
        self._of_p = self._of_p + given
        self.places.append((self._label(), -given))

    def _add_logsumexp(self, given: Tensor) -> None:
        self._of_p = self._of_p + given

    def _add_entropy(self, given: Tensor) -> None:
        self._of_p = self._of_p - given * self._score("entropy")
        self._of_p_log_p = -given

    def _add_el2n(self, given: Tensor) -> None:
        norm, loss = self._score("el2n"), self._score("loss")
        pull = torch.where(norm > 0, given / norm, 0.0)
        # The sum of p^2 less p_y, which is norm^2 - (1 - p_y).
        self._of_p = self._of_p - pull * (norm.square() + torch.expm1(-loss))
        self._of_p_squared = pull
        self.places.append((self._label(), -pull * torch.exp(-loss)))

    def dense(self, log_p: Tensor, block: slice) -> Tensor:
        """What a tile's logits (rows, classes) are given by their probabilities."""
        p = log_p.exp()
        of_p = self._of_p[block].unsqueeze(1)
        if self._of_p_log_p is not None:
            information = torch.where(p > 0, log_p, torch.zeros_like(log_p))
            of_p = of_p + self._of_p_log_p[block].unsqueeze(1) * information
        if self._of_p_squared is not None:
            of_p = of_p + self._of_p_squared[block].unsqueeze(1) * p
        return of_p * p


def _add_places(sums: Sums, operands: Operands, numbers: Tensor, amount: Tensor) -> None:
    """Adds the gradients of one logit a row: of the class of that number, where it is one of these."""
    features, weight, _ = operands
    inside = (numbers >= 0) & (numbers < weight.shape[0])
    places = torch.where(inside, numbers, 0)
    of_features, of_weight, of_bias = sums.totals

    def where_inside(pull: Tensor) -> Tensor:
        # Chosen, not multiplied by 0: a NaN of another rank's row stays there.
        return torch.where(inside if pull.dim() == 1 else inside.unsqueeze(1), pull, 0.0)

    if of_features is not None:
        of_features += where_inside(amount.unsqueeze(1) * weight[places].to(amount.dtype))
    if of_weight is not None:
        pull = amount.unsqueeze(1) * features.to(amount.dtype)
        of_weight.index_add_(0, places, where_inside(pull))
    if of_bias is not None:
        of_bias.index_add_(0, places, where_inside(amount))
