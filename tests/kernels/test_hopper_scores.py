"""The linear head's Hopper kernels against the oracle, without a GPU: their own reductions, merge and launcher run on the host."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import cuda_on_host
import hopper_on_host
import oracle
from hopper_on_host import TILE_ROWS, TILES, HostHead
from kernel_inputs import labels_for, logits, random_head, random_logits, with_specials

pytestmark = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="needs a C++ compiler on Linux"
)

INF, NAN = math.inf, math.nan
KINDS = (*oracle.SCORE_KINDS, "logsumexp")
FLOAT_MAX = torch.finfo(torch.float32).max
DTYPES = (torch.bfloat16, torch.float16)

tilings = pytest.mark.parametrize("tile", TILES)
some_tile = st.sampled_from(sorted(TILES))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HostHead:
    return hopper_on_host.build(tmp_path_factory.mktemp("hopper_on_host"))


def check(
    got: dict[str, Tensor], z: Tensor, labels: Tensor | None, bias: Tensor | None = None
) -> None:
    """Compares scores of float32 logits, all of whose sums are exact, with the oracle's."""
    exact = z.float() if bias is None else z.float() + bias.float()
    y = None if labels is None else labels.numpy()
    want = oracle.scores(oracle.array(exact), tuple(got), y, None, FLOAT_MAX)
    for kind, row in got.items():
        ulps, floor = (0.0, 0.0) if kind in ("gap", "label") else (32.0, 1.0)
        try:
            oracle.check(row, want[kind], ulps=ulps, floor=floor)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from None


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(oracle.same_answer(left[kind], right[kind]) for kind in left.keys() & right.keys())


def operands(
    rows: int, width: int, classes: int, dtype: torch.dtype, beyond: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and weight, whose rows go on with NaN past the width, bias, and labels, some of which are no classes."""
    whole = width + beyond
    scale = 2 * math.sqrt(whole / width)
    features, weight, bias = random_head(rows, whole, classes, dtype, seed=rows, scale=scale)
    features[:, width:], weight[:, width:] = NAN, NAN
    labels = labels_for(torch.empty(rows, classes), seed=rows)
    labels[::7], labels[3::11] = -100, classes
    return features[:, :width], weight[:, :width], bias, labels


def check_product(
    head: HostHead, shape: tuple[int, int, int], dtype: torch.dtype, tile: str, beyond: int = 0
) -> None:
    """Scores of a product err no more than those of torch's own in float32, and a few roundings."""
    features, weight, bias, labels = operands(*shape, dtype, beyond)
    for b in (bias, None):
        got = head.scores(features, weight, b, labels, KINDS, tile)
        wide = None if b is None else oracle.array(b)
        z = oracle.linear(oracle.array(features), oracle.array(weight), wide)
        torchs = torch.nn.functional.linear(
            features.float(), weight.float(), None if b is None else b.float()
        )
        want = oracle.scores(z, KINDS, labels.numpy())
        theirs = oracle.scores(oracle.array(torchs), KINDS, labels.numpy())
        for kind, row in got.items():
            assert (row.isnan().numpy() == np.isnan(want[kind])).all(), kind
            size = max(1.0, float(np.abs(want[kind][np.isfinite(want[kind])]).max(initial=0.0)))
            allowed = oracle.worst(theirs[kind], want[kind]) + 16 * 2.0**-23 * size
            assert oracle.worst(row, want[kind]) <= allowed, kind
        gap = head.scores(features, weight, b, None, ["gap"], tile)
        assert oracle.same_bits(gap["gap"], got["gap"])


# ------------------------------------------------------------------------------------ products


@tilings
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ragged_products_in_both_types(head: HostHead, dtype: torch.dtype, tile: str) -> None:
    for shape in ((1, 8, 2), (127, 64, 257), (129, 8, 500), (300, 24, 145)):
        check_product(head, shape, dtype, tile)
    check_product(head, (70, 250, 130), dtype, tile, beyond=6)


@tilings
def test_class_counts_about_every_border(head: HostHead, tile: str) -> None:
    columns = TILES[tile][1]
    for classes in (2, 3, 127, 128, 129, 145, 257, 500, columns - 1, columns, columns + 1):
        z = random_logits(3, classes, seed=classes)
        bias = random_logits(1, classes, torch.float16, seed=1)[0]
        labels = torch.tensor([0, classes - 1, classes // 2])
        check(head.scores_of(z, bias, labels, KINDS, tile), z, labels, bias)
        check(head.scores_of(z, None, labels, KINDS, tile), z, labels)


@tilings
def test_row_counts_about_every_border(head: HostHead, tile: str) -> None:
    for rows in (1, 7, 63, 65, 127, 128, 129, 256, 300):
        z = random_logits(rows, 40, seed=rows)
        labels = labels_for(z)
        check(head.scores_of(z, None, labels, KINDS, tile), z, labels)
        check(head.scores_of(z, None, None, ["gap"], tile), z, None)


def test_an_infinite_feature_is_lost_on_classes_that_are_none(head: HostHead) -> None:
    features, weight, bias, labels = operands(5, 8, 129, torch.bfloat16)
    features[2, 3] = INF
    weight[:, 3] = 0.25  # each logit of that row is +inf, and zeros past the classes make NaN
    z = features.float() @ weight.float().T + bias.float()
    for tile in TILES:
        got = head.scores(features, weight, bias, labels, KINDS, tile)
        assert got["gap"][2] == 0.0
        for kind, want in oracle.scores(oracle.array(z), KINDS, labels.numpy()).items():
            oracle.check(got[kind], want, ulps=64, floor=4.0)


# ------------------------------------------------------------------------------------ values


@tilings
@given(
    x=logits(max_rows=5, max_classes=600),
    seed=st.integers(0, 99),
    biased=st.booleans(),
    order_seed=st.integers(0, 5),
)
def test_special_values(
    head: HostHead, tile: str, x: Tensor, seed: int, biased: bool, order_seed: int
) -> None:
    if not len(x):
        return
    z = x.float()
    bias = torch.zeros(x.shape[1], dtype=torch.float16)
    if biased:
        bias[seed % len(bias)] = -INF
    y = labels_for(z, seed)
    y[seed % 5 :: 5] = -100 if seed % 2 else x.shape[1]
    b = bias if biased else None
    got = head.scores_of(z, b, y, KINDS, tile, order_seed=order_seed)
    check(got, z, y, b)
    gap = head.scores_of(z, b, None, ["gap"], tile, order_seed=order_seed)
    assert oracle.same_answer(gap["gap"], got["gap"])


@tilings
def test_the_label_and_the_two_largest_may_stand_at_any_place(head: HostHead, tile: str) -> None:
    # Every column of two tiles in turn is the label, the largest and the second.
    classes = TILES[tile][1] + 130
    z = random_logits(classes, classes, seed=1, scale=0.5)
    places = torch.arange(classes)
    z[places, places] = 9.0
    z[places, (places * 7 + 1) % classes] += 4.0
    for shift in (0, 1, 64):
        labels = (places + shift) % classes
        check(head.scores_of(z, None, labels, KINDS, tile), z, labels)
    check(head.scores_of(z, None, None, ["gap"], tile), z, None)
    z[places, places] = NAN
    got = head.scores_of(z, None, places, KINDS, tile)
    assert all(row.isnan().all() for row in got.values())
    assert head.scores_of(z, None, None, ["gap"], tile)["gap"].isnan().all()


@tilings
def test_rows_of_one_value(head: HostHead, tile: str) -> None:
    for classes in (2, TILES[tile][1] + 1, 500):
        values = torch.tensor([0.0, -0.0, 2.5, INF, -INF, NAN, FLOAT_MAX, -FLOAT_MAX, 1e-42])
        z = values[:, None].expand(len(values), classes)
        labels = torch.full((len(values),), classes - 1)
        got = head.scores_of(z, None, labels, KINDS, tile)
        check(got, z, labels)
        assert got["gap"].nan_to_num(7.0).tolist() == [0, 0, 0, 0, 0, 7, 0, 0, 0]


@tilings
def test_whole_tiles_of_minus_infinity(head: HostHead, tile: str) -> None:
    columns = TILES[tile][1]
    z = random_logits(4, 3 * columns, seed=3)
    z[0, :columns], z[1, columns:], z[2, : 2 * columns] = -INF, -INF, -INF
    z[3] = -INF
    z[3, columns + 5] = 1.0
    labels = torch.tensor([2 * columns, 3, 3 * columns - 1, columns + 5])
    check(head.scores_of(z, None, labels, KINDS, tile), z, labels)


@tilings
@pytest.mark.parametrize("rise", [5.0, 20.0, 40.0, 80.0])
def test_near_certainty_keeps_relative_precision(head: HostHead, tile: str, rise: float) -> None:
    classes, place = 300, TILES[tile][1] - 1
    others = (classes - 1) * math.exp(-rise)
    p = others / (1 + others)
    want = {
        "loss": math.log1p(others),
        "el2n": p * math.sqrt(1 + 1 / (classes - 1)),
        "entropy": math.log1p(others) + rise * p,
        "confidence": p,
    }
    if rise > 40:
        del want["el2n"]  # its squares are below the smallest float
    z = torch.zeros(1, classes)
    z[0, place] = rise
    got = head.scores_of(z, None, torch.tensor([place]), want, tile)
    for kind, value in want.items():
        assert math.isclose(float(got[kind][0]), value, rel_tol=40 * 2.0**-23), kind


def test_ignored_labels_make_only_their_scores_nan(head: HostHead) -> None:
    z = random_logits(8, 300)
    labels = torch.tensor([0, 300, -1, 299, 2**40, -(2**40), 3, 2**63 - 1])
    wrong = (labels < 0) | (labels >= 300)
    for tile in TILES:
        for kind, row in head.scores_of(z, None, labels, KINDS, tile).items():
            assert torch.equal(row.isnan(), wrong & (kind in oracle.LABEL_KINDS)), kind
        got = head.scores_of(z, None, None, ["gap", "probability", "entropy", "confidence"], tile)
        assert all(row.isfinite().all() for row in got.values())


# ------------------------------------------------------------------------------------ one answer


@given(x=logits(max_rows=3, max_classes=600), tile=some_tile, data=st.data())
def test_scores_do_not_depend_on_company(
    head: HostHead, x: Tensor, tile: str, data: st.DataObject
) -> None:
    if not len(x):
        return
    labels = labels_for(x)
    together = head.scores_of(x, None, labels, KINDS, tile)
    company = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, unique=True))
    assert same(head.scores_of(x, None, labels, company, tile), together)
    for kind in company[:2]:
        assert same(head.scores_of(x, None, labels, [kind], tile), together), kind


@tilings
def test_the_order_of_tiles_and_threads_changes_nothing(head: HostHead, tile: str) -> None:
    z = with_specials(random_logits(290, 700, seed=2), seed=5, share=0.001)
    labels = labels_for(z)
    scores = head.scores_of(z, None, labels, KINDS, tile)
    check(scores, z, labels)
    for seed in (1, 2, 3):
        assert same(head.scores_of(z, None, labels, KINDS, tile, order_seed=seed), scores)
        gap = head.scores_of(z, None, None, ["gap"], tile, order_seed=seed)
        assert oracle.same_answer(gap["gap"], scores["gap"])


@pytest.mark.parametrize("kinds", [KINDS, ("gap", "label"), ("loss",)], ids=len)
def test_chunks_of_rows_change_nothing(head: HostHead, kinds: tuple[str, ...]) -> None:
    # 256 rows at a time, however low the bound.
    z = random_logits(600, 300, seed=4)
    labels = labels_for(z)
    labels[5::9] = -1
    whole = head.scores_of(z, None, labels, kinds, "128x144")
    assert (head.launches, head.launched_rows) == (1, 600)
    check(whole, z, labels)
    chunks = head.scores_of(z, None, labels, kinds, "128x144", state_bytes=1)
    assert (head.launches, head.launched_rows) == (3, 256)
    assert same(chunks, whole)


def test_chunks_of_a_products_rows(head: HostHead) -> None:
    features, weight, bias, labels = operands(300, 24, 200, torch.bfloat16, beyond=8)
    whole = head.scores(features, weight, bias, labels, KINDS, "128x192")
    chunks = head.scores(features, weight, bias, labels, KINDS, "128x192", state_bytes=1)
    assert head.launches == 2
    assert same(chunks, whole)


# ------------------------------------------------------------------------------------ merging tiles


@st.composite
def rows_of_tiles(draw: st.DrawFn, columns: int) -> Tensor:
    """(2, C) logits over up to a dozen tiles, whose values are of another size in each: infinite, far apart, tied, NaN."""
    tiles = draw(st.integers(2, 12))
    seed = draw(st.integers(0, 2**20))
    z = random_logits(2, tiles * columns - draw(st.sampled_from([0, 1, columns - 1])), seed=seed)
    sizes = st.sampled_from(
        [-INF, -FLOAT_MAX, -1e30, -200.0, -15.0, 0.0, 0.0, 0.0, 15.0, 30.0, 1e30]
    )
    for row in z:
        for tile in range(tiles):
            size = draw(sizes)
            row[tile * columns : (tile + 1) * columns] += size
    # A few single logits, where they are likely to tie.
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, z.shape[1] - 1))
        z[draw(st.integers(0, 1)), place] = draw(st.sampled_from([40.0, 40.0, 2e30, INF, -INF]))
    if draw(st.integers(0, 7)) == 0:
        z[1, draw(st.integers(0, z.shape[1] - 1))] = NAN
    return z


@given(data=st.data(), tile=some_tile)
def test_tiles_merge_whatever_they_hold(head: HostHead, data: st.DataObject, tile: str) -> None:
    z = data.draw(rows_of_tiles(TILES[tile][1]))
    labels = labels_for(z, data.draw(st.integers(0, 99)))
    got = head.scores_of(z, None, labels, KINDS, tile)
    check(got, z, labels)
    for seed in data.draw(st.lists(st.integers(1, 10**6), min_size=3, max_size=3)):
        gap = head.scores_of(z, None, None, ["gap"], tile, order_seed=seed)
        assert oracle.same_answer(gap["gap"], got["gap"]), seed


# ------------------------------------------------------------------------------------ plans


@given(row_tiles=st.integers(1, 70_000), class_tiles=st.integers(1, 3000))
def test_the_largest_swizzle_that_adds_less_than_a_hundredth(
    head: HostHead, row_tiles: int, class_tiles: int
) -> None:
    def up(count: int, unit: int) -> int:
        return -(-count // unit) * unit

    needed = up(row_tiles, 2) * class_tiles

    def is_cheap(swizzle: int) -> bool:
        return (up(row_tiles, 2 * swizzle) * up(class_tiles, swizzle) - needed) * 100 < needed

    assert head.swizzle(row_tiles, class_tiles) == next(s for s in (8, 4, 2, 1) if is_cheap(s))


FLOATS_OF_STATE = {"label": 2, "loss": 3, "el2n": 4, "entropy": 4}


@given(
    rows=st.integers(1, 2**31),
    classes=st.integers(2, 2**31 - 1),
    tile=some_tile,
    kind=st.sampled_from(sorted(FLOATS_OF_STATE)),
)
def test_scratch_is_bounded(head: HostHead, rows: int, classes: int, tile: str, kind: str) -> None:
    gap = head.scratch(tile, rows, classes, ["gap"])
    assert 8 * rows < gap <= 8 * rows + 32 * -(-rows // TILE_ROWS) + 8
    row_bytes = 4 * (FLOATS_OF_STATE[kind] * -(-classes // TILES[tile][1]) + 1)
    bound = max(head.most_state_bytes, 256 * row_bytes)
    got = head.scratch(tile, rows, classes, [kind])
    assert got <= bound
    # As many rows as fit, but for what is left of a swizzle's 2048.
    assert got >= min(rows * row_bytes, bound - 2048 * row_bytes)
    assert got % row_bytes == 0


def test_the_real_bound_and_loading(head: HostHead) -> None:
    assert head.most_state_bytes == 64 << 20
    assert head.preload() == 0
