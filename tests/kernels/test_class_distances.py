"""dk.class_distances: symmetric, exact where rows agree, as accurate as float32 can say."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import LAYOUTS, random_logits

EPS = torch.finfo(torch.float32).eps


def check(weight: Tensor, width: int | float | None = None) -> Tensor:
    got: Tensor = dk.class_distances(weight, width=width)
    wide = oracle.array(weight)
    want = oracle.class_distances(wide, width)
    used = wide[:, : oracle.columns(weight.shape[1], width)]
    top = np.abs(used).max(initial=0.0) or 1.0
    norm = np.sqrt(((used / top) ** 2).sum(axis=1)) * top
    allowed = 2 * EPS * (norm[:, None] + norm[None, :])
    assert got.device == weight.device
    assert got.shape == (len(weight), len(weight))
    assert (np.abs(oracle.array(got) - want) <= allowed).all()
    assert torch.equal(got, got.t())
    assert not got.diagonal().any()
    return got


@given(
    classes=st.integers(2, 40),
    size=st.integers(1, 40),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_distances_are_euclidean(
    classes: int, size: int, seed: int, scale: float, dtype: torch.dtype, device: str
) -> None:
    got = check(random_logits(classes, size, seed=seed, scale=scale).to(dtype).to(device))
    assert got.dtype == torch.float32


@pytest.mark.parametrize("classes", [2, 3, 17, 64, 65, 257, 1000])
def test_ragged_class_counts(classes: int, device: str) -> None:
    check(random_logits(classes, 19, seed=classes).to(device))


@pytest.mark.parametrize("width", [1, 5, 32, 33, 0.01, 0.5, 1.0])
def test_only_the_first_columns_take_part(width: int | float, device: str) -> None:
    weight = random_logits(9, 33, seed=2)
    weight[:, oracle.columns(33, width) :] = float("nan")
    check(weight.to(device), width)


def test_identical_rows_are_exactly_zero_apart(device: str) -> None:
    for scale in (1e-4, 1.0, 317.0, 1e6):
        weight = random_logits(12, 100, seed=1, scale=scale)
        weight[7] = weight[2]
        weight[11] = weight[2]
        got = check(weight.to(device))
        assert got[7, 2] == got[2, 11] == got[7, 11] == 0.0


def test_nearly_equal_rows_keep_their_distance(device: str) -> None:
    # |a|^2 + |b|^2 - 2ab in float32 would give noise of the size sqrt(eps) |a| here.
    base = random_logits(1, 512, seed=3, scale=10)
    weight = base + random_logits(8, 512, seed=4, scale=1e-4)
    check(weight.to(device))
    offset = torch.full((4, 64), 1000.0)
    offset[1, 0], offset[2, 5] = 1001.0, 1000.0625
    got = check(offset.to(device))
    assert got[0, 1].item() == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_overflow_nor_underflow(scale: float, device: str) -> None:
    got = check(random_logits(5, 16, seed=5, scale=scale).to(device))
    assert got.isfinite().all()
    assert (got + torch.eye(5, device=device) > 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str, device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        weight = random_logits(13, 21, dtype, seed=6).to(device)
        assert oracle.same_bits(
            check(LAYOUTS[layout](weight)), dk.class_distances(weight.contiguous())
        )


def test_float64_weight_is_accepted(device: str) -> None:
    check(random_logits(6, 9, torch.float64).to(device))


def test_the_two_classes_of_a_binary_head(device: str) -> None:
    weight = torch.tensor([[0.0, 3.0], [4.0, 0.0]], device=device)
    assert dk.class_distances(weight).tolist() == [[0.0, 5.0], [5.0, 0.0]]


def test_distances_carry_no_gradient(device: str) -> None:
    weight = random_logits(4, 3).to(device).requires_grad_()
    assert not dk.class_distances(weight).requires_grad
