"""dk.linear_margin: as accurate as torch's own linear layer, slim widths, nothing read past them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional as F

import dynams_kernels as dk
import oracle
from kernel_inputs import LAYOUTS, labels_for, random_head

INF, NAN = math.inf, math.nan


def reference(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    width: int | float | None,
    kind: str,
    labels: Tensor | None,
) -> oracle.Array:
    wide = oracle.array(weight)
    z = oracle.linear(
        oracle.array(features), wide, None if bias is None else oracle.array(bias), width
    )
    y = None if labels is None else labels.cpu().numpy()
    apart = oracle.class_distances(wide, width) if kind == "distance" else None
    return oracle.margin(z, kind, y, apart)


def torch_margin(
    features: Tensor, weight: Tensor, bias: Tensor | None, kind: str, labels: Tensor | None
) -> oracle.Array:
    """F.linear at the dtype of its inputs, then the margin without any further error."""
    z = oracle.array(F.linear(features, weight, bias))
    y = None if labels is None else labels.cpu().numpy()
    apart = oracle.class_distances(oracle.array(weight)) if kind == "distance" else None
    return oracle.margin(z, kind, y, apart)


def check_linear(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    width: int | float | None = None,
    kind: str = "gap",
    alike: Tensor | None = None,
) -> Tensor:
    """Compare with float64; of features that are `alike`, torch's own error counts too: on few rows it may be small by luck."""
    labels = labels_for(features.new_empty(len(features), len(weight))).to(features.device)
    more: dict[str, Any] = {"labels": labels} if kind == "label" else {}
    got: Tensor = dk.linear_margin(features, weight, bias, width=width, kind=kind, **more)
    want = reference(features, weight, bias, width, kind, more.get("labels"))
    assert got.dtype == oracle.result_dtype(features.dtype)
    assert got.shape == features.shape[:1]
    assert got.device == features.device
    w = oracle.columns(weight.shape[1], width)
    torchs = torch_margin(
        features[:, :w].contiguous(), weight[:, :w].contiguous(), bias, kind, more.get("labels")
    )
    # A margin is a difference of two logits, each a sum whose terms round at the input's dtype at
    # worst; the floor is one such rounding of a typical logit, seen in the units of the margin.
    size = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
    eps = torch.finfo(features.dtype).eps
    # class_distances are float32 whatever the weight is.
    rounding = eps if features.dtype == torch.float64 and kind != "distance" else max(eps, 2**-23)
    slack = (4 if rounding <= 2**-23 else 0.5) * rounding * size
    if features.is_cuda and len(features):
        # A GPU's product is a walk of `w` roundings of numbers as large as the logits, by another route than torch's.
        logits = F.linear(features[:, :w].double(), weight[:, :w].double())
        largest = float(logits.nan_to_num(0.0, 0.0, 0.0).abs().max())
        slack += math.sqrt(w) * torch.finfo(got.dtype).eps * max(1.0, largest)
    both = np.isfinite(want)
    assert (np.isnan(oracle.array(got)) == np.isnan(want)).all()
    assert (oracle.array(got)[~both & ~np.isnan(want)] == want[~both & ~np.isnan(want)]).all()
    error, torchs_error = oracle.worst(got, want), oracle.worst(torchs, want)
    if alike is not None:
        more_labels = labels_for(alike.new_empty(len(alike), len(weight))).to(alike.device)
        y = more_labels if kind == "label" else None
        others = torch_margin(alike[:, :w].contiguous(), weight[:, :w].contiguous(), bias, kind, y)
        torchs_error = max(
            torchs_error,
            oracle.worst(others, reference(alike, weight, bias, width, kind, y)),
        )
    allowed = 1.25 * torchs_error + slack
    assert error <= allowed, f"error {error:.3g}, torch's own (with slack) {allowed:.3g}"
    return got


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@given(
    rows=st.integers(0, 40),
    size=st.integers(1, 70),
    classes=st.integers(2, 70),
    dtype=st.sampled_from(oracle.DTYPES),
    biased=st.booleans(),
    fraction=st.floats(0.01, 1),
    slim=st.booleans(),
    seed=st.integers(0, 999),
)
def test_error_is_no_larger_than_torchs_own(
    kind: str,
    rows: int,
    size: int,
    classes: int,
    dtype: torch.dtype,
    biased: bool,
    fraction: float,
    slim: bool,
    seed: int,
    device: str,
) -> None:
    features, weight, bias = (
        t.to(device) for t in random_head(rows, size, classes, dtype, seed=seed)
    )
    width = None if not slim else max(1, int(size * fraction))
    alike = random_head(64, size, classes, dtype, seed=1000)[0].to(device)
    check_linear(features, weight, bias if biased else None, width, kind, alike)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize(
    ("rows", "size", "classes"),
    [(255, 123, 507), (1, 1, 2), (65, 64, 10), (300, 257, 33), (7, 512, 100), (2, 40, 5003)],
)
def test_ragged_sizes(
    rows: int, size: int, classes: int, kind: str, dtype: torch.dtype, device: str
) -> None:
    if kind == "distance" and classes > 1000:
        pytest.skip("a large matrix of distances")
    features, weight, bias = (
        t.to(device) for t in random_head(rows, size, classes, dtype, seed=rows)
    )
    check_linear(features, weight, bias, None, kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_language_models_head(dtype: torch.dtype, device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(9, 64, 50257, dtype))
    for kind in ("gap", "probability", "label"):
        check_linear(features, weight, bias, None, kind)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 17, 63, 64, 65, 127, 129, 1000, 1025])
@pytest.mark.parametrize("classes", [2, 10, 31, 64, 100])
def test_ragged_batches(rows: int, classes: int, device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(rows, 21, classes, seed=rows))
    check_linear(features, weight, bias)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 7, 16, 17, 32, 33, 0.001, 0.25, 0.5, 0.984, 1.0])
def test_nothing_past_the_width_is_read(
    width: int | float, dtype: torch.dtype, kind: str, device: str
) -> None:
    features, weight, bias = random_head(20, 33, 12, dtype)
    w = oracle.columns(33, width)
    weight[:, w:] = NAN
    narrow = features[:, :w].clone()
    features[:, w:] = INF
    features, weight, bias, narrow = (t.to(device) for t in (features, weight, bias, narrow))
    got = check_linear(features, weight, bias, width, kind)
    assert not got.isnan().any()
    more = {"labels": labels_for(torch.empty(20, 12)).to(device)} if kind == "label" else {}
    again = dk.linear_margin(narrow, weight, bias, width=width, kind=kind, **more)
    assert oracle.same_bits(got, again)
    sliced = dk.linear_margin(narrow, weight[:, :w].clone(), bias, kind=kind, **more)
    oracle.check(got, oracle.array(sliced), ulps=64, floor=1.0)


@pytest.mark.parametrize(
    ("fraction", "used"),
    [(1.0, 10), (0.5, 5), (0.25, 3), (0.05, 1), (0.04, 1), (0.15, 2), (0.999, 10)],
)
def test_a_fraction_rounds_half_up_and_keeps_one_feature(
    fraction: float, used: int, device: str
) -> None:
    features, weight, bias = (t.to(device) for t in random_head(6, 10, 4))
    got = dk.linear_margin(features, weight, bias, width=fraction)
    assert oracle.same_bits(got, dk.linear_margin(features, weight, bias, width=used))


def test_width_one_is_one_feature_and_one_point_zero_is_all(device: str) -> None:
    features, weight, _ = (t.to(device) for t in random_head(6, 10, 4))
    check_linear(features, weight, None, 1)
    check_linear(features, weight, None, 1.0)
    assert not torch.equal(
        dk.linear_margin(features, weight, width=1), dk.linear_margin(features, weight, width=1.0)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_any_strides_of_features_and_weight(layout: str, dtype: torch.dtype, device: str) -> None:
    lay = LAYOUTS[layout]
    for rows, size, classes in [(40, 18, 7), (3, 5, 33), (70, 64, 64)]:
        features, weight, bias = (t.to(device) for t in random_head(rows, size, classes, dtype))
        want = dk.linear_margin(features, weight, bias)
        for f, w in [
            (lay(features), weight),
            (features, lay(weight)),
            (lay(features), lay(weight)),
        ]:
            got = check_linear(f, w, bias)
            oracle.check(got, oracle.array(want), ulps=64, floor=1.0)
            check_linear(f, w, bias, 5, "probability")


def test_expanded_features_weight_and_bias(device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(9, 6, 5))
    check_linear(features[:1].expand(9, 6), weight, bias)
    check_linear(features[:, :1].expand(9, 6), weight, bias)
    check_linear(features, weight[:, :1].expand(5, 6), bias)
    check_linear(features, weight, bias[:1].expand(5))
    check_linear(features, weight, torch.stack([bias, bias * NAN], 1)[:, 0])
    same = dk.linear_margin(features, weight[:1].expand(5, 6))
    assert same.tolist() == [0.0] * 9


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_empty_batch(dtype: torch.dtype, device: str) -> None:
    _, weight, bias = (t.to(device) for t in random_head(1, 6, 5, dtype))
    for kind in oracle.MARGIN_KINDS:
        check_linear(torch.empty(0, 6, dtype=dtype, device=device), weight, bias, None, kind)
        check_linear(torch.empty(0, 3, dtype=dtype, device=device), weight, bias, 3, kind)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_a_nan_feature_spoils_only_its_row(kind: str, dtype: torch.dtype, device: str) -> None:
    for rows, size, classes in [(67, 19, 11), (130, 33, 65), (40, 16, 10)]:
        features, weight, bias = random_head(rows, size, classes, dtype)
        bad = torch.arange(rows) % 5 == 3
        features[bad, torch.arange(rows)[bad] % size] = NAN
        features, weight, bias = (t.to(device) for t in (features, weight, bias))
        more = {"labels": labels_for(torch.empty(rows, classes)).to(device)}
        got = dk.linear_margin(
            features, weight, bias, kind=kind, **(more if kind == "label" else {})
        )
        assert torch.equal(got.isnan().cpu(), bad)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 31, 32, 33, 48, 79, 80, 100])
def test_rows_beside_one_another_are_never_mixed(
    size: int, dtype: torch.dtype, device: str
) -> None:
    # torch's bfloat16 product on CPUs with matrix tiles reads past the end of a row, times zero: NaN if that is NaN.
    features, weight, bias = (t.to(device) for t in random_head(130, size + 60, 10, dtype))
    slim = features[:, :size].clone()
    slim[5] = NAN
    alone = torch.arange(130) == 5
    assert torch.equal(dk.linear_margin(slim, weight, bias, width=size).isnan().cpu(), alone)
    widths = [size, size + 1] if size > 1 else [size]
    several = dk.linear_margin(slim, weight[:, :size], bias, width=[size])
    assert torch.equal(several[0].isnan().cpu(), alone)
    features[:, size + 1 :] = NAN
    assert not dk.linear_margin(features, weight, bias, width=size).isnan().any()
    assert not dk.linear_margin(features, weight, bias, width=widths).isnan().any()
    gradient = torch.autograd.grad(
        dk.linear_margin(features, weight.requires_grad_(), bias, width=size).sum(), weight
    )[0]
    assert not gradient.isnan().any()


def test_a_nan_in_the_head_spoils_every_row(device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(33, 8, 5))
    for place in range(5):
        w, b = weight.clone(), bias.clone()
        w[place, place], b[place] = NAN, NAN
        assert dk.linear_margin(features, w, bias).isnan().all()
        assert dk.linear_margin(features, weight, b).isnan().all()


def test_a_bias_of_minus_infinity_masks_its_class(device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(50, 8, 6))
    masked = bias.clone()
    masked[[0, 4]] = -INF
    kept = [1, 2, 3, 5]
    for kind in ("gap", "probability"):
        got = dk.linear_margin(features, weight, masked, kind=kind)
        want = reference(features, weight[kept], bias[kept], None, kind, None)
        oracle.check(got, want, ulps=64, floor=1.0)
    masked[kept[1:]] = -INF
    assert dk.linear_margin(features, weight, masked).tolist() == [INF] * 50
    masked[kept] = -INF
    assert dk.linear_margin(features, weight, masked).tolist() == [0.0] * 50
    assert dk.linear_margin(features, weight, masked, kind="probability").tolist() == [0.0] * 50


def test_infinite_logits(device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(21, 8, 6))
    high = bias.clone()
    high[2] = INF
    y = torch.arange(21, device=device) % 6
    assert dk.linear_margin(features, weight, high).tolist() == [INF] * 21
    got = dk.linear_margin(features, weight, high, kind="label", labels=y)
    assert got.tolist() == [INF if label == 2 else -INF for label in y.tolist()]
    high[5] = INF
    assert dk.linear_margin(features, weight, high).tolist() == [0.0] * 21
    # An infinite feature makes infinities of both signs, and every zero weight a NaN.
    features[4, 1] = INF
    check_linear(features, weight, bias)
    weight[3, 1] = 0.0
    assert dk.linear_margin(features, weight, bias).isnan().tolist() == [r == 4 for r in range(21)]


def test_identical_classes_tie_as_exactly_as_the_product(device: str) -> None:
    # Our own kernels add up every class alike. The CPU's product is torch's, whose last columns may be added up in
    # another order (float64 on some CPUs): there a gap of its rounding is right, and its quotient by 0 is no distance.
    for dtype in oracle.DTYPES:
        for size, classes in [(7, 3), (33, 17), (300, 70)]:
            features, weight, bias = random_head(40, size, classes, dtype)
            weight[0], bias[0] = weight[0] * 50, 0.0
            weight[-1], bias[-1] = weight[0], bias[0]
            features[:, :] = features * features.sign() * weight[0].sign()
            features, weight, bias = (t.to(device) for t in (features, weight, bias))
            logits = features @ weight.T
            tied = logits[:, 0] == logits[:, -1] if device == "cpu" else torch.full((40,), True)
            margins = dk.linear_margin(features, weight, bias).cpu()
            assert (margins[tied] == 0.0).all()
            assert (margins <= size * torch.finfo(dtype).eps * logits[:, 0].double().cpu()).all()
            apart = dk.linear_margin(features, weight, bias, kind="distance").cpu()
            assert (apart[tied] == 0.0).all()


def test_large_half_precision_logits_do_not_overflow_the_accumulation(device: str) -> None:
    # Partial sums pass float16's largest value; the logits themselves come back into range.
    features = torch.full((3, 8), 200.0, dtype=torch.float16, device=device)
    weight = torch.full((4, 8), 180.0, dtype=torch.float16, device=device)
    weight[:, 4:] *= -1
    weight[1, 0] += 20
    assert dk.linear_margin(features, weight).tolist() == [4000.0] * 3


@pytest.mark.parametrize("width", [None, 8, 0.3])
def test_distances_are_those_of_the_width(width: int | float | None, device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(60, 16, 9))
    given = dk.class_distances(weight, width=width)
    got = dk.linear_margin(features, weight, bias, width=width, kind="distance")
    again = dk.linear_margin(
        features, weight, bias, width=width, kind="distance", class_distances=given
    )
    assert oracle.same_bits(got, again)
    other = dk.linear_margin(
        features, weight, bias, width=width, kind="distance", class_distances=given * 2
    )
    oracle.check(other, oracle.array(got) / 2, ulps=2)


def test_weights_between_rows_far_apart_in_memory(
    far_storage: Callable[[torch.dtype], Tensor], device: str
) -> None:
    storage = far_storage(torch.float32)
    features, weight, bias = (t.to(device) for t in random_head(5, 12, 4))
    far = storage.as_strided((4, 12), (2**31 // 3, 1), 5)
    far.copy_(weight)
    check_linear(features, far, bias)
    check_linear(features, far, bias, 5, "distance")
    far = storage.as_strided((5, 12), (2**31 // 5, 1), 5)
    far.copy_(features)
    check_linear(far, weight, bias)


@pytest.mark.big
def test_logits_that_would_be_over_two_to_the_31_elements(device: str) -> None:
    rows, classes = 2**31 // 4096 + 77, 4096
    features, weight, bias = (t.to(device) for t in random_head(rows, 2, classes))
    got = dk.linear_margin(features, weight, bias)
    for part in (slice(0, 500), slice(rows - 500, rows)):
        want = reference(features[part], weight, bias, None, "gap", None)
        oracle.check(got[part], want, ulps=64, floor=1.0)


# ---------------------------------------------------- rows and classes past any block of the kernel


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@given(
    rows=st.integers(1, 12),
    classes=st.one_of(
        st.sampled_from([2, 1023, 1024, 1025, 2048, 2049, 3100]), st.integers(2, 4200)
    ),
    hard=st.integers(0, 6),
    levels=st.sampled_from([2, 5, 10**6]),
    seed=st.integers(0, 9999),
)
def test_logits_that_come_out_exactly_give_exact_margins(
    kind: str,
    dtype: torch.dtype,
    rows: int,
    classes: int,
    hard: int,
    levels: int,
    seed: int,
    device: str,
) -> None:
    # One feature a row is 1, the others 0: the logits are the weight's columns, ties and all, and
    # the bias puts infinities and NaN at a few classes.
    if kind == "distance":
        classes = min(classes, 1100)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-levels, levels, (classes, rows), generator=generator).to(dtype)
    bias = torch.zeros(classes, dtype=dtype)
    pool = torch.tensor([INF, -INF, -INF, -INF, INF, NAN][: 2 + hard], dtype=dtype)
    places = torch.randint(classes, (hard,), generator=generator)
    bias[places] = pool[torch.randint(len(pool), (hard,), generator=generator)]
    if seed % 7 == 0:
        bias[:-2] = -INF
    features = torch.eye(rows, dtype=dtype)
    z = oracle.linear(oracle.array(features), oracle.array(weight), oracle.array(bias))
    more: dict[str, Any] = {}
    wide: list[Any] = [None, None]
    if kind == "label":
        more["labels"] = torch.randint(classes, (rows,), generator=generator)
        wide[0] = more["labels"].numpy()
    if kind == "distance":
        points = torch.randint(0, 3, (classes, 2), generator=generator).float()
        more["class_distances"] = torch.cdist(points, points)
        wide[1] = oracle.array(more["class_distances"])
    features, weight, bias = (t.to(device) for t in (features, weight, bias))
    more = {name: t.to(device) for name, t in more.items()}
    got = dk.linear_margin(features, weight, bias, kind=kind, **more)
    ulps, floor = {"probability": (16, 1.0), "distance": (4, 0.0)}.get(kind, (0, 0.0))
    oracle.check(got, oracle.margin(z, kind, *wide), ulps=ulps, floor=floor)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize(
    ("rows", "size", "classes"), [(5003, 6, 1000), (4100, 3, 1500), (40_001, 3, 10)]
)
def test_many_rows(rows: int, size: int, classes: int, kind: str, device: str) -> None:
    if kind == "distance" and rows * classes > 10**6:
        classes = 200
    features, weight, bias = (t.to(device) for t in random_head(rows, size, classes, seed=rows))
    check_linear(features, weight, bias, None, kind)
