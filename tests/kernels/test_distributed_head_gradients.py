"""Gradients of heads whose classes are spread over ranks are those of the whole head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import random_head
from live_ranks import LiveRanks
from spread_heads import compare, shards

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no distributed here")

INF = math.inf
KINDS = oracle.SCORE_KINDS
IGNORED = -100


def gradients(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    kinds: Sequence[str],
    weights: Tensor,
    named: dict[str, Any],
) -> list[Tensor]:
    """Gradients of the weighted sum of all scores, an ignored one left out."""
    operands = [one.requires_grad_() for one in (features, weight, bias)]
    found = dk.distributed.linear_scores(operands[0], operands[1], kinds, operands[2], **named)
    return list(torch.autograd.grad(total(found, weights), operands))


def total(found: dict[str, Tensor], weights: Tensor) -> Tensor:
    stacked = torch.stack(list(found.values()))
    return torch.where(stacked.isnan(), 0.0, stacked * weights).sum()


def check_gradients(
    group: LiveRanks,
    sizes: Sequence[int],
    operands: tuple[Tensor, Tensor, Tensor],
    kinds: Sequence[str],
    labels: Tensor,
    bound: float,
) -> None:
    """Every rank's against those of the whole head in this process, to which other tests hold torch's."""
    features, weight, bias = operands
    weights = torch.randn(
        len(kinds), len(features), generator=torch.Generator().manual_seed(1), dtype=features.dtype
    )
    named = {"labels": labels}
    each = [(features, *shard, kinds, weights, named) for shard in shards(sizes, weight, bias)]
    found = group.call(gradients, each)
    assert not any(isinstance(one, Exception) for one in found), found
    whole = [one.clone().requires_grad_() for one in operands]
    scores = dk.linear_scores(whole[0], whole[1], kinds, whole[2], labels=labels)
    want = torch.autograd.grad(total(scores, weights), whole)
    for of_features, _, _ in found:
        assert oracle.same_bits(of_features, found[0][0])
        compare(of_features, want[0], bound)
    compare(torch.cat([of_weight for _, of_weight, _ in found]), want[1], bound)
    compare(torch.cat([of_bias for _, _, of_bias in found]), want[2], bound)


@pytest.mark.parametrize("kinds", [(kind,) for kind in KINDS] + [KINDS], ids="+".join)
def test_gradients_are_those_of_the_whole_head(
    kinds: Sequence[str], ranks_of: Callable[[int], LiveRanks]
) -> None:
    operands = random_head(12, 7, 11, torch.float64, scale=2.0)
    labels = torch.arange(12) % 11
    labels[4] = IGNORED
    check_gradients(ranks_of(4), [4, 1, 0, 6], operands, kinds, labels, 1e-13)
    check_gradients(
        ranks_of(2), [3, 8], tuple(one.float() for one in operands), kinds, labels, 1e-5
    )


def test_gradients_of_features_that_lie_differently_on_each_rank(
    ranks_of: Callable[[int], LiveRanks],
) -> None:
    features, weight, bias = random_head(5, 4, 6, torch.float64)
    weights = torch.ones(1, 5, dtype=torch.float64)
    (begin, end) = shards([3, 3], weight, bias)
    each = [
        (features, *begin, ["entropy"], weights, {}),
        (features.t().contiguous().t(), *end, ["entropy"], weights, {}),
    ]
    whole = features.clone().requires_grad_()
    entropy = dk.linear_scores(whole, weight, ["entropy"], bias)["entropy"]
    want = torch.autograd.grad(entropy.sum(), whole)[0]
    for of_features, _, _ in ranks_of(2).call(gradients, each):
        compare(of_features, want, 1e-13)


def test_gradients_over_several_tiles_of_classes(ranks_of: Callable[[int], LiveRanks]) -> None:
    operands = random_head(2048, 4, 4200, torch.float64)
    labels = torch.arange(2048) * 2 % 4200
    check_gradients(ranks_of(2), [2100, 2100], operands, ("loss", "entropy"), labels, 1e-12)


def test_a_row_that_is_not_finite_spoils_no_class_that_has_no_part_in_it(
    ranks_of: Callable[[int], LiveRanks],
) -> None:
    weight = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    features = torch.tensor([[1.0], [-1.0]])
    bias = torch.tensor([0.0, 0.0, 0.0, INF])
    named = {"labels": torch.tensor([2, 1])}
    each = [
        (features, *shard, ["gap"], torch.ones(1, 2), named)
        for shard in shards([2, 2], weight, bias)
    ]
    found = ranks_of(2).call(gradients, each)
    # Class 3 has +inf: the seconds are 2 and 0.
    assert found[0][1].tolist() == [[1.0], [0.0]]
    assert found[1][1].tolist() == [[-1.0], [0.0]]
    assert found[0][0].tolist() == found[1][0].tolist() == [[1.0], [3.0]]


def written(features: Tensor, weight: Tensor) -> Tensor:
    features.requires_grad_()
    margins = dk.distributed.linear_margin(features, weight)
    margins[0] = 0.0
    margins *= 2
    return torch.autograd.grad(margins.sum(), features)[0]


def test_margins_may_be_written_into_before_a_backward_pass(
    ranks_of: Callable[[int], LiveRanks],
) -> None:
    features, weight, bias = random_head(3, 4, 5)
    each = [(features, rows) for rows, _ in shards([2, 3], weight, bias)]
    found = ranks_of(2).call(written, each)
    features.requires_grad_()
    want = torch.autograd.grad(2 * dk.linear_margin(features, weight)[1:].sum(), features)[0]
    for got in found:
        torch.testing.assert_close(got, want)
