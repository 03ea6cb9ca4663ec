"""How exact the interpreted kernels of linear scores are, and what they make of ties, infinities, NaN and labels out of range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from dynams_kernels._kinds import BIT, KINDS, LABELLED_KINDS, kinds_of, mask_of
from kernel_inputs import labels_for, random_head, random_logits
from triton_linear import (
    DESCRIBED,
    LABELLED,
    SMALL,
    TRAINING,
    UNLABELLED,
    WITH_PAIRS,
    check,
    linear,
)

# The interpreter computes inf - inf and the like as NumPy does, aloud.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

INF, NAN = math.inf, math.nan
SUMS = ("probability", "loss", "el2n", "entropy", "confidence")


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


@pytest.mark.parametrize("seed", [5, 7, 11])
def test_descriptors_find_the_same_limits(seed: int) -> None:
    features, weight, bias = (each.half() for each in exact_head((2, 16, 40)[seed % 3], 6, seed))
    check(features, weight, bias, DESCRIBED, ulps=16, splits=1 + seed % 2, loads="descriptors")


def test_logits_at_the_end_of_the_range() -> None:
    # Times log2(e) they overflow, though they are finite themselves.
    most = torch.finfo(torch.float32).max
    weight = torch.tensor([-most, most, -most, most, 1.0, -most / 2]).repeat(3)[:, None]
    features = torch.tensor([[1.0], [-1.0], [0.25]])
    for some in (weight, -weight.abs(), weight[:2]):
        check(features, some, None, LABELLED + UNLABELLED, splits=2)


@pytest.mark.parametrize("kinds", [("label",), KINDS], ids="+".join)
def test_a_nan_spoils_only_its_row(kinds: Sequence[str]) -> None:
    features, weight, bias = random_head(20, 19, 17)
    bad = torch.arange(20) % 5 == 3
    features[bad, torch.arange(20)[bad] % 19] = NAN
    got = check(features, weight, bias, kinds, splits=2)
    assert torch.equal(got.isnan(), bad.expand(len(kinds), 20))
    for kind in set(kinds) & set(WITH_PAIRS):
        check(features, weight, bias, kind, pairs=True, splits=1)


@pytest.mark.parametrize(
    "how", [{"pairs": False}, {"pairs": True}, {"loads": "descriptors"}], ids=str
)
def test_an_infinite_feature_gives_what_the_product_gives(how: dict[str, Any]) -> None:
    # 17 classes: 15 columns of the second tile are no class, and must not make NaN of inf * 0.
    features, weight, bias = random_head(18, 8, 17, torch.float16)
    features[4, 1] = INF
    weight[:, 1] = -weight[:, 1].abs()
    (got,) = check(features, weight, bias, "gap", **how)
    assert got[4] == 0.0
    weight[3, 1] = 1.0
    (got,) = check(features, weight, bias, "gap", **how)
    assert got[4] == INF
    weight[3, 1] = 0.0
    (got,) = check(features, weight, bias, "gap", **how)
    assert got.isnan().tolist() == [row == 4 for row in range(18)]


@pytest.mark.parametrize("kinds", [("label",), LABELLED + UNLABELLED], ids="+".join)
@pytest.mark.parametrize("splits", [1, 2])
def test_labels_out_of_range_make_only_their_rows_nan(splits: int, kinds: Sequence[str]) -> None:
    features, weight, bias = random_head(12, 8, 20)
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
    features, weight, bias = random_head(20, 8, 20)
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
    features, weight, bias = random_head(12, 8, 9)
    labels = torch.stack([torch.full((12,), -1), labels_for(torch.empty(12, 9))], 1)[:, 1]
    check(features, weight, bias, "label", labels=labels, pairs=True)
    check(features, weight, bias, TRAINING, labels=labels)
