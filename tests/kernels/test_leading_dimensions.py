"""Samples may stand in any number of dimensions: scores come back in the same ones."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits

ALL: tuple[dk.ScoreKind, ...] = (
    "gap", "probability", "distance", "label", "loss", "el2n", "entropy", "confidence",
)  # fmt: skip
C, D = 7, 5
WEIGHT = random_logits(C, D, seed=4, scale=1)
APART = dk.class_distances(WEIGHT)


def flat_and_shaped(shape: tuple[int, ...], last: int) -> tuple[Tensor, Tensor]:
    count = torch.Size(shape).numel()
    flat = random_logits(count, last, seed=count)
    return flat, flat.view(*shape, last)


@given(shape=st.lists(st.integers(0, 4), max_size=4).map(tuple))
def test_every_score_of_every_shape(shape: tuple[int, ...]) -> None:
    flat, x = flat_and_shaped(shape, C)
    flat_features, features = flat_and_shaped(shape, D)
    labels = labels_for(flat)
    y = labels.view(shape)
    pairs = [
        (
            dk.scores(x, ALL, labels=y, class_distances=APART),
            dk.scores(flat, ALL, labels=labels, class_distances=APART),
        ),
        (
            dk.linear_scores(features, WEIGHT, ALL, labels=y, width=3),
            dk.linear_scores(flat_features, WEIGHT, ALL, labels=labels, width=3),
        ),
    ]
    for got, want in pairs:
        assert list(got) == list(ALL)
        for kind in ALL:
            assert got[kind].shape == shape
            assert oracle.same_answer(got[kind].reshape(-1), want[kind])
    logits = (
        oracle.array(flat),
        oracle.linear(oracle.array(flat_features), oracle.array(WEIGHT), None, 3),
    )
    slim_apart = oracle.class_distances(oracle.array(WEIGHT), 3)
    for (got, _), z, apart in zip(pairs, logits, (oracle.array(APART), slim_apart), strict=True):
        exact = oracle.scores(z, ALL, labels.numpy(), apart)
        for kind in ALL:
            oracle.check(got[kind].reshape(-1), exact[kind], ulps=64, floor=8)
    for kind in oracle.MARGIN_KINDS:
        own = {"labels": y} if kind == "label" else {}
        far = {"class_distances": APART} if kind == "distance" else {}
        margins = dk.margin(x, kind=kind, **own, **far)
        assert oracle.same_answer(margins, pairs[0][0][kind])
        margins = dk.linear_margin(features, WEIGHT, kind=kind, width=3, **own)
        assert oracle.same_answer(margins, pairs[1][0][kind])


@given(shape=st.lists(st.integers(0, 3), max_size=3).map(tuple), slim=st.booleans())
def test_several_widths_come_first(shape: tuple[int, ...], slim: bool) -> None:
    flat, features = flat_and_shaped(shape, D)
    features = features[..., :4] if slim else features
    got = dk.linear_scores(features, WEIGHT, ["entropy", "gap"], width=[4, 2, 4])
    for kind in ("entropy", "gap"):
        assert got[kind].shape == (3, *shape)
    margins = dk.linear_margin(features, WEIGHT, width=[4, 2, 4])
    assert oracle.same_answer(margins, got["gap"])
    want = oracle.margin(oracle.linear(oracle.array(flat), oracle.array(WEIGHT), None, 2))
    oracle.check(got["gap"][1].reshape(-1), want, ulps=64, floor=4)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_dimensions_in_any_order_of_memory(order: tuple[int, ...]) -> None:
    x = random_logits(12, 5).view(3, 4, 5)
    back = [order.index(place) for place in range(3)]
    moved = x.permute(order).contiguous().permute(back)
    assert moved.shape == x.shape
    assert oracle.same_bits(dk.margin(moved), dk.margin(x.reshape(12, 5)).view(3, 4))


def test_gradients_have_the_shape_of_the_logits() -> None:
    x = random_logits(12, 5).view(3, 4, 5).requires_grad_()
    dk.margin(x).sum().backward()
    flat = x.detach().view(12, 5).requires_grad_()
    dk.margin(flat).sum().backward()
    assert x.grad is not None
    assert flat.grad is not None
    assert torch.equal(x.grad.view(12, 5), flat.grad)


@pytest.mark.parametrize("shape", [(2,), (3, 2), (6,), (2, 3, 1)], ids=str)
def test_labels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    y = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"labels: got shape .* want \(2, 3\)"):
        dk.scores(torch.zeros(2, 3, C), ["loss"], labels=y)
    with pytest.raises(ValueError, match=r"labels: got shape .* want \(2, 3\)"):
        dk.linear_margin(torch.zeros(2, 3, D), WEIGHT, kind="label", labels=y)


def test_a_selection_is_of_rows() -> None:
    with pytest.raises(ValueError, match=r"logits: got shape \(2, 3, 7\), want \(B, C\)"):
        dk.margin_topk(torch.zeros(2, 3, C), 1)
    with pytest.raises(ValueError, match=r"features: got shape \(2, 3, 5\), want \(B, D\)"):
        dk.linear_margin_topk(torch.zeros(2, 3, D), WEIGHT, 1)
