"""The Triton kernels of linear scores, interpreted on the CPU: every kind and path against the oracle, on small ragged heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from dynams_kernels._backends.shard_merge import merged_scores
from dynams_kernels._backends.shard_states import NO_CLASS, state_parts
from dynams_kernels._kinds import BIT, KINDS, kinds_of, mask_of
from dynams_kernels._triton.linear_rounding import rounded_copy
from kernel_inputs import LAYOUTS, labels_for, random_head
from triton_linear import (
    DESCRIBED,
    LABELLED,
    SMALL,
    TRAINING,
    UNLABELLED,
    WIDE,
    WITH_PAIRS,
    aligned,
    check,
    linear,
    pairs_of,
    want_of,
)

# The interpreter computes inf - inf and the like as NumPy does, aloud.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INF, NAN = float("inf"), float("nan")
# What one sweep is asked for: each kind alone, those of a label, those without, a few of both, and all of them with the sweeps
# that `distance` takes for itself.
ALONE = [(kind,) for kind in KINDS]
TOGETHER = [LABELLED, UNLABELLED, TRAINING, KINDS]
# Differences of logits: the same bits in any order of reduction.
MARGINS = ("gap", "distance", "label")


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("kinds", [*ALONE, *TOGETHER], ids="+".join)
@pytest.mark.parametrize(
    ("rows", "size", "classes", "dtype"),
    [(1, 1, 2, torch.float32), (17, 16, 16, torch.float16), (5, 33, 21, torch.float32)],
    ids=str,
)
def test_ragged_heads(
    rows: int, size: int, classes: int, dtype: torch.dtype, kinds: Sequence[str]
) -> None:
    features, weight, bias = random_head(rows, size, classes, dtype)
    check(features, weight, bias, kinds)


@pytest.mark.parametrize("kinds", [("gap",), ("label",), DESCRIBED], ids="+".join)
@pytest.mark.parametrize(
    ("rows", "size", "classes", "splits"), [(17, 40, 21, 1), (3, 9, 50, 2), (1, 1, 2, 1)], ids=str
)
def test_tiles_loaded_by_descriptors(
    rows: int, size: int, classes: int, splits: int, kinds: Sequence[str]
) -> None:
    features, weight, bias = random_head(rows, size, classes, torch.float16)
    bias = bias if splits == 1 else None
    check(features, weight, bias, kinds, splits=splits, loads="descriptors")


@pytest.mark.parametrize("kind", WITH_PAIRS)
@pytest.mark.parametrize(
    ("rows", "size", "classes", "dtype"),
    [(1, 1, 2, torch.float32), (19, 33, 21, torch.float32), (3, 50, 37, torch.float16)],
    ids=str,
)
def test_pairs_of_ragged_heads(
    rows: int, size: int, classes: int, dtype: torch.dtype, kind: str
) -> None:
    check(*random_head(rows, size, classes, dtype), kind, pairs=True)


@pytest.mark.parametrize("mask", sorted({*range(3, 256, 17), 0b10000101, 0b01110000, 0b10000010}))
def test_any_kinds_together(mask: int) -> None:
    check(*random_head(5, 9, 20), kinds_of(mask), chosen=SMALL, splits=1 + mask % 2)


@pytest.mark.parametrize("kinds", [("gap",), ("label",), ("loss",), KINDS], ids="+".join)
@pytest.mark.parametrize("splits", [2, 3])
def test_splits_of_the_classes_join_to_the_same_scores(splits: int, kinds: Sequence[str]) -> None:
    features, weight, bias = random_head(7, 20, 40)
    whole = check(features, weight, bias, kinds, chosen=SMALL, splits=1)
    split = check(features, weight, bias, kinds, chosen=SMALL, splits=splits)
    for kind, one, other in zip(kinds_of(mask_of(kinds)), whole, split, strict=True):
        assert kind not in MARGINS or oracle.same_bits(one, other)


@pytest.mark.parametrize("kind", WITH_PAIRS)
@pytest.mark.parametrize("splits", [1, 3])
def test_pairs_join_over_splits(splits: int, kind: str) -> None:
    check(*random_head(7, 20, 70), kind, pairs=True, chosen=SMALL, splits=splits)


@pytest.mark.parametrize("largest", [0.5, INF])
def test_a_logit_infinitely_far_above_all_others_in_one_split(largest: float) -> None:
    features, weight, _ = random_head(3, 8, 40)
    bias = torch.full((40,), -INF)
    bias[20] = largest
    check(features, weight, bias, TRAINING, chosen=SMALL, splits=3)


def test_many_row_blocks_in_several_groups() -> None:
    check(*random_head(150, 6, 20), TRAINING)


@pytest.mark.parametrize("kinds", [("label",), ("distance",), LABELLED, TRAINING], ids="+".join)
def test_one_tile_and_two_tiles_agree(kinds: Sequence[str]) -> None:
    features, weight, bias = random_head(9, 12, 30)
    one = check(features, weight, bias, kinds, chosen=WIDE)
    two = check(features, weight, bias, kinds, chosen=SMALL)
    oracle.check(one, oracle.array(two), ulps=16, floor=1.0)


def test_without_bias() -> None:
    features, weight, _ = random_head(18, 20, 5)
    check(features, weight, None, KINDS)
    for kind in WITH_PAIRS:
        check(features, weight, None, kind, pairs=True)


def test_nothing_to_score() -> None:
    features, weight, bias = random_head(0, 6, 5)
    labels = torch.empty(0, dtype=torch.int64)
    for kind in WITH_PAIRS:
        check(features, weight, bias, kind, pairs=True)
    check(features, weight, bias, KINDS)
    got, _ = linear.linear_scores(features, weight, bias, labels, None, [2, 6], 3, False)
    assert got.shape == (2, 2, 0)
    for loads in ("pointers", "descriptors"):
        got, _ = linear.linear_scores(*random_head(3, 6, 5), None, None, [6], 0, False, loads=loads)
        assert got.shape == (0, 1, 3)


@pytest.mark.parametrize("size", [1, 5, 16, 24, 31, 33, 47, 50])
def test_every_way_to_meet_a_ragged_width(size: int) -> None:
    features, weight, bias = random_head(5, size, 18)
    check(features, weight, bias, "label", pairs=True, chosen=SMALL)
    check(features.half(), weight.half(), bias.half(), "gap", chosen=SMALL)


# ------------------------------------------------------------------------------------ shards of the classes


def shard_states(
    head: tuple[Tensor, Tensor, Tensor], cuts: Sequence[int], kinds: int, pairs: bool, **how: Any
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The states and classes of every shard, as ranks exchange them, and which rows' labels name a class."""
    features, weight, bias = head
    labels = labels_for(torch.empty(len(features), len(weight)))
    named = (labels >= 0) & (labels < len(weight))
    states, numbers = [], []
    for begin, end in pairwise(cuts):
        own = torch.where(named, labels - begin, -1)
        state, classes = linear.linear_states(
            features, weight[begin:end], bias[begin:end], own, kinds, pairs, **how
        )
        if "own" in state_parts(kinds):
            state[-1].masked_fill_((own < 0) | (own >= end - begin), 0)
        states.append(state)
        if classes is not None:
            numbers.append(torch.where(classes < NO_CLASS, classes + begin, NO_CLASS))
    return torch.stack(states), torch.stack(numbers) if pairs else None, named


@pytest.mark.parametrize(
    ("loads", "splits", "kinds"),
    [
        ("pointers", None, ("label",)),
        ("pointers", None, TRAINING),
        ("pointers", 2, DESCRIBED),
        ("descriptors", None, DESCRIBED),
        ("descriptors", 2, ("gap",)),
    ],
)
def test_shards_of_the_classes_merge_to_the_scores_of_the_whole(
    loads: Literal["pointers", "descriptors"], splits: int | None, kinds: Sequence[str]
) -> None:
    features, weight, bias = random_head(9, 20, 60, torch.float16)
    bias[17:34] = -INF
    bias[40] = INF if "entropy" in kinds else -INF
    head = aligned(features), aligned(weight), bias
    # A shard of one class, one that a mask leaves nothing of, one of one tile and one of several.
    cuts = [0, 1, 17, 34, 60]
    mask = mask_of(kinds)
    pairs = loads == "pointers"
    how = {"loads": loads, "splits": splits, "chosen": SMALL}
    states, numbers, named = shard_states(head, cuts, mask | BIT["gap"], pairs, **how)
    got, classes = merged_scores(states, numbers, named, 60, mask)
    labels = labels_for(torch.empty(9, 60)).numpy()
    z = oracle.linear(*map(oracle.array, head))
    for kind, scores in zip(kinds_of(mask), got, strict=True):
        oracle.check(scores, want_of(z, kind, labels, None), ulps=64, floor=1.0)
    if classes is not None:
        assert np.array_equal(classes.numpy(), pairs_of(z, "gap", None, None))


# ------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [5, 18, 32])
def test_any_strides(layout: str, size: int) -> None:
    lay = LAYOUTS[layout]
    features, weight, bias = random_head(18, size, 20)
    want = check(features, weight, bias, "label")
    for f, w, b in [(lay(features), weight, bias), (features, lay(weight), bias)]:
        assert oracle.same_bits(check(f, w, b, "label", pairs=True), want)
    apart = torch.from_numpy(oracle.class_distances(oracle.array(weight))).float()
    check(lay(features), lay(weight), lay(bias[None])[0], "distance", apart=lay(apart), pairs=True)


def test_a_slim_head_reads_nothing_past_its_width() -> None:
    features, weight, bias = random_head(18, 48, 20)
    for width in (1, 17, 40):
        slim, narrow = weight.clone(), features.clone()
        slim[:, width:], narrow[:, width:] = NAN, INF
        for kinds in ("label", TRAINING):
            got = check(narrow[:, :width], slim[:, :width], bias, kinds, pairs=kinds == "label")
            assert not got.isnan().any()
        operands = narrow, slim, bias, labels_for(torch.empty(18, 20)), None, [width]
        got, _ = linear.linear_scores(*operands, mask_of(TRAINING), False)
        assert not got.isnan().any()


def test_expanded_operands() -> None:
    features, weight, bias = random_head(9, 6, 5)
    check(features[:1].expand(9, 6), weight, bias[:1].expand(5), "label", pairs=True)
    check(features, weight[:, :1].expand(5, 6), bias, "label", pairs=True)
    (got,) = check(features, weight[:1].expand(5, 6), None, "gap", pairs=True)
    assert got.tolist() == [0.0] * 9


# ------------------------------------------------------------------------------------ a rounded weight


@pytest.fixture
def tf32() -> Iterator[None]:
    """Interpreted products are float32's all the same, and features are not rounded: only a weight that is rounded first is."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def nearest(weight: Tensor) -> Tensor:
    """The float32 of 11 significant bits nearest to each, of two the larger in magnitude; subnormals have fewer."""
    x = oracle.array(weight)
    whole = np.where(np.isfinite(x), x, 0.0)
    unit = np.ldexp(1.0, np.maximum(np.frexp(whole)[1], -125) - 11)
    picked = np.copysign(np.floor(np.abs(whole) / unit + 0.5) * unit, whole)
    return torch.from_numpy(np.where(np.isfinite(x), picked, x)).float()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_is_rounded_as_the_tensor_cores_are_to_see_it(layout: str) -> None:
    weight = random_head(1, 300, 17)[1]
    of_interest = [
        0.0,
        -0.0,
        1.0,
        INF,
        -INF,
        NAN,
        1e-45,
        -1e-40,
        1.17549e-38,
        3.4028235e38,
        -3.4e38,
    ]
    # Halfway between two, and a little off: below, at and above each.
    ties = [
        sign * (1 + (n + 0.5 + off) * 2.0**-10)
        for n in (0, 1, 1023)
        for off in (-1e-3, 0, 1e-3)
        for sign in (1, -1)
    ]
    weight.flatten()[: len(of_interest + ties)] = torch.tensor(of_interest + ties)
    weight[3, 5] = torch.tensor(0x7F800001, dtype=torch.int32).view(torch.float32)  # a NaN
    copy = rounded_copy(LAYOUTS[layout](weight)[:, :290].resolve_neg())
    assert oracle.same_answer(copy, nearest(weight[:, :290]))
    assert (copy.stride(0) % 16, copy.stride(1)) == (0, 1)


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize(
    ("kind", "layout", "widths"),
    [
        ("label", "transposed", [18]),
        ("distance", "contiguous", [18]),
        ("label", "contiguous", [5, 18]),
    ],
)
def test_scores_of_a_weight_rounded_first(kind: str, layout: str, widths: Sequence[int]) -> None:
    features, weight, bias = random_head(4, 20, 18)
    labels, apart = torch.arange(4), torch.rand(18, 18) if kind == "distance" else None
    about = bias, labels, apart, widths, mask_of([kind]), len(widths) == 1
    got, pairs = linear.linear_scores(features, LAYOUTS[layout](weight), *about, rounds=True)
    want, want_pairs = linear.linear_scores(features, nearest(weight), *about, rounds=False)
    assert oracle.same_bits(got, want)
    assert pairs is want_pairs is None or torch.equal(pairs, want_pairs)
    unrounded, _ = linear.linear_scores(features, weight, *about)
    assert not torch.equal(unrounded, got), "a head so small does not pay for it"


def test_only_tf32_products_round_the_weight() -> None:
    for dtype in (torch.float32, torch.float16):
        check(*random_head(4, 20, 5, dtype), "label", rounds=True)


# ------------------------------------------------------------------------------------ several widths


@pytest.mark.parametrize("kinds", [("gap",), LABELLED + UNLABELLED], ids="+".join)
@pytest.mark.parametrize(
    ("widths", "splits", "dtype"),
    [
        ([16, 32], 2, torch.float16),
        ([1, 5, 33], 1, torch.float32),
        (list(range(6, 33, 3)), 1, torch.float32),
    ],
    ids=str,
)
def test_each_width_scores_as_a_head_of_that_width(
    widths: Sequence[int], splits: int, kinds: Sequence[str], dtype: torch.dtype
) -> None:
    features, weight, bias = random_head(5, 33, 18 if splits > 1 else 13, dtype)
    labels = labels_for(torch.empty(5, len(weight)))
    mask = mask_of(kinds)
    got, pairs = linear.linear_scores(
        features, weight, bias, labels, None, widths, mask, False, chosen=SMALL, splits=splits
    )
    assert got.shape == (len(kinds), len(widths), 5)
    assert pairs is None
    for place, width in enumerate(widths):
        z = oracle.linear(oracle.array(features), oracle.array(weight), oracle.array(bias), width)
        for kind, scores in zip(kinds_of(mask), got[:, place], strict=True):
            oracle.check(scores, want_of(z, kind, labels.numpy(), None), ulps=64, floor=1.0)


@pytest.mark.parametrize("kinds", [("label",), LABELLED + UNLABELLED], ids="+".join)
def test_a_nan_past_a_width_spoils_only_the_wider(kinds: Sequence[str]) -> None:
    features, weight, bias = random_head(17, 30, 20)
    features[:, 20] = NAN
    labels = labels_for(torch.empty(17, 20))
    got, _ = linear.linear_scores(
        features, weight, bias, labels, None, [10, 20, 21, 30], mask_of(kinds), False
    )
    assert got.isnan().all(2).tolist() == [[False, False, True, True]] * len(kinds)
    assert not got[:, :2].isnan().any()


@pytest.mark.parametrize("loads", ["pointers", "descriptors"])
def test_a_row_that_is_not_finite_changes_no_bit_of_others(
    loads: Literal["pointers", "descriptors"],
) -> None:
    features, weight, bias = random_head(32, 32, 50, torch.float16)
    features, weight = aligned(features), aligned(weight)
    labels = labels_for(torch.empty(32, 50))
    kinds = mask_of(DESCRIBED)
    want, _ = linear.linear_scores(
        features, weight, bias, labels, None, [32], kinds, False, loads=loads, chosen=SMALL
    )
    features[[3, 20]] = NAN
    features[7] = INF
    got, _ = linear.linear_scores(
        features, weight, bias, labels, None, [32], kinds, False, loads=loads, chosen=SMALL
    )
    kept = [row for row in range(32) if row not in (3, 7, 20)]
    assert oracle.same_bits(got[..., kept], want[..., kept])
