"""Triton's row scores, interpreted on the CPU, against the float64 oracle: every kind, dtype, tile and limit."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import oracle
from dynams_kernels._kinds import BIT, KINDS, LABELLED_KINDS, kinds_of, mask_of
from kernel_inputs import LAYOUTS, labels_for, logits, random_logits, with_specials

if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
    pytest.skip("interprets Triton's kernels: TRITON_INTERPRET=1", allow_module_level=True)

from dynams_kernels._triton import row_scores as rows_module
from dynams_kernels._triton.row_scores import Configuration, configuration, row_scores

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities and NaN

INF, NAN = math.inf, math.nan
EXACT = ("gap", "label")
EVERYTHING = mask_of(KINDS)


def distances_for(x: Tensor, seed: int = 0) -> Tensor:
    """Symmetric float32 distances of the classes, a few of them 0 off the diagonal."""
    generator = torch.Generator().manual_seed(seed + 5)
    w = torch.randint(-2, 3, (x.shape[1], 3), generator=generator).float()
    return torch.cdist(w, w)


def expected(x: Tensor, mask: int, y: Tensor, apart: Tensor | None) -> dict[str, Any]:
    z = oracle.array(x)
    kinds = [kind for kind in kinds_of(mask) if kind != "distance"]
    want: dict[str, Any] = oracle.scores(z, kinds, y.numpy())
    if apart is not None:
        largest = torch.finfo(oracle.result_dtype(x.dtype)).max
        want["distance"] = oracle.margin(z, "distance", None, oracle.array(apart), largest)
    return want


def check(
    x: Tensor, mask: int = EVERYTHING, seed: int = 0, config: Configuration | None = None
) -> Tensor:
    """Every score of the mask is its formula; returns them."""
    y = labels_for(x, seed)
    apart = distances_for(x, seed) if mask & BIT["distance"] else None
    used = y if mask & mask_of(LABELLED_KINDS) else None
    if config is None:
        got = row_scores(x, used, apart, mask)
    else:
        got = rows_module._launch(x, used, apart, mask, config)
    assert got.dtype == oracle.result_dtype(x.dtype)
    assert got.shape == (len(kinds_of(mask)), len(x))
    want = expected(x, mask, y, apart)
    for kind, score in zip(kinds_of(mask), got, strict=True):
        # Sums over many classes cost a few more roundings; a quotient is rounded once more than the oracle's.
        slack, floor = (0, 0.0) if kind in EXACT else (2, 0.0) if kind == "distance" else (32, 1.0)
        try:
            oracle.check(score, want[kind], ulps=slack, floor=floor)
        except AssertionError as error:
            raise AssertionError(
                f"{kind}, {x.dtype}, {tuple(x.shape)}, {config}: {error}"
            ) from None
    return got


@given(x=logits(max_rows=5, max_classes=40), seed=st.integers(0, 99))
def test_every_score_is_its_formula(x: Tensor, seed: int) -> None:
    check(x, seed=seed)


@settings(max_examples=40)
@given(
    x=logits(max_rows=3, max_classes=70),
    parts=st.sampled_from([1, 1, 2, 3]),
    group=st.sampled_from([1, 2, 4]),
)
def test_scores_do_not_depend_on_how_rows_are_cut(x: Tensor, parts: int, group: int) -> None:
    # Rows longer than a group go through the loop; parts of a row are merged by a second kernel.
    lanes = 8
    groups = -(-x.shape[1] // (lanes * group))
    parts = -(-groups // -(-groups // min(parts, groups)))
    mask = EVERYTHING if parts == 1 else EVERYTHING & ~BIT["distance"]
    check(x, mask, config=Configuration(2, lanes, group, groups > 1, 4, parts))


@given(x=logits(max_rows=2, max_classes=20), mask=st.integers(1, EVERYTHING))
def test_a_score_is_the_same_in_any_company(x: Tensor, mask: int) -> None:
    together = dict(zip(kinds_of(mask), check(x, mask), strict=True))
    for kind, score in together.items():
        assert oracle.same_answer(check(x, BIT[kind])[0], score), kind


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 3, 16, 33, 100, 127, 1000, 1023, 5000])
def test_every_dtype_and_ragged_class_count(dtype: torch.dtype, classes: int) -> None:
    # The distances of thousands of classes take the oracle longer than the kernel: one dtype is enough of them.
    light = classes > 2000 and dtype != torch.float16
    mask = EVERYTHING & ~BIT["distance"] if light else EVERYTHING
    check(random_logits(5, classes, dtype, seed=classes), mask)
    check(with_specials(random_logits(9, classes, dtype), share=1 / classes), mask)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_few_long_rows_are_split_in_parts(dtype: torch.dtype) -> None:
    classes, mask = 40_003, EVERYTHING & ~BIT["distance"]
    x = random_logits(2, classes, dtype, seed=3)
    config = configuration(x.element_size(), 2, classes, mask)
    assert config.parts > 1
    check(x, mask)
    x[0, 5], x[0, 39_000] = INF, INF
    x[1, 33_333] = NAN
    got = check(x, mask)
    assert got[:, 1].isnan().all()
    check(torch.full((1, classes), -INF, dtype=dtype), mask)


def test_parts_cover_a_row_once_whatever_its_length() -> None:
    for size, vector in ((2, 8), (4, 4), (8, 2)):
        for classes in (32_769, 50_257, 100_003, 128_256, 1_000_000):
            for rows in (1, 2, 3, 17, 255, 256, 100_000):
                config = configuration(size, rows, classes, BIT["gap"])
                span = config.lanes * config.group
                groups = -(-classes // span)
                per_part = -(-groups // config.parts)
                # The last part starts inside the row, and ends with it: none is empty.
                assert (config.parts - 1) * per_part < groups <= config.parts * per_part
                assert config.lanes >= 32 * vector
                assert config.loop
                assert config.parts == 1 or rows < 256


def test_a_configuration_fits_every_length_of_row() -> None:
    for size in (2, 4, 8):
        for classes in [*range(2, 300), *(2**n + d for n in range(9, 20) for d in (-1, 0, 1))]:
            for kinds in (BIT["gap"], EVERYTHING):
                config = configuration(size, 1 << 20, classes, kinds)
                one_go = config.lanes * config.group
                assert config.loop == (classes > one_go)
                for number in (config.rows, config.lanes, config.group, config.warps):
                    assert number & (number - 1) == 0 < number
                assert config.rows * config.lanes >= 32 * config.warps


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str) -> None:
    for dtype in oracle.DTYPES:
        for rows, classes in [(4, 37), (9, 16)]:
            check(LAYOUTS[layout](random_logits(rows, classes, dtype, seed=rows)))


def test_expanded_rows_and_strided_labels_and_distances() -> None:
    x = random_logits(1, 24).expand(5, 24)
    check(x)
    labels, apart = labels_for(x), distances_for(x)
    want = row_scores(x, labels, apart, EVERYTHING)
    wide_labels = torch.stack([torch.full_like(labels, 99), labels], 1)[:, 1]
    for apart_view in (apart.T.contiguous().T, torch.cat([apart, apart * NAN], 1)[:, :24]):
        got = row_scores(x, wide_labels, apart_view, EVERYTHING)
        assert oracle.same_bits(got, want)


def test_accesses_are_as_wide_as_every_size_allows() -> None:
    vector = rows_module._vector
    assert vector(2, 1000, 1000) == 8
    assert vector(2, 1000, 1004) == 4
    assert vector(4, 1000, 1000) == 4
    assert vector(4, 10, 10) == 2
    assert vector(4, 50_257, 50_257) == 1
    assert vector(8, 1000, 0) == 2


@pytest.mark.parametrize("classes", [2, 16, 33, 1100])
def test_a_nan_anywhere_makes_every_score_of_its_row_nan(classes: int) -> None:
    places = sorted({0, 1, classes // 2, classes - 1})
    x = random_logits(len(places) + 1, classes)
    x[torch.arange(len(places)), torch.tensor(places)] = NAN
    x[0, 1] = INF if classes > 2 else x[0, 1]
    got = check(x)
    assert got[:, :-1].isnan().all()
    assert not got[:, -1].isnan().any()


def test_labels_out_of_range_make_only_their_rows_scores_nan() -> None:
    x = random_logits(6, 33)
    labels = torch.tensor([3, 33, -1, 0, 2**40, -100])
    wrong = torch.tensor([False, True, True, False, True, True])
    for config in (None, Configuration(1, 8, 2, True, 4, 3)):
        mask = EVERYTHING & ~BIT["distance"]
        config = config or configuration(4, 6, 33, mask)
        got = rows_module._launch(x, labels, None, mask, config)
        for kind, score in zip(kinds_of(mask), got, strict=True):
            assert torch.equal(score.isnan(), wrong & (kind in LABELLED_KINDS)), kind


def test_a_nearly_certain_row_keeps_its_digits() -> None:
    kinds = ("loss", "el2n", "entropy", "confidence", "probability")
    for dtype in (torch.float32, torch.float64):
        eps = torch.finfo(dtype).eps
        for classes in (10, 1500):
            for rise in (5.0, 12.0, 16.0, 20.0):
                x = torch.zeros(1, classes, dtype=dtype)
                x[0, 3] = rise
                got = row_scores(x, torch.tensor([3]), None, mask_of(kinds))
                # By hand: the oracle's softmax rounds p near 1.
                others = (classes - 1) * math.exp(-rise)
                rest = others / (1 + others)
                want = {
                    "loss": math.log1p(others),
                    "el2n": rest * math.sqrt(1 + 1 / (classes - 1)),
                    "entropy": math.log1p(others) + rise * rest,
                    "confidence": rest,
                    "probability": -math.expm1(-rise) / (1 + others),
                }
                for kind, score in zip(kinds_of(mask_of(kinds)), got, strict=True):
                    assert abs(score.item() / want[kind] - 1) < 64 * eps, (kind, rise)


def test_close_logits_keep_the_digits_of_their_probability_margin() -> None:
    for dtype in (torch.float32, torch.float64):
        for gap in (1e-3, 1e-5, 3e-7):
            x = torch.tensor([[0.0, gap]], dtype=dtype)
            got = row_scores(x, None, None, BIT["probability"]).item()
            exact = math.tanh(x[0, 1].item() / 2)
            assert abs(got / exact - 1) < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_scores_are_as_accurate_as_torch(scale: float) -> None:
    x = random_logits(8, 5000, seed=1, scale=scale)
    y = x.argmax(1).where(torch.arange(8) % 2 == 0, labels_for(x))
    kinds = ("probability", "loss", "entropy", "confidence")
    got = row_scores(x, y, None, mask_of(kinds))
    want = oracle.scores(oracle.array(x), kinds, y.numpy())
    log_p = torch.log_softmax(x, 1)
    two = torch.softmax(x, 1).topk(2).values
    torch_says = {
        "probability": two[:, 0] - two[:, 1],
        "loss": torch.nn.functional.cross_entropy(x, y, reduction="none"),
        "entropy": -(log_p.exp() * log_p).sum(1),
        "confidence": 1 - two[:, 0],
    }
    eps = torch.finfo(torch.float32).eps
    for kind, score in zip(kinds_of(mask_of(kinds)), got, strict=True):
        size = max(1.0, float(abs(want[kind]).max()))
        allowed = 2 * oracle.worst(torch_says[kind], want[kind]) + 2 * eps * size
        assert oracle.worst(score, want[kind]) <= allowed, kind


def test_distance_takes_the_first_of_equal_classes_and_keeps_nan() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 1.0, 0.0, -1.0], [0.0, 5.0, 1.0, 2.0]])
    apart = torch.tensor(
        [[0.0, 1.0, 4.0, NAN], [2.0, 0.0, 0.0, 1.0], [9.0, 9.0, 0.0, 9.0], [1.0, 1.0, 1.0, 0.0]]
    )
    got = row_scores(x, None, apart, BIT["distance"])[0]
    # Row 0: equal largest. Row 1: a NaN distance. Row 2: a distance of 0 is infinitely far.
    assert got[0] == 0.0
    assert got[1].isnan()
    assert got[2] == 2.5


def test_empty_batch_gives_empty_scores() -> None:
    check(torch.empty(0, 3))
