"""dk.scores against the float64 oracle: every kind, in any company, with limits at infinity."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from dynams_kernels._backends import eager
from dynams_kernels._kinds import mask_of
from kernel_inputs import LAYOUTS, RAGGED_C, labels_for, logits, random_logits

INF, NAN = math.inf, math.nan
ALL = oracle.SCORE_KINDS
EXACT = ("gap", "label")


def check_scores(x: Tensor, kinds: tuple[str, ...] = ALL, seed: int = 0) -> dict[str, Tensor]:
    y = labels_for(x, seed)
    got: dict[str, Tensor] = dk.scores(x, kinds, labels=y.to(x.device))
    want = oracle.scores(oracle.array(x), kinds, y.numpy())
    assert list(got) == list(kinds)
    for kind in kinds:
        assert got[kind].dtype == oracle.result_dtype(x.dtype), kind
        assert got[kind].shape == x.shape[:1], kind
        # Sums over many classes cost a few more roundings.
        slack = 0 if kind in EXACT else 32
        try:
            oracle.check(got[kind], want[kind], ulps=slack, floor=0.0 if kind in EXACT else 1.0)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from None
    return got


@given(x=logits(), seed=st.integers(0, 99))
def test_every_score_is_its_formula(x: Tensor, seed: int, device: str) -> None:
    check_scores(x.to(device), seed=seed)


@given(x=logits(max_rows=4, max_classes=20), kinds=st.permutations(ALL), count=st.integers(1, 7))
def test_scores_come_in_the_order_asked_and_do_not_depend_on_company(
    x: Tensor, kinds: list[str], count: int, device: str
) -> None:
    x = x.to(device)
    asked = tuple(kinds[:count])
    together = check_scores(x, asked)
    y = labels_for(x).to(device)
    for kind in asked:
        alone = dk.scores(x, [kind], labels=y)[kind]
        assert oracle.same_answer(alone, together[kind]), kind


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_every_dtype_and_ragged_class_count(dtype: torch.dtype, device: str) -> None:
    for classes in RAGGED_C[:-1]:
        check_scores(random_logits(3, classes, dtype, seed=classes).to(device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [10, 1000, 50257])
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_scores_are_as_accurate_as_torch(
    dtype: torch.dtype, classes: int, scale: float, device: str
) -> None:
    x = random_logits(32, classes, dtype, seed=classes, scale=scale).to(device)
    y = x.argmax(1).where(torch.arange(32, device=device) % 2 == 0, labels_for(x).to(device))
    got = dk.scores(x, ALL, labels=y)
    want = oracle.scores(oracle.array(x), ALL, y.cpu().numpy())
    log_p = torch.log_softmax(x, 1)
    p = log_p.exp()
    onehot = torch.nn.functional.one_hot(y, classes).to(dtype)
    two = torch.softmax(x, 1).topk(2).values
    torch_says = {
        "probability": two[:, 0] - two[:, 1],
        "loss": torch.nn.functional.cross_entropy(x, y, reduction="none"),
        "el2n": (torch.softmax(x, 1) - onehot).norm(dim=1),
        "entropy": -(p * log_p).sum(1),
        "confidence": 1 - two[:, 0],
    }
    eps = torch.finfo(dtype).eps
    for kind, theirs in torch_says.items():
        size = max(1.0, float(abs(want[kind]).max()))
        allowed = 2 * oracle.worst(theirs, want[kind]) + 2 * eps * size
        assert oracle.worst(got[kind], want[kind]) <= allowed, kind


def test_el2n_of_a_confident_row_does_not_cancel(device: str) -> None:
    # sqrt(sum p^2 - 2 p_y + 1) in float32 loses everything here; the difference itself does not.
    for rise in (2.0, 5.0, 8.0, 10.0, 12.0, 14.0):
        x = torch.zeros(1, 10, device=device)
        x[0, 3] = rise
        got = dk.scores(x, ["el2n"], labels=torch.tensor([3], device=device))["el2n"]
        want = oracle.scores(oracle.array(x), ["el2n"], torch.tensor([3]).numpy())["el2n"]
        oracle.check(got, want, ulps=8, floor=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [2, 5])
def test_plain_torch_keeps_the_digits_of_rows_that_are_nearly_certain(
    dtype: torch.dtype, classes: int
) -> None:
    rise = torch.logspace(-3, 1.6, 200, dtype=torch.float64).to(dtype)
    x = torch.zeros(len(rise), classes, dtype=dtype)
    x[:, 1] = rise
    y = torch.ones(len(rise), dtype=torch.int64)
    kinds = ("loss", "el2n", "entropy", "confidence")
    got = dict(zip(kinds, eager.row_scores(x, y, None, mask_of(kinds)), strict=True))
    # Of equal others every score is a function of the rise, here one that cancels nothing.
    gap, count = oracle.array(rise), classes - 1
    rest = count * np.exp(-gap) / (1 + count * np.exp(-gap))
    want = {
        "loss": np.log1p(count * np.exp(-gap)),
        "el2n": np.sqrt(1 + 1 / count) * rest,
        "entropy": np.log1p(count * np.exp(-gap)) + gap * rest,
        "confidence": rest,
    }
    for kind in kinds:
        oracle.check(got[kind], want[kind], ulps=16)


def test_loss_of_large_logits_keeps_its_digits(device: str) -> None:
    x = torch.tensor([[1e6, 1e6 - 1.0], [-3e7, -3e7 + 2.0]], device=device)
    y = torch.tensor([1, 0], device=device)
    want = oracle.loss(oracle.array(x), y.cpu().numpy())
    oracle.check(dk.scores(x, ["loss"], labels=y)["loss"], want, ulps=4)


def test_softmax_mass_is_shared_among_infinite_logits(device: str) -> None:
    x = torch.tensor([[INF, 2.0, INF, -INF]], device=device)
    for label, loss, el2n in [(0, math.log(2), math.sqrt(0.5)), (1, INF, math.sqrt(1.5))]:
        got = dk.scores(x, ALL, labels=torch.tensor([label], device=device))
        assert got["loss"].item() == pytest.approx(loss)
        assert got["el2n"].item() == pytest.approx(el2n)
        assert got["entropy"].item() == pytest.approx(math.log(2))
        assert got["confidence"].item() == pytest.approx(0.5)
        assert got["probability"].item() == 0.0


def test_a_row_of_minus_infinity_is_uniform(device: str) -> None:
    x = torch.full((2, 8), -INF, device=device)
    got = dk.scores(x, ALL, labels=torch.tensor([0, 7], device=device))
    assert got["loss"].tolist() == pytest.approx([math.log(8)] * 2)
    assert got["entropy"].tolist() == pytest.approx([math.log(8)] * 2)
    assert got["confidence"].tolist() == pytest.approx([7 / 8] * 2)
    assert got["el2n"].tolist() == pytest.approx([math.sqrt(7 / 8)] * 2)
    assert got["gap"].tolist() == got["probability"].tolist() == got["label"].tolist() == [0.0, 0.0]


def test_masked_classes_take_no_mass(device: str) -> None:
    x = random_logits(6, 9).to(device)
    masked = torch.cat([x, torch.full((6, 4), -INF, device=device)], 1)
    y = labels_for(x).to(device)
    got, want = dk.scores(masked, ALL, labels=y), dk.scores(x, ALL, labels=y)
    for kind in ALL:
        oracle.check(got[kind], oracle.array(want[kind]), ulps=8, floor=1.0)


@pytest.mark.parametrize("classes", [2, 16, 33, 100])
def test_a_nan_anywhere_makes_every_score_nan(classes: int, device: str) -> None:
    x = random_logits(classes + 1, classes)
    x[torch.arange(classes), torch.arange(classes)] = NAN
    x[0, 1] = INF
    got = dk.scores(x.to(device), ALL, labels=labels_for(x).to(device))
    for kind in ALL:
        assert got[kind][:-1].isnan().all(), kind
        assert not got[kind][-1].isnan(), kind


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str, device: str) -> None:
    for dtype in oracle.DTYPES:
        for rows, classes in [(4, 37), (33, 16), (70, 10)]:
            check_scores(LAYOUTS[layout](random_logits(rows, classes, dtype, seed=rows).to(device)))


def test_empty_batch_gives_empty_scores(device: str) -> None:
    check_scores(torch.empty(0, 3, device=device))


def test_margins_among_the_scores_are_dk_margin(device: str) -> None:
    x = random_logits(50, 37).to(device)
    y = labels_for(x).to(device)
    got = dk.scores(x, ALL, labels=y)
    for kind in ("gap", "probability", "label"):
        more = {"labels": y} if kind == "label" else {}
        assert oracle.same_bits(got[kind], dk.margin(x, kind=kind, **more)), kind


def test_kinds_without_labels_need_no_labels(device: str) -> None:
    x = random_logits(3, 5).to(device)
    asked = ("confidence", "gap", "entropy", "probability")
    got = dk.scores(x, asked)
    want = oracle.scores(oracle.array(x), asked)
    for kind in asked:
        oracle.check(got[kind], want[kind], ulps=16, floor=1.0)


def test_scores_of_different_kinds_share_no_memory(device: str) -> None:
    x = random_logits(4, 5).to(device)
    got = dk.scores(x, ["gap", "entropy"])
    before = got["entropy"].clone()
    got["gap"].fill_(-1.0)
    assert torch.equal(got["entropy"], before)
