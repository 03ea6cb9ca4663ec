"""The Triton kernels of linear scores, interpreted on the CPU: every kind and path against the oracle, on small ragged heads."""

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
from dynams_kernels._kinds import BIT, KINDS, LABELLED_KINDS, kinds_of, mask_of
from kernel_inputs import LAYOUTS, labels_for, random_logits

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from dynams_kernels._triton import linear
from dynams_kernels._triton.linear_configuration import (
    Configuration,
)

# The interpreter computes inf - inf and the like as NumPy does, aloud.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INF, NAN = math.inf, math.nan
# What one sweep is asked for: each kind alone, those of a label, those without, a few of both, and all of them with the sweeps
# that `distance` takes for itself.
ALONE = [(kind,) for kind in KINDS]
LABELLED = ("label", "loss", "el2n")
UNLABELLED = ("gap", "probability", "entropy", "confidence")
TRAINING = ("gap", "loss", "entropy")
TOGETHER = [LABELLED, UNLABELLED, TRAINING, KINDS]
SUMS = ("probability", "loss", "el2n", "entropy", "confidence")
WITH_PAIRS = ("gap", "distance", "label")
MARGINS = (
    "gap",
    "distance",
    "label",
)  # differences of logits: the same bits in any order of reduction
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


def want_of(
    z: oracle.Array, kind: str, labels: oracle.Indices | None, apart: oracle.Array | None
) -> oracle.Array:
    """The oracle's score of one kind; NaN where the label names no class."""
    with np.errstate(invalid="ignore"):
        if kind not in LABELLED_KINDS:
            return (
                oracle.margin(z, kind, None, apart)
                if kind == "distance"
                else oracle.scores(z, (kind,))[kind]
            )
        assert labels is not None
        named = (labels >= 0) & (labels < z.shape[1])
        want = oracle.scores(z, (kind,), np.where(named, labels, 0))[kind]
        return np.where(named, want, np.nan)


def check(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kinds: str | Sequence[str],
    *,
    ulps: float = 64,
    labels: Tensor | None = None,
    apart: Tensor | None = None,
    pairs: bool = False,
    **how: Any,
) -> Tensor:
    """Scores (kinds, B), and pairs where asked for, against the oracle's; logits near one."""
    mask = mask_of((kinds,) if isinstance(kinds, str) else kinds)
    wide = oracle.array(weight)
    z = oracle.linear(
        oracle.array(features), wide, None if bias is None else oracle.array(bias), None
    )
    if labels is None:
        labels = labels_for(torch.empty(z.shape))
    if apart is None:
        apart = torch.from_numpy(oracle.class_distances(wide)).float()
    y, distances = labels.numpy(), oracle.array(apart)
    got, got_pairs = linear.linear_scores(
        features,
        weight,
        bias,
        labels,
        apart if mask & BIT["distance"] else None,
        [weight.shape[1]],
        mask,
        pairs,
        **how,
    )
    names = kinds_of(mask)
    assert got.dtype == torch.float32
    assert got.shape == (len(names), 1, len(z))
    for kind, scores in zip(names, got[:, 0], strict=True):
        want = want_of(z, kind, y, distances)
        try:
            oracle.check(scores, want, ulps=ulps, floor=1.0)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from error
        assert kind != "entropy" or not (scores < 0).any()
    assert got_pairs.shape == ((len(z) if pairs else 0), 2)
    assert got_pairs.dtype == torch.int64
    if pairs:
        (kind,) = names
        whole = ~np.isnan(z).any(axis=1)
        assert np.array_equal(got_pairs.numpy()[whole], pairs_of(z, kind, y, distances)[whole])
        assert ((got_pairs >= 0) & (got_pairs < z.shape[1])).all()
    return got[:, 0]


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
    features, weight, bias = head(rows, size, classes, dtype)
    check(features, weight, bias, kinds)


@pytest.mark.parametrize("kind", WITH_PAIRS)
@pytest.mark.parametrize(
    ("rows", "size", "classes", "dtype"),
    [(1, 1, 2, torch.float32), (19, 33, 21, torch.float32), (3, 50, 37, torch.float16)],
    ids=str,
)
def test_pairs_of_ragged_heads(
    rows: int, size: int, classes: int, dtype: torch.dtype, kind: str
) -> None:
    check(*head(rows, size, classes, dtype), kind, pairs=True)


@pytest.mark.parametrize("mask", sorted({*range(3, 256, 17), 0b10000101, 0b01110000, 0b10000010}))
def test_any_kinds_together(mask: int) -> None:
    check(*head(5, 9, 20), kinds_of(mask), chosen=SMALL, splits=1 + mask % 2)


@pytest.mark.parametrize("kinds", [("gap",), ("label",), ("loss",), KINDS], ids="+".join)
@pytest.mark.parametrize("splits", [2, 3])
def test_splits_of_the_classes_join_to_the_same_scores(splits: int, kinds: Sequence[str]) -> None:
    features, weight, bias = head(7, 20, 40)
    whole = check(features, weight, bias, kinds, chosen=SMALL, splits=1)
    split = check(features, weight, bias, kinds, chosen=SMALL, splits=splits)
    for kind, one, other in zip(kinds_of(mask_of(kinds)), whole, split, strict=True):
        assert kind not in MARGINS or oracle.same_bits(one, other)


@pytest.mark.parametrize("kind", WITH_PAIRS)
@pytest.mark.parametrize("splits", [1, 3])
def test_pairs_join_over_splits(splits: int, kind: str) -> None:
    check(*head(7, 20, 70), kind, pairs=True, chosen=SMALL, splits=splits)


def test_many_row_blocks_in_several_groups() -> None:
    check(*head(150, 6, 20), TRAINING)


@pytest.mark.parametrize("kinds", [("label",), ("distance",), LABELLED, TRAINING], ids="+".join)
def test_one_tile_and_two_tiles_agree(kinds: Sequence[str]) -> None:
    features, weight, bias = head(9, 12, 30)
    one = check(features, weight, bias, kinds, chosen=WIDE)
    two = check(features, weight, bias, kinds, chosen=SMALL)
    oracle.check(one, oracle.array(two), ulps=16, floor=1.0)


def test_without_bias() -> None:
    features, weight, _ = head(18, 20, 5)
    check(features, weight, None, KINDS)
    for kind in WITH_PAIRS:
        check(features, weight, None, kind, pairs=True)


def test_nothing_to_score() -> None:
    features, weight, bias = head(0, 6, 5)
    labels = torch.empty(0, dtype=torch.int64)
    for kind in WITH_PAIRS:
        check(features, weight, bias, kind, pairs=True)
    check(features, weight, bias, KINDS)
    got, _ = linear.linear_scores(features, weight, bias, labels, None, [2, 6], 3, False)
    assert got.shape == (2, 2, 0)
    got, _ = linear.linear_scores(*head(3, 6, 5), None, None, [6], 0, False)
    assert got.shape == (0, 1, 3)


@pytest.mark.parametrize("size", [1, 5, 16, 24, 31, 33, 47, 50])
def test_every_way_to_meet_a_ragged_width(size: int) -> None:
    features, weight, bias = head(5, size, 18)
    check(features, weight, bias, "label", pairs=True, chosen=SMALL)
    check(features.half(), weight.half(), bias.half(), "gap", chosen=SMALL)


# ------------------------------------------------------------------------------------ precision


def torchs_own(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The same scores from float32 logits by torch's float32 log_softmax."""
    logp = logits.log_softmax(1)
    p = logp.exp()
    picked = logp.gather(1, labels[:, None])[:, 0]
    onehot = torch.nn.functional.one_hot(labels, p.shape[1])
    return {
        "loss": -picked,
        "el2n": (p - onehot).norm(dim=1),
        "entropy": -(p * logp).sum(1),
        "confidence": 1 - p.amax(1),
        "probability": p.topk(2, 1).values.diff(dim=1).neg()[:, 0],
    }


@pytest.mark.parametrize("splits", [1, 30])
def test_the_error_over_many_tiles_is_torchs_own(splits: int) -> None:
    # No sum over features hides what the reduction does; the states of 30 tiles are merged one by one, or all at once.
    classes, kinds = 480, SUMS
    offsets = torch.tensor([0.0, 30.0, -200.0])
    features = torch.stack([torch.ones(3), offsets], 1)
    weight = torch.cat([random_logits(classes, 1, seed=1), torch.ones(classes, 1)], 1)
    labels = torch.tensor([int(weight[:, 0].argmax()), 17, 400])
    logits = torch.nn.functional.linear(features, weight)
    z, y = oracle.array(logits), labels.numpy()
    got, _ = linear.linear_scores(
        features, weight, None, labels, None, [2], mask_of(kinds), False,
        chosen=SMALL, splits=splits,
    )  # fmt: skip
    for kind, scores in zip(kinds_of(mask_of(kinds)), got[:, 0], strict=True):
        want = oracle.scores(z, (kind,), y)[kind]
        ours = np.abs(oracle.array(scores) - want)
        theirs = oracle.worst(torchs_own(logits, labels)[kind], want)
        # The interpreter rounds a product before it is added to, the GPU does not.
        rounded = offsets.abs().numpy() * 2.0**-24
        assert (ours <= theirs + 2e-7 * (1 + np.abs(want)) + rounded).all(), kind


@pytest.mark.parametrize("splits", [1, 3])
def test_near_certainty_keeps_its_digits(splits: int) -> None:
    # One class has nearly all the mass: what is left is far below the rounding of 1.
    weight = torch.arange(48.0)[:, None].remainder(7.0)
    weight[37] = 40.0
    features = torch.tensor([[0.5], [0.75], [1.0]])
    kinds = LABELLED + UNLABELLED
    labels = torch.tensor([37, 37, 37])
    z = oracle.linear(oracle.array(features), oracle.array(weight))
    got, _ = linear.linear_scores(
        features, weight, None, labels, None, [1], mask_of(kinds), False,
        chosen=SMALL, splits=splits,
    )  # fmt: skip
    # Of such probabilities the oracle would need the distance from 1.
    below = np.delete(z - z[:, 37:38], 37, axis=1)
    others = np.exp(below)
    total = 1 + others.sum(axis=1)
    known = {
        "loss": np.log1p(others.sum(axis=1)),
        "entropy": np.log1p(others.sum(axis=1)) - (others * below).sum(axis=1) / total,
        "el2n": np.sqrt((others**2).sum(axis=1) + others.sum(axis=1) ** 2) / total,
    }
    for kind, scores in zip(kinds_of(mask_of(kinds)), got[:, 0], strict=True):
        want = known.get(kind)
        if want is None:
            want = oracle.scores(z, (kind,), labels.numpy())[kind]
        oracle.check(scores, want, ulps=64)


def test_close_probabilities_keep_their_digits() -> None:
    # The gap's own rounding is all the error there is: p1 - p2 is no difference of rounded probabilities.
    weight = torch.tensor([[1.0], [1.0 - 2**-20], [0.0]])
    (got,) = check(torch.ones(1, 1), weight, None, "probability")
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


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("seed", range(12))
def test_ties_and_infinities_take_their_limits(seed: int, splits: int) -> None:
    classes = (2, 15, 16, 17, 40)[seed % 5]
    features, weight, bias = exact_head(classes, 6, seed)
    points = torch.randint(0, 3, (classes, 2), generator=torch.Generator().manual_seed(seed))
    apart = torch.cdist(points.float(), points.float())
    check(features, weight, bias, KINDS, ulps=16, apart=apart, splits=splits)


@pytest.mark.parametrize("kind", WITH_PAIRS)
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("seed", range(0, 12, 2))
def test_margins_of_ties_and_infinities_are_exact(seed: int, pairs: bool, kind: str) -> None:
    classes = (2, 15, 16, 17, 40)[seed % 5]
    features, weight, bias = exact_head(classes, 6, seed)
    points = torch.randint(0, 3, (classes, 2), generator=torch.Generator().manual_seed(seed))
    apart = torch.cdist(points.float(), points.float())
    ulps = 2.0 if kind == "distance" else 0.0
    check(
        features, weight, bias, kind, ulps=ulps, apart=apart, pairs=pairs, splits=1 + seed // 2 % 2
    )


def test_logits_at_the_end_of_the_range() -> None:
    # Times log2(e) they overflow, though they are finite themselves.
    most = torch.finfo(torch.float32).max
    weight = torch.tensor([-most, most, -most, most, 1.0, -most / 2]).repeat(3)[:, None]
    features = torch.tensor([[1.0], [-1.0], [0.25]])
    for some in (weight, -weight.abs(), weight[:2]):
        check(features, some, None, LABELLED + UNLABELLED, splits=2)


@pytest.mark.parametrize("kinds", [("label",), KINDS], ids="+".join)
def test_a_nan_spoils_only_its_row(kinds: Sequence[str]) -> None:
    features, weight, bias = head(20, 19, 17)
    bad = torch.arange(20) % 5 == 3
    features[bad, torch.arange(20)[bad] % 19] = NAN
    got = check(features, weight, bias, kinds, splits=2)
    assert torch.equal(got.isnan(), bad.expand(len(kinds), 20))
    for kind in set(kinds) & set(WITH_PAIRS):
        check(features, weight, bias, kind, pairs=True, splits=1)


@pytest.mark.parametrize("pairs", [False, True])
def test_an_infinite_feature_gives_what_the_product_gives(pairs: bool) -> None:
    # 17 classes: 15 columns of the second tile are no class, and must not make NaN of inf * 0.
    features, weight, bias = head(18, 8, 17)
    features[4, 1] = INF
    weight[:, 1] = -weight[:, 1].abs()
    (got,) = check(features, weight, bias, "gap", pairs=pairs)
    assert got[4] == 0.0
    weight[3, 1] = 1.0
    (got,) = check(features, weight, bias, "gap", pairs=pairs)
    assert got[4] == INF
    weight[3, 1] = 0.0
    (got,) = check(features, weight, bias, "gap", pairs=pairs)
    assert got.isnan().tolist() == [row == 4 for row in range(18)]


@pytest.mark.parametrize("kinds", [("label",), LABELLED + UNLABELLED], ids="+".join)
@pytest.mark.parametrize("splits", [1, 2])
def test_labels_out_of_range_make_only_their_rows_nan(splits: int, kinds: Sequence[str]) -> None:
    features, weight, bias = head(12, 8, 20)
    labels = labels_for(torch.empty(12, 20))
    want = check(features, weight, bias, kinds, labels=labels, splits=splits)
    bad = torch.tensor([3, 7, 11])
    labels[bad] = torch.tensor([20, -100, 2**40])
    got = check(features, weight, bias, kinds, labels=labels, splits=splits)
    for kind, one, other in zip(kinds_of(mask_of(kinds)), got, want, strict=True):
        if kind in LABELLED_KINDS:
            assert one[bad].isnan().all()
            one[bad] = other[bad]
        assert oracle.same_bits(one, other)
    widths, _ = linear.linear_scores(
        features, weight, bias, labels, None, [3, 8], mask_of(kinds), False, splits=splits
    )
    for kind, scores in zip(kinds_of(mask_of(kinds)), widths, strict=True):
        rows = torch.isin(torch.arange(12), bad) & (kind in LABELLED_KINDS)
        assert torch.equal(scores.isnan(), rows.expand(2, 12))


@pytest.mark.parametrize("splits", [1, 2])
def test_pairs_of_labels_out_of_range_name_a_class(splits: int) -> None:
    features, weight, bias = head(20, 8, 20)
    labels = labels_for(torch.empty(20, 20))
    bad = torch.tensor([3, 11, 19])
    operands = None, [8], BIT["label"], True
    _, want = linear.linear_scores(features, weight, bias, labels, *operands, splits=splits)
    wrong = labels.clone()
    wrong[bad] = torch.tensor([20, -1, 2**40])
    _, pairs = linear.linear_scores(features, weight, bias, wrong, *operands, splits=splits)
    assert pairs[bad, 0].tolist() == [19, 0, 19]
    kept = ~torch.isin(torch.arange(20), bad)
    assert torch.equal(pairs[kept], want[kept])


def test_labels_with_a_stride() -> None:
    features, weight, bias = head(12, 8, 9)
    labels = torch.stack([torch.full((12,), -1), labels_for(torch.empty(12, 9))], 1)[:, 1]
    check(features, weight, bias, "label", labels=labels, pairs=True)
    check(features, weight, bias, TRAINING, labels=labels)


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
    features, weight, bias = head(9, 6, 5)
    check(features[:1].expand(9, 6), weight, bias[:1].expand(5), "label", pairs=True)
    check(features, weight[:, :1].expand(5, 6), bias, "label", pairs=True)
    (got,) = check(features, weight[:1].expand(5, 6), None, "gap", pairs=True)
    assert got.tolist() == [0.0] * 9


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
    features, weight, bias = head(5, 33, 18 if splits > 1 else 13, dtype)
    labels = labels_for(torch.empty(5, len(weight)))
    mask = mask_of(kinds)
    got, pairs = linear.linear_scores(
        features, weight, bias, labels, None, widths, mask, False, chosen=SMALL, splits=splits
    )
    assert got.shape == (len(kinds), len(widths), 5)
    assert pairs.shape == (0, 2)
    for place, width in enumerate(widths):
        z = oracle.linear(oracle.array(features), oracle.array(weight), oracle.array(bias), width)
        for kind, scores in zip(kinds_of(mask), got[:, place], strict=True):
            oracle.check(scores, want_of(z, kind, labels.numpy(), None), ulps=64, floor=1.0)


@pytest.mark.parametrize("kinds", [("label",), LABELLED + UNLABELLED], ids="+".join)
def test_a_nan_past_a_width_spoils_only_the_wider(kinds: Sequence[str]) -> None:
    features, weight, bias = head(17, 30, 20)
    features[:, 20] = NAN
    labels = labels_for(torch.empty(17, 20))
    got, _ = linear.linear_scores(
        features, weight, bias, labels, None, [10, 20, 21, 30], mask_of(kinds), False
    )
    assert got.isnan().all(2).tolist() == [[False, False, True, True]] * len(kinds)
    assert not got[:, :2].isnan().any()
