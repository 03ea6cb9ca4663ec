"""What backends leave of a shard of a head's classes, and what is made of several: in one process, on every device."""

from __future__ import annotations

import math
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional as F

import oracle
from dynams_kernels._backends import eager, registry
from dynams_kernels._backends.shard_merge import merged_scores
from dynams_kernels._backends.shard_states import NO_CLASS, state_parts
from dynams_kernels._kinds import BIT, LABELLED_KINDS, LOGSUMEXP, kinds_of, mask_of
from kernel_inputs import random_head

INF = math.inf
KINDS = (*oracle.SCORE_KINDS, LOGSUMEXP)


def merged(
    head: tuple[Tensor, Tensor, Tensor], labels: Tensor, cuts: list[int], kinds: int, pairs: bool
) -> tuple[Tensor, Tensor | None]:
    """The scores that the device's own backend and plain torch leave together: every second shard is plain torch's."""
    features, weight, bias = head
    states, numbers = [], []
    for place, (begin, end) in enumerate(pairwise(cuts)):
        backend = eager if place % 2 else registry.serving(features)
        own = labels - begin
        state, classes = backend.linear_states(
            features, weight[begin:end], bias[begin:end], own, kinds, pairs
        )
        assert state.shape == (len(state_parts(kinds)), len(features))
        if kinds & mask_of(LABELLED_KINDS):
            state[-1].masked_fill_((own < 0) | (own >= end - begin), 0)
        states.append(state)
        if classes is not None:
            numbers.append(torch.where(classes < NO_CLASS, classes + begin, NO_CLASS))
    named = torch.ones_like(labels, dtype=torch.bool)
    joined = torch.stack(numbers) if pairs else None
    return merged_scores(torch.stack(states), joined, named, cuts[-1], kinds)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "size", "cuts"),
    [(300, 40, [0, 700, 701, 1500]), (24, 64, [0, 9000, 9100]), (5, 7, [0, 1, 2, 9])],
    ids=str,
)
def test_error_is_no_larger_than_torchs_own(
    rows: int, size: int, cuts: list[int], dtype: torch.dtype, device: str
) -> None:
    head = random_head(rows, size, cuts[-1], dtype, scale=2.0)
    labels = torch.arange(rows) * 617 % cuts[-1]
    on_device = tuple(one.to(device) for one in head)
    got, _ = merged(on_device, labels.to(device), cuts, mask_of(KINDS), False)
    want = oracle.scores(oracle.linear(*map(oracle.array, head)), KINDS, labels.numpy())
    torchs = oracle.scores(oracle.array(F.linear(*on_device)), KINDS, labels.numpy())
    eps = torch.finfo(oracle.result_dtype(dtype)).eps
    for kind, scores in zip(KINDS, got, strict=True):
        allowed = 1.25 * oracle.worst(torchs[kind], want[kind])
        allowed += 32 * eps * max(1.0, float(np.abs(want[kind]).max()))
        assert oracle.worst(scores, want[kind]) <= allowed, kind


@st.composite
def cut_heads(draw: st.DrawFn) -> tuple[list[int], tuple[Tensor, Tensor, Tensor]]:
    """Borders of shards that all have classes, and a head of small whole numbers, with infinities in its bias."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=8).filter(lambda s: sum(s) > 1))
    cuts = [0, *np.cumsum(sizes).tolist()]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(oracle.DTYPES))
    features = torch.from_numpy(rng.integers(-3, 4, (draw(st.integers(1, 6)), 3))).to(dtype)
    weight = torch.from_numpy(rng.integers(-3, 4, (cuts[-1], 3))).to(dtype)
    bias = torch.from_numpy(rng.integers(-2, 3, cuts[-1])).to(dtype)
    for value in draw(st.sampled_from([[], [INF], [-INF], [INF, INF, -INF], [-INF] * 30])):
        bias[rng.integers(cuts[-1])] = value
    return cuts, (features, weight, bias)


@given(cut=cut_heads())
def test_the_two_largest_are_those_of_the_whole_lowest_class_first(
    cut: tuple[list[int], tuple[Tensor, Tensor, Tensor]], device: str
) -> None:
    cuts, head = cut
    on_device = tuple(one.to(device) for one in head)
    labels = torch.zeros(len(head[0]), dtype=torch.int64, device=device)
    got, pairs = merged(on_device, labels, cuts, BIT["gap"], True)
    z = oracle.linear(*map(oracle.array, head))
    order = np.argsort(-z, axis=1, kind="stable")[:, :2]
    assert pairs is not None
    assert pairs.cpu().tolist() == order.tolist()
    oracle.check(got[0], oracle.margin(z))


def test_many_rows_are_merged_in_blocks(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 2, 70_000, generator=generator).to(device).sort(1, descending=True)[0]
    numbers = torch.arange(6, device=device).view(3, 2, 1).expand(3, 2, 70_000)
    scores, pairs = merged_scores(states, numbers, None, 6, BIT["gap"])
    z = oracle.array(states.reshape(6, -1).T)
    oracle.check(scores[0], oracle.margin(z))
    assert pairs is not None
    assert np.array_equal(pairs.cpu().numpy(), np.argsort(-z, axis=1, kind="stable")[:, :2])


def test_states_of_nothing_to_score(device: str) -> None:
    features, weight, bias = (one.to(device) for one in random_head(0, 4, 3))
    labels = torch.empty(0, dtype=torch.int64, device=device)
    mask = mask_of(KINDS)
    state, classes = registry.serving(features).linear_states(
        features, weight, bias, labels, mask, True
    )
    assert state.shape == (6, 0)
    assert classes is not None
    assert classes.shape == (2, 0)
    scores, _ = merged_scores(state.unsqueeze(0), None, labels == 0, 3, mask)
    assert scores.shape == (len(kinds_of(mask)), 0)
