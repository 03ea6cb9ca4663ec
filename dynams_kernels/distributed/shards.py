"""One rank's shard of a linear head: what it tells the other ranks of its call, and how its rows' states become scores with theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynams_kernels import _checks
from dynams_kernels._backends import registry
from dynams_kernels._backends.eager import score_dtype
from dynams_kernels._backends.shard_merge import merged_scores
from dynams_kernels._backends.shard_states import NO_CLASS, state_parts
from dynams_kernels._gradients.linear import Operands
from dynams_kernels._gradients.shards import (
    Rows,
    kinds_for_gradients,
    needs_pairs,
    shard_gradients,
)
from dynams_kernels._kinds import LABELLED_KINDS, kinds_of, mask_of, row_of
from dynams_kernels._ops.linear import needs_gradient
from dynams_kernels._plain import refuse_forward_derivatives
from dynams_kernels.distributed.groups import Ranks
from dynams_kernels.linear import autocast_operands

# What must be the same on all ranks of what `Shard.told` gives, by the names that an error gives it.
SAME = (
    "call",
    "kinds",
    "features",
    "weight",
    "width",
    "bias",
    "labels",
    "ignore_index",
    "requires_grad",
    "features (sum of bits)",
    "labels (sum)",
)
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Shard:
    """A rank's part of a call, checked as far as one rank can."""

    def __init__(
        self,
        features: object,
        weight: object,
        bias: object,
        width: object,
        kinds: Sequence[str],
        labels: object,
        ignore_index: object,
    ) -> None:
        if isinstance(width, (list, tuple)):
            raise TypeError(
                f"width: got {type(width).__name__}, want one int or float over ranks, or None"
            )
        if hasattr(weight, "to_local"):
            raise TypeError(
                f"weight: got {type(weight).__name__}, want this rank's own rows: weight.to_local()"
            )
        if "distance" in kinds:
            raise ValueError(
                "kind: got 'distance' over several ranks, want a kind that needs no other rank's weight; or gather the "
                "weight, and call dynams_kernels.linear_margin"
            )
        slim, slim_weight, checked_bias = _checks.check_linear(
            features, weight, bias, width, sharded=True
        )
        refuse_forward_derivatives(features=slim, weight=slim_weight, bias=checked_bias)
        self.leading = slim.shape[:-1]
        self.kinds = mask_of(kinds)
        operands = autocast_operands(_checks.as_rows(slim), slim_weight, checked_bias)
        _checks.check_same_dtype(*operands)
        self.features, self.weight, self.bias = operands
        self.labels: Tensor | None = None
        self.ignored = _checks.IGNORED
        labelled = next((kind for kind in kinds if kind in LABELLED_KINDS), None)
        if labelled is not None:
            checked = _checks.check_labels(labels, labelled, self.leading, slim.device)
            self.labels, self.ignored = _checks.resolve_ignored(checked, ignore_index, 0)
        self.wants_gradient = needs_gradient(*operands)

    def told(self, call: str) -> dict[str, Any]:
        """What the other ranks must know of this call."""
        features, labels = self.features, self.labels
        lowest = highest = labels_sum = None
        if labels is not None and labels.numel():
            others = labels.masked_fill(labels == self.ignored, 0)
            lowest, highest = (int(bound) for bound in torch.aminmax(others))
            labels_sum = _sum_of_rows(labels)
        asked = [name for name, operand in self._named() if operand.requires_grad]
        return {
            "call": call,
            "kinds": ", ".join(kinds_of(self.kinds)),
            "features": f"{tuple(self.leading)} on {features.device.type}",
            "weight": f"{features.dtype}",
            "width": features.shape[1],
            "bias": "None" if self.bias is None else "a tensor",
            "labels": "None" if labels is None else "a tensor",
            "ignore_index": self.ignored,
            "requires_grad": ", ".join(asked) if self.wants_gradient else "",
            "features (sum of bits)": _sum_of_bits(features),
            "labels (sum)": labels_sum,
            "classes": self.weight.shape[0],
            "lowest": lowest,
            "highest": highest,
        }

    def _named(self) -> list[tuple[str, Tensor]]:
        named = {"features": self.features, "weight": self.weight, "bias": self.bias}
        return [(name, operand) for name, operand in named.items() if operand is not None]


def _sum_of_bits(features: Tensor) -> int:
    """A sum that tells features apart, also if rows or values changed places."""
    features = features.detach().resolve_neg().contiguous()
    return _sum_of_rows(features.view(_BITS[features.element_size()]).sum(1, dtype=torch.int64))


def _sum_of_rows(numbers: Tensor) -> int:
    return int((numbers * (2 * torch.arange(len(numbers), device=numbers.device) + 1)).sum())


@dataclass(frozen=True)
class _Place:
    """Where a rank's classes stand among those of all ranks."""

    ranks: Ranks
    sizes: list[int]

    @property
    def first(self) -> int:
        return sum(self.sizes[: self.ranks.rank])

    @property
    def total(self) -> int:
        return sum(self.sizes)


def scores_over_ranks(ranks: Ranks, shard: Shard, told: list[dict[str, Any]]) -> Tensor:
    """The scores (n, ...) of the kinds, in bit order, of the head whose shards the ranks told of.

    Raises:
        ValueError: on all ranks, there are fewer than two classes, or a label names none.
    """
    place = _Place(ranks, [one["classes"] for one in told])
    _checks.check_classes("weight", place.total)
    if shard.features.is_cpu:
        _check_labels(told, place.total)
    if shard.kinds == 0:
        return shard.features.new_empty((0, *shard.leading))
    labels, named = shard.labels, None
    if labels is not None:
        labels, _ = _checks.resolve_ignored(labels, shard.ignored, place.total)
        named = (labels >= 0) & (labels < place.total)
        labels = torch.where(named, labels - place.first, -1)
    kinds = kinds_for_gradients(shard.kinds) if shard.wants_gradient else shard.kinds
    operands = (shard.features, shard.weight, shard.bias)
    if shard.wants_gradient:
        found: Tensor = _ShardedScores.apply(  # type: ignore[no-untyped-call]
            *operands, labels, named, place, kinds
        )
        # A copy: what the backward pass reads is the callers' no more, who may write into their scores.
        found = found[[row_of(kind, kinds) for kind in kinds_of(shard.kinds)]]
    else:
        found, _ = _forward(operands, labels, named, place, kinds, False)
    return found.view(found.shape[0], *shard.leading)


def _check_labels(told: list[dict[str, Any]], total: int) -> None:
    bounds = [one[name] for one in told for name in ("lowest", "highest") if one[name] is not None]
    if bounds and (min(bounds) < 0 or max(bounds) >= total):
        raise _checks.label_error(min(bounds) if min(bounds) < 0 else max(bounds), total)


def _forward(
    operands: Operands,
    labels: Tensor | None,
    named: Tensor | None,
    place: _Place,
    kinds: int,
    pairs: bool,
) -> tuple[Tensor, Tensor | None]:
    """The scores (n, B), and the classes (B, 2) of the two largest logits where asked for, numbered over all ranks."""
    features, weight, bias = (
        None if operand is None else operand.detach().resolve_neg() for operand in operands
    )
    assert features is not None
    assert weight is not None
    batch, parts = features.shape[0], len(state_parts(kinds))
    states = features.new_empty((parts, 0), dtype=score_dtype(features.dtype))
    if batch and len(weight):
        backend = registry.serving(features)
        states, numbers = backend.linear_states(features, weight, bias, labels, kinds, pairs)
        if labels is not None:
            of_other_ranks = (labels < 0) | (labels >= len(weight))
            states[state_parts(kinds).index("own")].masked_fill_(of_other_ranks, 0)
    bits = _BITS[states.element_size()]
    told = features.new_zeros((parts + 2 * pairs, batch), dtype=bits)
    if states.numel():
        told[:parts] = states.view(bits)
        if pairs and numbers is not None:
            told[parts:] = torch.where(numbers < NO_CLASS, numbers + place.first, NO_CLASS)
    if batch:
        told = place.ranks.gather(told)[[size > 0 for size in place.sizes]]
    else:
        told = told.unsqueeze(0)
    of_all = told[:, parts:].to(torch.int64) if pairs else None
    return merged_scores(
        told[:, :parts].contiguous().view(states.dtype), of_all, named, place.total, kinds
    )


class _ShardedScores(torch.autograd.Function):
    """Scores (n, B) of all ranks' classes; see `scores_over_ranks`."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        named: Tensor | None,
        place: _Place,
        kinds: int,
    ) -> Tensor:
        operands = (features, weight, bias)
        scores, pairs = _forward(operands, labels, named, place, kinds, needs_pairs(kinds))
        ctx.place, ctx.kinds = place, kinds
        ctx.save_for_backward(features, weight, bias, labels, named, scores, pairs)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, labels, named, scores, pairs = ctx.saved_tensors
        own_pairs = None if pairs is None else pairs - ctx.place.first
        rows = Rows(scores, ctx.kinds, own_pairs, labels, named)
        sums = shard_gradients(grad, rows, (features, weight, bias), ctx.needs_input_grad[:3])
        of_features = sums.totals[0]
        if of_features is not None:
            # The collective adds memory to memory, whatever the strides of each rank's features.
            sums.totals[0] = ctx.place.ranks.sum_(of_features.contiguous())
        return (*sums.as_given(), None, None, None, None)
