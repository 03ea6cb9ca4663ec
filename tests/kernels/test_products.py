"""Logits of half precision that are not rounded, where torch can leave them so: with a stand-in for its product on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from dynams_kernels._backends import eager, products
from dynams_kernels._kinds import BIT
from kernel_inputs import random_head

DISTANCE = BIT["distance"]


@pytest.fixture
def wide_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def mm(first: Tensor, second: Tensor, *, out_dtype: torch.dtype) -> Tensor:
        assert first.dtype == second.dtype
        return first.to(out_dtype) @ second.to(out_dtype)

    monkeypatch.setattr(torch, "mm", mm)
    for module in (eager, products):
        monkeypatch.setattr(module, "keeps_logits", lambda features: True)


@pytest.mark.usefixtures("wide_product")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("width", "biased"), [(64, True), (50, False)])
def test_distances_are_those_of_logits_that_are_not_rounded(
    dtype: torch.dtype, width: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "_BLOCK_ON_CPU", 40 * 301)  # rows in three blocks
    features, weight, bias = random_head(100, 64, 301, dtype)
    apart = dk.class_distances(weight, width=width)
    operands = (features, weight, bias if biased else None, None, apart, [width])
    scores, _ = eager.linear_scores(*operands, DISTANCE | BIT["gap"], False)
    logits = features[:, :width].double() @ weight[:, :width].double().T
    if biased:
        logits += bias.double()
    gap, distance = scores[:, 0]
    for got, kind in ((gap, "gap"), (distance, "distance")):
        want = oracle.margin(oracle.array(logits), kind, None, oracle.array(apart))
        assert oracle.worst(got, want) < 2e-5


def test_other_kinds_are_those_of_torchs_own_logits() -> None:
    features, weight, bias = random_head(20, 64, 30, torch.bfloat16)
    scores, _ = eager.linear_scores(features, weight, bias, None, None, [64], BIT["gap"], False)
    assert torch.equal(scores[0, 0], dk.margin(torch.nn.functional.linear(features, weight, bias)))


def test_on_a_cpu_half_precision_is_rounded() -> None:
    assert not products.keeps_logits(torch.zeros(1, 1, dtype=torch.bfloat16))
    assert products.keeps_logits(torch.zeros(1, 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_no_two_classes_tie_by_rounding() -> None:
    features, weight, bias = (one.cuda() for one in random_head(4096, 64, 2000, torch.bfloat16))
    margins = dk.linear_margin(features, weight, bias, kind="distance")
    assert (margins == 0).float().mean() < 0.001
    assert margins.isfinite().all()
