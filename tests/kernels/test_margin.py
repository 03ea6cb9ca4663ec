"""dk.margin against the float64 oracle: values, ties, infinities, NaN, layouts, ragged sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import (
    LAYOUTS,
    RAGGED_B,
    RAGGED_C,
    labels_for,
    logits,
    random_logits,
    with_specials,
)

INF, NAN = math.inf, math.nan
# gap and label are one rounded subtraction. probability passes through exp and a sum.
ULPS = {"gap": 0, "label": 0, "distance": 4, "probability": 16}
FLOOR = {"gap": 0.0, "label": 0.0, "distance": 0.0, "probability": 1.0}


def extras(x: Tensor, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """The arguments a kind needs beside the logits."""
    if kind == "label":
        return {"labels": labels_for(x, seed).to(x.device)}
    if kind == "distance":
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(x.shape[1], 3, generator=generator, dtype=torch.float64)
        if seed % 3 == 0:
            rows[-1] = rows[0]
        return {"class_distances": torch.cdist(rows, rows).float().to(x.device)}
    return {}


def check_margin(x: Tensor, kind: str, seed: int = 0) -> None:
    more = extras(x, kind, seed)
    got = dk.margin(x, kind=kind, **more)
    wide = {
        name: (t.cpu().numpy() if name == "labels" else oracle.array(t)) for name, t in more.items()
    }
    assert got.dtype == oracle.result_dtype(x.dtype)
    assert got.device == x.device
    want = oracle.margin(
        oracle.array(x), kind, **wide, largest=torch.finfo(oracle.result_dtype(x.dtype)).max
    )
    oracle.check(got, want, ulps=ULPS[kind], floor=FLOOR[kind])


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@given(x=logits(), seed=st.integers(0, 99))
def test_margin_is_the_formula(kind: str, x: Tensor, seed: int, device: str) -> None:
    check_margin(x.to(device), kind, seed)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_every_dtype_and_ragged_class_count(kind: str, dtype: torch.dtype, device: str) -> None:
    for classes in RAGGED_C:
        if kind == "distance" and classes > 1023:
            continue
        check_margin(random_logits(3, classes, dtype, seed=classes).to(device), kind, classes)


@pytest.mark.parametrize("rows", [*RAGGED_B, 257, 1031])
@pytest.mark.parametrize("classes", [2, 10, 100, 131])
def test_ragged_batches(rows: int, classes: int, device: str) -> None:
    check_margin(random_logits(rows, classes, seed=rows).to(device), "gap")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_any_strides(layout: str, dtype: torch.dtype, device: str) -> None:
    for rows, classes in [(5, 2), (4, 37), (33, 16), (1, 130), (70, 10)]:
        x = LAYOUTS[layout](random_logits(rows, classes, dtype, seed=rows).to(device))
        for kind in oracle.MARGIN_KINDS:
            check_margin(x, kind, rows)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_expanded_and_overlapping_rows(kind: str, device: str) -> None:
    row = random_logits(1, 19).to(device)
    check_margin(row.expand(7, 19), kind)
    check_margin(row.t().expand(19, 6), kind)
    check_margin(random_logits(1, 1).to(device).expand(4, 9), kind)
    check_margin(random_logits(1, 64).to(device)[0].unfold(0, 33, 1), kind)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_empty_batch_gives_empty_margins(kind: str, dtype: torch.dtype, device: str) -> None:
    check_margin(torch.empty(0, 5, dtype=dtype, device=device), kind)


@pytest.mark.parametrize("classes", [2, 3, 16, 17, 65, 1000])
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_a_nan_anywhere_makes_only_its_row_nan(kind: str, classes: int, device: str) -> None:
    # Each row holds its NaN in another column, of alternating sign, beside larger values.
    x = random_logits(classes + 1, classes, seed=classes)
    x[torch.arange(classes), torch.arange(classes)] = NAN
    x[1::2] = torch.copysign(x[1::2], torch.tensor(-1.0)).where(x[1::2].isnan(), x[1::2])
    more = extras(x, kind)
    got = dk.margin(x.to(device), kind=kind, **{k: v.to(device) for k, v in more.items()})
    assert got[:-1].isnan().all()
    assert not got[-1].isnan()


def test_nan_beats_infinity(device: str) -> None:
    x = torch.tensor([[INF, NAN], [NAN, INF], [-INF, NAN], [NAN, NAN], [-NAN, INF]], device=device)
    for kind in oracle.MARGIN_KINDS:
        more = {name: t.to(device) for name, t in extras(x.cpu(), kind).items()}
        assert dk.margin(x, kind=kind, **more).isnan().all(), kind


def test_equal_largest_logits_have_margin_zero(device: str) -> None:
    x = torch.tensor(
        [[2.0, 2, 1], [INF, 0, INF], [-INF, -INF, -INF], [0.0, -0.0, -1]], device=device
    )
    for kind in ("gap", "probability"):
        assert dk.margin(x, kind=kind).tolist() == [0.0] * 4
    apart = 1 - torch.eye(3, device=device)
    assert dk.margin(x, kind="distance", class_distances=apart).tolist() == [0.0] * 4


def test_one_infinite_logit_has_an_infinite_margin(device: str) -> None:
    x = torch.tensor([[0.0, INF, 1], [-INF, INF, -INF], [3.0, -INF, -INF]], device=device)
    assert dk.margin(x).tolist() == [INF] * 3
    assert dk.margin(x, kind="probability").tolist() == [1.0] * 3
    apart = 1 - torch.eye(3, device=device)
    assert dk.margin(x, kind="distance", class_distances=apart).tolist() == [INF] * 3


def test_label_margin_at_infinities(device: str) -> None:
    x = torch.tensor(
        [
            [INF, INF, 0],
            [INF, 0, 1],
            [INF, 0, 1],
            [-INF, -INF, -INF],
            [-INF, 0, 1],
            [1, -INF, -INF],
        ],
        device=device,
    )
    y = torch.tensor([0, 0, 2, 1, 0, 0], device=device)
    assert dk.margin(x, kind="label", labels=y).tolist() == [0, INF, -INF, 0, -INF, INF]


def test_zero_class_distance_is_infinitely_far_unless_the_logits_tie(device: str) -> None:
    x = torch.tensor([[3.0, 1, 1], [3.0, 3, 1], [1.0, 3, 2], [INF, INF, 0]], device=device)
    twins = torch.zeros(3, 3, device=device)
    assert dk.margin(x, kind="distance", class_distances=twins).tolist() == [INF, 0, INF, 0]
    some = torch.tensor([[0.0, 0, 4], [0, 0, 4], [4, 4, 0]], device=device)
    assert dk.margin(x, kind="distance", class_distances=some).tolist() == [0.5, 0, 0.25, 0]


def test_distance_may_be_smallest_far_from_the_second_class(device: str) -> None:
    x = torch.tensor([[5.0, 4.0, 2.0, -3.0]], device=device)
    apart = torch.tensor(
        [[0, 1, 6, 80], [1, 0, 1, 1], [6, 1, 0, 1], [80, 1, 1, 0.0]], device=device
    )
    assert dk.margin(x, kind="distance", class_distances=apart).item() == pytest.approx(0.1)


def test_distance_uses_the_row_of_the_predicted_class(device: str) -> None:
    # An asymmetric matrix tells the row of the prediction from its column.
    x = torch.tensor([[0.0, 8.0, 4.0]], device=device)
    apart = torch.tensor([[0, 5, 5], [2, 0, 4], [5, 5, 0.0]], device=device)
    assert dk.margin(x, kind="distance", class_distances=apart).item() == 1.0


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_half_precision_is_widened_before_it_is_subtracted(dtype: torch.dtype, device: str) -> None:
    info = torch.finfo(dtype)
    x = torch.tensor([[1.0, -info.eps / 2], [info.max, -info.max / 2]], dtype=dtype, device=device)
    got = dk.margin(x)
    wide = x.to(oracle.result_dtype(dtype))
    assert torch.equal(got, wide[:, 0] - wide[:, 1])


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_subnormal_gaps_are_not_flushed_to_zero(dtype: torch.dtype, device: str) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    x = (torch.tensor([[0.5, 0.25, 0.0], [1.5, 1.0, -1.0]], dtype=torch.float64) * tiny).to(dtype)
    got = dk.margin(x.to(device)).cpu().double()
    assert got.tolist() == [tiny * 0.25, tiny * 0.5]


@pytest.mark.parametrize("place", [0, 1, 7, 8, 15, 16, 31, 32, 63, 64, 98, 99])
def test_the_two_largest_are_found_wherever_they_stand(place: int, device: str) -> None:
    # One row for each place of the second largest.
    x = random_logits(100, 100, seed=3, scale=0.1)
    x[:, place] = 9.0
    x[torch.arange(100), torch.arange(100)] += 4.0
    for dtype in oracle.DTYPES:
        check_margin(x.to(dtype).to(device), "gap")


@pytest.mark.parametrize("classes", [2, 5, 16, 33, 100, 257])
def test_margins_do_not_depend_on_the_order_of_the_classes(classes: int, device: str) -> None:
    x = with_specials(random_logits(64, classes, seed=classes), seed=1, share=0.02).to(device)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(1)).to(device)
    assert oracle.same_answer(dk.margin(x), dk.margin(x[:, order]))


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_a_row_has_the_same_bits_in_any_batch(kind: str, device: str) -> None:
    x = random_logits(67, 101).to(device)
    more = extras(x, kind)
    whole = dk.margin(x, kind=kind, **more)
    for rows in (slice(0, 1), slice(5, 9), slice(30, 67)):
        part = {n: (t[rows] if n == "labels" else t) for n, t in more.items()}
        assert oracle.same_bits(dk.margin(x[rows], kind=kind, **part), whole[rows])


def test_probability_is_as_accurate_as_torch_softmax(device: str) -> None:
    for dtype in (torch.float32, torch.float64):
        for classes in (10, 1000, 50257):
            x = random_logits(16, classes, dtype, seed=classes).to(device)
            expected = oracle.margin(oracle.array(x), "probability")
            two = torch.softmax(x, 1).topk(2).values
            allowed = 2 * oracle.worst(two[:, 0] - two[:, 1], expected) + torch.finfo(dtype).eps
            assert oracle.worst(dk.margin(x, kind="probability"), expected) <= allowed


def test_class_distances_work_with_every_logit_dtype(device: str) -> None:
    # class_distances() is float32: it must serve logits of each dtype.
    apart = dk.class_distances(random_logits(6, 4, seed=1).to(device))
    for dtype in oracle.DTYPES:
        x = random_logits(9, 6, dtype).to(device)
        want = oracle.margin(oracle.array(x), "distance", None, oracle.array(apart))
        oracle.check(dk.margin(x, kind="distance", class_distances=apart), want, ulps=4)


def test_strided_labels_and_distances(device: str) -> None:
    x = random_logits(8, 5).to(device)
    y = torch.stack([labels_for(x), torch.full((8,), 99)], 1).to(device)[:, 0]
    oracle.check(
        dk.margin(x, kind="label", labels=y),
        oracle.margin(oracle.array(x), "label", y.cpu().numpy()),
    )
    base = random_logits(5, 5, seed=2).abs().to(device)
    for apart in (base.t(), base.repeat_interleave(2, 1)[:, ::2], base[:1].expand(5, 5)):
        want = oracle.margin(oracle.array(x), "distance", None, oracle.array(apart))
        oracle.check(dk.margin(x, kind="distance", class_distances=apart), want, ulps=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_further_apart_than_two_to_the_31_elements(
    dtype: torch.dtype, far_storage: Callable[[torch.dtype], Tensor]
) -> None:
    storage = far_storage(dtype)
    x = storage.as_strided((3, 40), (2**30 + 7, 1), 3)
    x.copy_(random_logits(3, 40, dtype))
    check_margin(x, "gap")
    check_margin(x, "probability")
    x = storage.as_strided((3, 4), (1, 2**29 + 1), 1)
    x.copy_(random_logits(3, 4, dtype))
    check_margin(x, "gap")


@pytest.mark.big
@pytest.mark.parametrize("kind", ["gap", "probability", "label"])
def test_logits_over_two_to_the_31_elements(kind: str, device: str) -> None:
    rows, classes = 2**31 // 1000 + 999, 1000
    x = torch.zeros(rows, classes, dtype=torch.bfloat16, device=device)
    x[:, 7] = 1.0
    tail = random_logits(600, classes, torch.bfloat16, seed=5)
    x[-600:] = tail
    y = torch.full((rows,), 7, device=device)
    more = {"labels": y} if kind == "label" else {}
    got = dk.margin(x, kind=kind, **more)
    want = oracle.margin(oracle.array(tail), kind, np.full(600, 7) if kind == "label" else None)
    oracle.check(got[-600:], want, ulps=ULPS[kind], floor=FLOOR[kind])
    first = oracle.margin(oracle.array(x[:1]), kind, np.array([7]) if kind == "label" else None)
    oracle.check(got[:-600], np.full(rows - 600, first[0]), ulps=ULPS[kind], floor=FLOOR[kind])
