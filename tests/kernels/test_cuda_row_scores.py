"""The GPU's row scores against the oracle, without a GPU: the kernels' own source run on the host, on every path."""

from __future__ import annotations

import math
from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import cuda_on_host
import oracle
from cuda_on_host import (
    FOREVER,
    HostKernels,
    Plan,
    check_scores,
    distances_for,
    split,
    tiles,
    whole,
)
from dynams_kernels._kinds import LABELLED_KINDS, SCORE_KINDS, kinds_of, mask_of
from kernel_inputs import RAGGED_C, labels_for, logits, random_logits, with_specials

pytestmark = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="needs a C++ compiler on Linux"
)

INF, NAN = math.inf, math.nan
ALL = mask_of(SCORE_KINDS)
DISTANCE = mask_of(("distance",))
MARGINS = mask_of(("gap", "distance", "label"))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return cuda_on_host.build(tmp_path_factory.mktemp("cuda_on_host"))


def check(
    kernels: HostKernels,
    x: Tensor,
    kinds: int = ALL,
    *,
    plan: Plan | None = None,
    seed: int = 0,
) -> Tensor:
    y = labels_for(x, seed)
    apart = distances_for(x.shape[1], seed) if kinds & DISTANCE else None
    got = kernels.row_scores(x, y, apart, kinds, plan=plan)
    check_scores(got, x, y, apart, kinds)
    return got


def unaligned(x: Tensor, offset: int, stride: int | None = None) -> Tensor:
    """x in storage full of NaN, its first element `offset` past a multiple of 16 bytes."""
    rows, classes = x.shape
    step = classes if stride is None else stride
    elements = 16 // x.element_size()
    flat = torch.full((rows * step + classes + 3 * elements,), NAN, dtype=x.dtype)
    phase = flat.data_ptr() % 16 // x.element_size()
    view = flat.as_strided((rows, classes), (step, 1), (offset - phase) % elements + elements)
    return view.copy_(x)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_every_dtype_and_ragged_class_count(kernels: HostKernels, dtype: torch.dtype) -> None:
    for classes in RAGGED_C:
        kinds = ALL if classes <= 1023 else ALL & ~DISTANCE
        check(kernels, random_logits(3, classes, dtype, seed=classes), kinds, seed=classes)


@given(x=logits(max_rows=5), lanes=st.sampled_from([8, 16, 32, 256]), seed=st.integers(0, 99))
def test_special_values_in_groups_of_lanes(
    kernels: HostKernels, x: Tensor, lanes: int, seed: int
) -> None:
    if len(x):
        check(kernels, x, plan=whole(lanes, x.shape[1]), seed=seed)


@given(x=logits(max_rows=9, max_classes=64), seed=st.integers(0, 99))
def test_special_values_in_tiles(kernels: HostKernels, x: Tensor, seed: int) -> None:
    if len(x) and x.shape[1] * x.element_size() <= 128:
        check(kernels, x, plan=tiles(128), seed=seed)


@given(x=logits(max_rows=2, max_classes=300), part=st.sampled_from([7, 64]), seed=st.integers(0, 9))
def test_special_values_in_split_rows(
    kernels: HostKernels, x: Tensor, part: int, seed: int
) -> None:
    if len(x):
        check(kernels, x, plan=split(part, x.shape[1]), seed=seed)


def peaks(classes: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Rows with their largest at each place in turn and the second a row later, over small noise."""
    x = random_logits(classes, classes, dtype, seed=classes, scale=0.1)
    places = torch.arange(classes)
    x[places, places] = 9.0
    x[places, (places * 7 + 1) % classes] += 4.0
    yield x
    # A NaN at each place in turn, of either sign.
    x[places, places] = NAN
    x[::2] = x[::2].neg()
    yield x
    yield torch.ones(
        1, classes, dtype=dtype
    )  # all equal: an element read twice or not at all shows in the entropy


@pytest.mark.parametrize("lanes", [8, 32])
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_every_element_is_read_once_at_every_alignment(
    kernels: HostKernels, dtype: torch.dtype, lanes: int
) -> None:
    elements = 16 // dtype.itemsize
    for classes in (2, elements - 1, elements, elements + 1, 2 * elements + 3, 5 * elements + 1):
        if classes < 2:
            continue
        for offset in range(elements):
            for x in peaks(classes, dtype):
                view = unaligned(x, offset, classes + 1)
                check(kernels, view, plan=whole(lanes, classes), seed=offset)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("lanes", [8, 32, 256])
def test_chunks_and_their_tails(kernels: HostKernels, dtype: torch.dtype, lanes: int) -> None:
    chunk = 4 * lanes * 16 // dtype.itemsize
    for classes in (chunk - 1, chunk, chunk + 1, 2 * chunk + 5):
        for offset in (0, 1):
            x = random_logits(3, classes, dtype, seed=classes)
            x[0, -1], x[0, 0] = 40.0, 39.0
            x[1, chunk - 2], x[1, -1] = 40.0, 40.0
            kinds = ALL if classes < 600 else ALL & ~DISTANCE
            check(kernels, unaligned(x, offset), kinds, plan=whole(lanes, classes))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_tiles_at_every_alignment_and_width(kernels: HostKernels, dtype: torch.dtype) -> None:
    elements = 16 // dtype.itemsize
    for classes in range(2, 128 // dtype.itemsize, 3):
        for offset in {0, 1, elements - 1}:
            for x in peaks(classes, dtype):
                check(kernels, unaligned(x, offset), plan=tiles(128), seed=offset)
    for classes in (elements, 3 * elements, 7 * elements, 11 * elements + 1, 32 * elements - 1):
        for offset in (0, 1):  # whole vectors, and the same row lengths where they are not
            x = random_logits(300, classes, dtype, seed=classes)
            check(kernels, unaligned(x, offset), plan=tiles(min(128, 1024 * elements // classes)))


@pytest.mark.parametrize("classes", [2, 10, 100, 131])
def test_ragged_batches(kernels: HostKernels, classes: int) -> None:
    for rows in (1, 2, 31, 127, 129, 400):
        check(kernels, random_logits(rows, classes, seed=rows), MARGINS)


def test_a_few_blocks_take_all_rows_in_turn(kernels: HostKernels) -> None:
    for lanes, classes in ((8, 40), (32, 130), (256, 600)):
        x = random_logits(70, classes, torch.bfloat16, seed=lanes)
        check(kernels, x, plan=whole(lanes, classes, blocks=2))
    check(kernels, random_logits(19, 200), plan=split(64, 200, blocks=2))


@pytest.mark.parametrize("lanes", [8, 16, 32, 256])
def test_rows_scored_together(kernels: HostKernels, lanes: int) -> None:
    most = 16 // max(1, 32 // lanes)
    for turns in {1, 2, most}:
        for rows, blocks in ((150, 2), (turns, FOREVER)):  # the last turns of a block find no row
            x = with_specials(
                random_logits(rows, 70, torch.float16, seed=turns), seed=turns, share=0.01
            )
            check(kernels, x, plan=whole(lanes, 70, blocks, turns), seed=lanes)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_sums_far_from_zero(kernels: HostKernels, dtype: torch.dtype) -> None:
    """The rounding of a large logit's product is no part of the sums, whichever way they are taken."""
    largest = torch.finfo(dtype).max
    for size in (0.0, 3.0, 300.0, 8191.0, 8193.0, 1e5, 1e7, 2.0**29, 1e30, largest):
        for centre in {c for c in (size, -size) if abs(c) <= largest}:
            x = (centre + random_logits(6, 90, torch.float64, scale=4.0)).clamp(-largest, largest)
            x[1, 2:] = -INF
            x[2, 3:] = -largest
            x[3, 0] = INF
            for plan in (whole(8, 90), tiles(40), split(64, 90)):
                check(kernels, x.to(dtype), ALL & ~DISTANCE, plan=plan)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_split_rows_of_every_alignment(kernels: HostKernels, dtype: torch.dtype) -> None:
    for offset in range(16 // dtype.itemsize):
        x = random_logits(3, 333, dtype, seed=offset)
        x[0, 320] = x[0, 5] = 50.0  # a tie between parts
        x[1, -1] = NAN
        check(kernels, unaligned(x, offset), plan=split(64, 333), seed=offset)


def test_many_parts_and_more_parts_than_lanes(kernels: HostKernels) -> None:
    x = random_logits(1, 520, seed=1)
    check(kernels, x, plan=split(2, 520))
    check(kernels, with_specials(random_logits(3, 520), seed=3, share=0.01), plan=split(13, 520))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_order_in_which_threads_run_changes_nothing(
    kernels: HostKernels, dtype: torch.dtype
) -> None:
    cases = [
        (random_logits(300, 12, dtype), tiles(128)),
        (unaligned(random_logits(300, 11, dtype), 1), tiles(128)),
        (random_logits(300, 100, dtype), tiles(40)),
        (random_logits(9, 70, dtype), whole(8, 70)),
        (random_logits(7, 1500, dtype), whole(256, 1500, blocks=1)),
        (random_logits(3, 500, dtype), split(64, 500, blocks=1)),
    ]
    for x, plan in cases:
        y, apart = labels_for(x), distances_for(x.shape[1])
        for kinds in (ALL, mask_of(("gap",))):
            first = kernels.row_scores(x, y, apart, kinds, plan=plan)
            for seed in (1, 2, 3):
                again = kernels.row_scores(x, y, apart, kinds, plan=plan, order_seed=seed)
                assert oracle.same_bits(first, again)


@given(x=logits(max_rows=3, max_classes=40), seed=st.integers(0, 9), company=st.integers(1, ALL))
def test_scores_do_not_depend_on_company(
    kernels: HostKernels, x: Tensor, seed: int, company: int
) -> None:
    if not len(x):
        return
    y, apart = labels_for(x, seed), distances_for(x.shape[1], seed)
    for plan in (tiles(128), whole(8, x.shape[1]), split(16, x.shape[1])):
        if plan.tile_rows and x.shape[1] * x.element_size() > 128:
            continue
        together = kernels.row_scores(x, y, apart, ALL, plan=plan)
        some = kernels.row_scores(x, y, apart, company, plan=plan)
        for row, kind in zip(some, kinds_of(company), strict=True):
            assert oracle.same_answer(row, together[SCORE_KINDS.index(kind)]), kind


def test_labels_out_of_range_make_only_their_scores_nan(kernels: HostKernels) -> None:
    in_turn = [whole(lanes, 9, FOREVER, turns) for lanes, turns in ((8, 2), (32, 8), (256, 8))]
    for plan in (tiles(128), whole(8, 9), *in_turn, split(4, 9)):
        x = random_logits(8, 9)
        y = torch.tensor([0, 9, -1, 8, 2**40, -(2**40), 3, 1])
        wrong = (y < 0) | (y >= 9)
        got = kernels.row_scores(x, y, distances_for(9), ALL, plan=plan)
        for row, kind in zip(got, SCORE_KINDS, strict=True):
            assert torch.equal(row.isnan(), wrong & (kind in LABELLED_KINDS)), kind


def test_expanded_overlapping_and_distant_rows(kernels: HostKernels) -> None:
    row = random_logits(1, 64)
    for x in (row.expand(7, 64), row[0].unfold(0, 33, 1), row[0].unfold(0, 5, 3)):
        check(kernels, x)
    check(kernels, unaligned(random_logits(40, 10), 3, 27))


def test_kinds_without_labels_or_distances_need_none(kernels: HostKernels) -> None:
    for plan in (tiles(128), whole(8, 20), split(8, 20)):
        for kinds in (("gap",), ("gap", "probability", "confidence"), ("entropy",)):
            got = kernels.row_scores(random_logits(5, 20), None, None, mask_of(kinds), plan=plan)
            assert got.isfinite().all()


@pytest.mark.parametrize("rise", [5.0, 20.0, 40.0, 80.0])
def test_near_certainty_keeps_relative_precision(kernels: HostKernels, rise: float) -> None:
    others = 9 * math.exp(-rise)
    p = others / (1 + others)
    want = {"loss": math.log1p(others), "el2n": p * math.sqrt(1 + 1 / 9), "confidence": p}
    if rise > 40:
        del want["el2n"]  # its squares are below the smallest float
    for dtype, eps in ((torch.float32, 2.0**-23), (torch.float64, 2.0**-52)):
        x = torch.zeros(1, 10, dtype=dtype)
        x[0, 3] = rise
        for plan in (tiles(128), whole(8, 10), split(4, 10)):
            got = kernels.row_scores(x, torch.tensor([3]), None, mask_of(want), plan=plan)[:, 0]
            assert np.allclose(oracle.array(got), list(want.values()), rtol=12 * eps, atol=0), dtype


def test_the_kernels_own_exp_is_exact_to_a_few_ulps(kernels: HostKernels) -> None:
    for shift in np.concatenate([-np.geomspace(1e-9, 87.0, 4000), [0.0]]).astype(np.float32):
        want = math.exp(float(shift))
        assert abs(kernels.exp_of_shift(float(shift)) - want) <= 5 * 2.0**-24 * want * 2
    assert kernels.exp_of_shift(0.0) == 1.0
    assert kernels.exp_of_shift(-1e4) == 0.0


def test_plans_fit_the_hardware_and_cover_every_row(kernels: HostKernels) -> None:
    classes_tried = (2, 3, 10, 31, 32, 33, 100, 1000, 4097, 50257, 128256, 10**6, 10**8, 2**33)
    for element in (2, 4, 8):
        for classes in classes_tried:
            for rows in (1, 7, 128, 1000, 10**5, 10**7, 2**33):
                for sms in (1, 46, 132):
                    for stride in (classes, classes + 3, 0):
                        plan = kernels.plan(rows, classes, stride, element, sms)
                        case = (element, classes, rows, sms, stride)
                        if plan.tile_rows:
                            assert stride == classes, case
                            assert plan.tile_rows * classes * element <= 16 << 10, case
                            continue
                        assert plan.lanes in (8, 16, 32, 256), case
                        assert 1 <= plan.turns * max(1, 32 // plan.lanes) <= 16, case
                        assert plan.splits <= 65535, case
                        assert plan.part_classes <= 2**30, case
                        assert plan.splits * plan.part_classes >= classes, case
                        assert (plan.splits - 1) * plan.part_classes < classes, case
                        if plan.splits > 1:
                            assert plan.lanes == 256, case


def test_scratch_is_asked_for_split_rows_only(kernels: HostKernels) -> None:
    assert kernels.preload() == 0
    for dtype in oracle.DTYPES:
        assert kernels.scratch_bytes(dtype, 8192, 50257, 132) == 0
        assert kernels.scratch_bytes(dtype, 4, 128256, 132) > 0
