"""The Triton kernels of linear margins, interpreted on the CPU: every kind and path against the oracle, on small ragged heads."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from dynams_kernels._kinds import BIT
from kernel_inputs import LAYOUTS, labels_for, random_logits

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from dynams_kernels._triton import linear
from dynams_kernels._triton.linear_configuration import (
    Configuration,
    configuration,
    float32_precision,
    shared_limit,
    shares,
    slicing,
    slicing_widths,
    unit_of,
)

# The interpreter computes inf - inf and the like as NumPy does, aloud.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INF, NAN = math.inf, math.nan
KINDS = oracle.MARGIN_KINDS
SMALL = Configuration(16, 16, 16, num_warps=4, num_stages=1)
WIDE = Configuration(16, 64, 32, num_warps=4, num_stages=1)


def head(
    rows: int, size: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight and bias whose logits are of the order of one."""
    features = random_logits(rows, size, dtype, seed=seed, scale=1.0)
    weight = random_logits(classes, size, dtype, seed=seed + 1, scale=1 / math.sqrt(size))
    bias = random_logits(1, classes, dtype, seed=seed + 2, scale=0.5)[0]
    return features, weight, bias


def pairs_of(
    z: oracle.Array, kind: str, labels: oracle.Indices | None, apart: oracle.Array | None
) -> oracle.Indices:
    """The classes whose logits' difference is the margin, by sorting: descending logits, lowest class first."""
    out = np.empty((len(z), 2), dtype=np.int64)
    for row, logits in enumerate(z):
        order = np.lexsort((np.arange(len(logits)), -logits))
        out[row] = order[:2]
        if kind == "label":
            assert labels is not None
            out[row] = labels[row], next(c for c in order if c != labels[row])
        elif kind == "distance":
            assert apart is not None
            p = order[0]
            rise = oracle.difference(logits[p], logits)
            with np.errstate(divide="ignore", invalid="ignore"):
                quotient = np.where(rise == 0, 0.0, rise / apart[p])
            quotient[p] = np.inf
            out[row, 1] = quotient.argmin()
    return out


def check(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kind: str,
    *,
    ulps: float = 64,
    labels: Tensor | None = None,
    apart: Tensor | None = None,
    pairs: bool = False,
    **how: Any,
) -> Tensor:
    """Scores, and pairs where asked for, against the oracle's; logits near one."""
    wide = oracle.array(weight)
    z = oracle.linear(
        oracle.array(features), wide, None if bias is None else oracle.array(bias), None
    )
    if kind == "label" and labels is None:
        labels = labels_for(torch.empty(z.shape))
    if kind == "distance" and apart is None:
        apart = torch.from_numpy(oracle.class_distances(wide)).float()
    if kind != "distance":
        apart = None
    y = None if labels is None else labels.numpy()
    distances = None if apart is None else oracle.array(apart)
    got, got_pairs = linear.linear_row_scores(
        features, weight, bias, labels, apart, BIT[kind], pairs, **how
    )
    assert got.dtype == torch.float32
    with np.errstate(invalid="ignore"):
        want = oracle.margin(z, kind, y, distances)
    oracle.check(got, want, ulps=ulps, floor=1.0)
    assert got_pairs.shape == ((len(z) if pairs else 0), 2)
    assert got_pairs.dtype == torch.int64
    if pairs:
        whole = ~np.isnan(z).any(axis=1)
        assert np.array_equal(got_pairs.numpy()[whole], pairs_of(z, kind, y, distances)[whole])
        assert ((got_pairs >= 0) & (got_pairs < z.shape[1])).all()
    return got


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(
    ("rows", "size", "classes"), [(1, 1, 2), (17, 16, 16), (19, 33, 21), (3, 50, 37)]
)
def test_ragged_heads(
    rows: int, size: int, classes: int, pairs: bool, kind: str, dtype: torch.dtype
) -> None:
    features, weight, bias = head(rows, size, classes, dtype)
    check(features, weight, bias, kind, pairs=pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("splits", [1, 2, 3, 5])
def test_splits_of_the_classes_join_to_the_same_scores(splits: int, kind: str) -> None:
    features, weight, bias = head(7, 20, 70)
    whole = check(features, weight, bias, kind, pairs=True, chosen=SMALL, splits=1)
    split = check(features, weight, bias, kind, pairs=True, chosen=SMALL, splits=splits)
    assert kind == "probability" or oracle.same_bits(whole, split)
    check(features[:3, :5], weight[:40, :5], None, kind, chosen=SMALL, splits=splits)


@pytest.mark.parametrize("kind", KINDS)
def test_many_row_blocks_in_several_groups(kind: str) -> None:
    features, weight, bias = head(150, 6, 40)
    check(features, weight, bias, kind, pairs=True)


@pytest.mark.parametrize("kind", KINDS)
def test_one_tile_and_two_tiles_agree(kind: str) -> None:
    features, weight, bias = head(9, 12, 30)
    one = check(features, weight, bias, kind, pairs=True, chosen=WIDE)
    two = check(features, weight, bias, kind, pairs=True, chosen=SMALL)
    oracle.check(one, oracle.array(two), ulps=16, floor=1.0)


def test_without_bias() -> None:
    features, weight, _ = head(18, 20, 5)
    for kind in KINDS:
        check(features, weight, None, kind, pairs=True)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch(kind: str) -> None:
    features, weight, bias = head(0, 6, 5)
    for pairs in (False, True):
        check(features, weight, bias, kind, pairs=pairs)
    if kind != "distance":
        labels = torch.empty(0, dtype=torch.int64)
        got = linear.linear_width_scores(features, weight, bias, labels, [2, 6], BIT[kind])
        assert got.shape == (2, 0)


@pytest.mark.parametrize("size", [1, 5, 16, 24, 31, 33, 47, 50])
def test_every_way_to_meet_a_ragged_width(size: int) -> None:
    features, weight, bias = head(5, size, 18)
    check(features, weight, bias, "label", pairs=True, chosen=SMALL)
    check(features.half(), weight.half(), bias.half(), "gap", pairs=True, chosen=SMALL)


def test_close_probabilities_keep_their_digits() -> None:
    # The gap's own rounding is all the error there is: p1 - p2 is no difference of rounded probabilities.
    weight = torch.tensor([[1.0], [1.0 - 2**-20], [0.0]])
    got = check(torch.ones(1, 1), weight, None, "probability")
    total = 1 + math.exp(-(2.0**-20)) + math.exp(-1)
    assert got.item() == pytest.approx(-math.expm1(-(2.0**-20)) / total, rel=1e-6)


# ------------------------------------------------------------------------------------ special values


def exact_head(classes: int, rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of one 1 a row: the logits are the weight's columns, small integers full of ties, and come out exactly."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-2, 3, (classes, rows), generator=generator).float()
    bias = torch.zeros(classes)
    pool = torch.tensor([INF, -INF, -INF, NAN, INF])
    hard = seed % 4
    places = torch.randint(classes, (hard,), generator=generator)
    bias[places] = pool[torch.randint(len(pool), (hard,), generator=generator)]
    if seed % 5 == 0:
        bias[: classes - 2] = -INF
    return torch.eye(rows), weight, bias


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("seed", range(12))
def test_ties_and_infinities_are_exact(seed: int, splits: int, kind: str) -> None:
    classes = (2, 15, 16, 17, 40)[seed % 5]
    features, weight, bias = exact_head(classes, 6, seed)
    points = torch.randint(0, 3, (classes, 2), generator=torch.Generator().manual_seed(seed))
    apart = torch.cdist(points.float(), points.float())
    ulps = {"probability": 16.0, "distance": 2.0}.get(kind, 0.0)
    check(features, weight, bias, kind, ulps=ulps, apart=apart, pairs=True, splits=splits)
    if seed < 4:
        check(features, weight, bias, kind, ulps=ulps, apart=apart, splits=splits)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_spoils_only_its_row(kind: str, pairs: bool) -> None:
    features, weight, bias = head(20, 19, 17)
    bad = torch.arange(20) % 5 == 3
    features[bad, torch.arange(20)[bad] % 19] = NAN
    got = check(features, weight, bias, kind, pairs=pairs, splits=2)
    assert torch.equal(got.isnan(), bad)


@pytest.mark.parametrize("pairs", [False, True])
def test_an_infinite_feature_gives_what_the_product_gives(pairs: bool) -> None:
    # 17 classes: 15 columns of the second tile are no class, and must not make NaN of inf * 0.
    features, weight, bias = head(18, 8, 17)
    features[4, 1] = INF
    weight[:, 1] = -weight[:, 1].abs()
    got = check(features, weight, bias, "gap", pairs=pairs)
    assert got[4] == 0.0
    weight[3, 1] = 1.0
    got = check(features, weight, bias, "gap", pairs=pairs)
    assert got[4] == INF
    weight[3, 1] = 0.0
    got = check(features, weight, bias, "gap", pairs=pairs)
    assert got.isnan().tolist() == [row == 4 for row in range(18)]


@pytest.mark.parametrize("splits", [1, 2])
def test_labels_out_of_range_make_only_their_rows_nan(splits: int) -> None:
    features, weight, bias = head(20, 8, 20)
    labels = labels_for(torch.empty(20, 20))
    want, want_pairs = linear.linear_row_scores(
        features, weight, bias, labels, None, BIT["label"], True, splits=splits
    )
    bad = torch.tensor([3, 11, 19])
    wrong = labels.clone()
    wrong[bad] = torch.tensor([20, -1, 2**40])
    got, pairs = linear.linear_row_scores(
        features, weight, bias, wrong, None, BIT["label"], True, splits=splits
    )
    assert got[bad].isnan().all()
    assert pairs[bad, 0].tolist() == [19, 0, 19]
    kept = torch.ones(20, dtype=torch.bool)
    kept[bad] = False
    assert oracle.same_bits(got[kept], want[kept])
    assert torch.equal(pairs[kept], want_pairs[kept])
    widths = linear.linear_width_scores(
        features, weight, bias, wrong, [3, 8], BIT["label"], splits=splits
    )
    assert torch.equal(widths.isnan(), (~kept).expand(2, 20))


def test_labels_with_a_stride() -> None:
    features, weight, bias = head(12, 8, 9)
    labels = torch.stack([torch.full((12,), -1), labels_for(torch.empty(12, 9))], 1)[:, 1]
    check(features, weight, bias, "label", labels=labels, pairs=True)


# ------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [5, 18, 32])
def test_any_strides(layout: str, size: int) -> None:
    lay = LAYOUTS[layout]
    features, weight, bias = head(18, size, 20)
    want = check(features, weight, bias, "label")
    for f, w, b in [(lay(features), weight, bias), (features, lay(weight), bias)]:
        assert oracle.same_bits(check(f, w, b, "label", pairs=True), want)
    apart = torch.from_numpy(oracle.class_distances(oracle.array(weight))).float()
    check(lay(features), lay(weight), lay(bias[None])[0], "distance", apart=lay(apart), pairs=True)


def test_a_slim_head_reads_nothing_past_its_width() -> None:
    features, weight, bias = head(18, 48, 20)
    for width in (1, 16, 17, 40):
        slim, narrow = weight.clone(), features.clone()
        slim[:, width:], narrow[:, width:] = NAN, INF
        for kind in KINDS:
            got = check(narrow[:, :width], slim[:, :width], bias, kind, pairs=True)
            assert not got.isnan().any()


def test_expanded_operands() -> None:
    features, weight, bias = head(9, 6, 5)
    check(features[:1].expand(9, 6), weight, bias[:1].expand(5), "label", pairs=True)
    check(features, weight[:, :1].expand(5, 6), bias, "label", pairs=True)
    got = check(features, weight[:1].expand(5, 6), None, "gap", pairs=True)
    assert got.tolist() == [0.0] * 9


# ------------------------------------------------------------------------------------ several widths


@pytest.mark.parametrize("kind", ["gap", "probability", "label"])
@pytest.mark.parametrize(
    ("widths", "splits", "dtype"),
    [
        ([33], 1, torch.float16),
        ([16, 32], 2, torch.float16),
        ([1, 5, 33], 1, torch.float32),
        (list(range(6, 33, 3)), 1, torch.float32),
    ],
    ids=str,
)
def test_each_width_scores_as_a_head_of_that_width(
    widths: Sequence[int], splits: int, kind: str, dtype: torch.dtype
) -> None:
    features, weight, bias = head(5, 33, 18 if splits > 1 else 13, dtype)
    labels = labels_for(torch.empty(5, len(weight)))
    got = linear.linear_width_scores(
        features, weight, bias, labels, widths, BIT[kind], chosen=SMALL, splits=splits
    )
    assert got.shape == (len(widths), 5)
    for row, width in zip(got, widths, strict=True):
        z = oracle.linear(oracle.array(features), oracle.array(weight), oracle.array(bias), width)
        oracle.check(row, oracle.margin(z, kind, labels.numpy()), ulps=64, floor=1.0)


def test_a_nan_past_a_width_spoils_only_the_wider() -> None:
    features, weight, bias = head(17, 30, 20)
    features[:, 20] = NAN
    labels = labels_for(torch.empty(17, 20))
    got = linear.linear_width_scores(features, weight, bias, labels, [10, 20, 21, 30], BIT["label"])
    assert got.isnan().all(1).tolist() == [False, False, True, True]
    assert not got[:2].isnan().any()


# ------------------------------------------------------------------------------------ configurations

CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
SHAPES = (
    [(65_536, 1024, classes) for classes in (2, 10, 17, 33, 65, 100, 129, 300, 1000)]
    + [(rows, 4096, 128_256) for rows in (1, 64, 128, 8192)]
    + [(1, 64, 1_000_000), (1000, 1, 10), (1000, 17, 1000)]
)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("size", "precision"), [(2, "ieee"), (4, "tf32"), (4, "ieee")])
@pytest.mark.parametrize("burden", [0, 1, 2, 3])
def test_a_tile_fits_the_device(
    burden: int, size: int, precision: str, capability: tuple[int, int]
) -> None:
    for rows, width, classes in SHAPES:
        chosen = configuration(rows, classes, width, size, precision, burden, False, capability)
        assert chosen.shared_bytes(size) * chosen.programs <= shared_limit(capability)
        assert chosen.num_stages >= 2
        assert chosen.block_features >= 16
        assert chosen.block_classes >= 16


@pytest.mark.parametrize("multiprocessors", [1, 108, 132])
def test_every_class_tile_has_one_program_a_row_block(multiprocessors: int) -> None:
    for rows, width, classes in SHAPES:
        chosen = configuration(rows, classes, width, 2, "ieee", 0, False, (9, 0))
        blocks, tiles = -(-rows // chosen.block_rows), -(-classes // chosen.block_classes)
        dealt = shares(blocks, tiles, chosen, width, 2, multiprocessors)
        assert (dealt.splits - 1) * dealt.tiles_per_split < tiles
        assert dealt.splits * dealt.tiles_per_split >= tiles
        assert 1 <= dealt.group_blocks <= blocks


def test_few_rows_are_split_over_the_device() -> None:
    chosen = configuration(128, 128_256, 4096, 2, "ieee", 0, False, (9, 0))
    dealt = shares(1, -(-128_256 // chosen.block_classes), chosen, 4096, 2, 132)
    assert dealt.splits >= 100


def test_a_large_weight_is_read_few_times() -> None:
    # The row blocks of a group walk it together; their features must stay in the cache meanwhile.
    for rows, classes in [(8192, 128_256), (65_536, 32_000)]:
        chosen = configuration(rows, classes, 4096, 2, "ieee", 0, False, (9, 0))
        blocks, tiles = -(-rows // chosen.block_rows), -(-classes // chosen.block_classes)
        dealt = shares(blocks, tiles, chosen, 4096, 2, 132)
        assert 12 <= dealt.group_blocks <= 36


def test_a_small_change_of_shape_is_no_other_kernel() -> None:
    for classes in (900, 1000):
        chosen = configuration(60_000, classes, 1000, 2, "ieee", 0, False, (9, 0))
        assert chosen == configuration(65_536, 1000, 1024, 2, "ieee", 0, False, (9, 0))


def test_units_are_powers_of_two() -> None:
    assert [unit_of(size) for size in (1, 2, 12, 40, 48, 1024)] == [1, 2, 4, 8, 16, 16]
    assert unit_of(256, 24) == 8
    assert unit_of(0, 0) == 16
    assert slicing(96, 32, 2) == {"MASKED": False, "PEELED": False, "WIDTH_UNIT": 16}
    assert slicing(40, 32, 2) == {"MASKED": True, "PEELED": False, "WIDTH_UNIT": 8}
    assert slicing(41, 32, 2) == {"MASKED": False, "PEELED": True, "WIDTH_UNIT": 1}
    assert slicing(31, 32, 2) == {"MASKED": True, "PEELED": False, "WIDTH_UNIT": 1}
    assert not slicing_widths([64, 128], 64)["MASKED"]
    assert slicing_widths([60, 128], 64)["MASKED"]


@pytest.mark.parametrize(
    ("setting", "precision"), [("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")]
)
def test_float32_products_follow_torchs_setting(setting: str, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        assert float32_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_shipped_kernels_are_told_apart_and_complete() -> None:
    kernels = linear.shipped()
    assert len({kernel.name for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        constants = {name for name, kind in kernel.signature.items() if kind == "constexpr"}
        assert constants == set(kernel.constexprs), kernel.name
