"""Factorised inner products and distances are those of the gradients themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dynams.selection.methods import gradients as module
from dynams.selection.methods.gradients import distances, gram, group_gram
from strategy_inputs import gradients, signals


def parts(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    known = signals(count, classes=5, width=7, seed=seed)
    assert known.features is not None
    assert known.residuals is not None
    return known.features, known.residuals


@pytest.fixture(params=[1, 40, 1 << 22], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one row, of a few, and all at once must agree."""
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", request.param)


def test_inner_products() -> None:
    features, residuals = parts(23)
    g = gradients(features, residuals)
    got = gram(features, residuals)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), g @ g.T, rtol=1e-12, atol=1e-14)
    assert torch.equal(got, got.T)


def test_distances() -> None:
    features, residuals = parts(23)
    features[7], residuals[7] = features[3], residuals[3]
    g = gradients(features, residuals)
    expected = np.linalg.norm(g[:, None] - g[None], axis=2)
    got = distances(features, residuals)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(got, got.T)
    assert got[3, 7] == 0.0


@pytest.mark.parametrize("size", [1, 4, 23, 50])
def test_sums_of_groups(size: int) -> None:
    features, residuals = parts(23)
    g = gradients(features, residuals)
    sums = np.stack([g[start : start + size].sum(0) for start in range(0, 23, size)])
    got = group_gram(features, residuals, size)
    np.testing.assert_allclose(got.numpy(), sums @ sums.T, rtol=1e-12, atol=1e-13)


def test_no_samples() -> None:
    features, residuals = parts(0)
    assert gram(features, residuals).shape == (0, 0)
    assert distances(features, residuals).shape == (0, 0)
    assert group_gram(features, residuals, 3).shape == (0, 0)
