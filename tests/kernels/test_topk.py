"""margin_topk and linear_margin_topk are the exact selection of the margins they stand for."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import LAYOUTS, counts, labels_for, logits, random_logits

ORDERS = ("index", "value")


def extras(rows: int, classes: int, kind: str, device: str = "cpu") -> dict[str, Tensor]:
    if kind == "label":
        return {"labels": labels_for(torch.empty(rows, classes)).to(device)}
    if kind == "distance":
        points = random_logits(classes, 3, seed=classes)
        return {"class_distances": torch.cdist(points, points).to(device)}
    return {}


@given(x=logits(max_rows=40, max_classes=12), data=st.data())
def test_gap_selection_against_the_oracle_alone(
    x: Tensor, data: st.DataObject, device: str
) -> None:
    k = data.draw(counts(len(x)))
    want = torch.from_numpy(oracle.margin(oracle.array(x))).to(oracle.result_dtype(x.dtype))
    for order in ORDERS:
        got = dk.margin_topk(x.to(device), k, order=order)
        assert got.values.device.type == got.indices.device.type == device
        assert got.indices.tolist() == oracle.smallest_k(oracle.array(want), k, order).tolist()
        oracle.check(got.values, oracle.array(want[got.indices.cpu()]))


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@given(x=logits(max_rows=40, max_classes=12), data=st.data())
def test_margin_topk_is_smallest_k_of_margin(
    kind: str, x: Tensor, data: st.DataObject, device: str
) -> None:
    x = x.to(device)
    k = data.draw(counts(len(x)))
    more = extras(*x.shape, kind, device)
    margins = dk.margin(x, kind=kind, **more)
    for order in ORDERS:
        got = dk.margin_topk(x, k, kind=kind, order=order, **more)
        assert got.indices.tolist() == oracle.smallest_k(oracle.array(margins), k, order).tolist()
        assert oracle.same_answer(got.values, margins[got.indices])


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_linear_margin_topk_is_smallest_k_of_linear_margin(
    kind: str, dtype: torch.dtype, device: str
) -> None:
    features = random_logits(300, 24, dtype, seed=1, scale=1).to(device)
    weight = random_logits(11, 24, dtype, seed=2, scale=1).to(device)
    bias = random_logits(1, 11, dtype, seed=3)[0].to(device)
    labels = extras(300, 11, "label", device) if kind == "label" else {}
    for width in (None, 24, 9, 0.5):
        margins = dk.linear_margin(features, weight, bias, width=width, kind=kind, **labels)
        for k in (0, 1, 100, 299, 300):
            for order in ORDERS:
                got = dk.linear_margin_topk(
                    features, weight, k, bias, width=width, kind=kind, order=order, **labels
                )
                assert got.values.dtype == oracle.result_dtype(dtype)
                oracle.check_selection(got, margins, k, order)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str, device: str) -> None:
    x = LAYOUTS[layout](random_logits(200, 10).to(device))
    got = dk.margin_topk(x, 77)
    oracle.check_selection(got, dk.margin(x.contiguous()), 77)


@pytest.mark.parametrize("rows", [1, 2, 33, 5000, 40_000])
def test_ragged_and_large_batches(rows: int, device: str) -> None:
    x = torch.randint(-3, 4, (rows, 7), generator=torch.Generator().manual_seed(rows)).float()
    x = x.to(device)
    margins = torch.from_numpy(oracle.margin(oracle.array(x))).float()
    for k in {0, 1, rows // 2, rows}:
        for order in ORDERS:
            oracle.check_selection(dk.margin_topk(x, k, order=order), margins, k, order)


def test_rows_of_nan_come_last(device: str) -> None:
    x = random_logits(6, 4)
    x[1, 2] = math.nan
    x[3] = math.inf
    got = dk.margin_topk(x.to(device), 6, order="value")
    assert got.indices[0] == 3
    assert got.indices[-1] == 1
    assert got.values[-1].isnan()


def test_tied_margins_go_to_the_lowest_row(device: str) -> None:
    x = torch.tensor([[3.0, 1], [5, 4], [0, 1], [1, 0], [2, 2]], device=device)
    assert dk.margin_topk(x, 3).indices.tolist() == [1, 2, 4]
    assert dk.margin_topk(x, 4, order="value").indices.tolist() == [4, 1, 2, 3]


def test_empty_batch(device: str) -> None:
    for got in (
        dk.margin_topk(torch.empty(0, 3, device=device), 0),
        dk.linear_margin_topk(torch.empty(0, 2, device=device), torch.ones(3, 2, device=device), 0),
    ):
        assert got.values.shape == got.indices.shape == (0,)
        assert got.values.dtype == torch.float32
        assert got.indices.dtype == torch.int64


def test_half_precision_margins_are_selected_in_float32(device: str) -> None:
    # In bfloat16 these gaps would tie and the lowest row would win.
    x = torch.tensor([[1.0, -0.00390625], [1.0, -0.001953125]], dtype=torch.bfloat16, device=device)
    got = dk.margin_topk(x, 1)
    assert got.values.dtype == torch.float32
    assert got.indices.tolist() == [1]


def test_k_may_be_a_fraction_of_the_batch(device: str) -> None:
    x = random_logits(11, 5).to(device)
    f, w = random_logits(11, 4, seed=1).to(device), random_logits(5, 4, seed=2).to(device)
    for fraction, k in ((0.5, 6), (0.01, 1), (1.0, 11)):
        for order in ("index", "value"):
            got, want = (dk.margin_topk(x, one, order=order) for one in (fraction, k))
            assert torch.equal(got.indices, want.indices)
            got, want = (dk.linear_margin_topk(f, w, one, order=order) for one in (fraction, k))
            assert torch.equal(got.indices, want.indices)
