"""dk.linear_scores over tiles of logits: as exact as torch's own layer and softmax, wherever tiles begin and end."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
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
from dynams_kernels._backends.tile_plan import TilePlan, plan_tiles
from kernel_inputs import random_head

INF, NAN = math.inf, math.nan
KINDS = oracle.SCORE_KINDS


def head(
    rows: int, size: int, classes: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, weight, bias, and labels that stand in every part of the classes; each seventh is ignored."""
    features, weight, bias = random_head(rows, size, classes, dtype, seed=seed, scale=2.0)
    labels = (torch.arange(rows) * max(1, classes // max(1, rows)) + seed) % classes
    return features, weight, bias, labels


def wanted(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, width: int | None = None
) -> dict[str, oracle.Array]:
    b = None if bias is None else oracle.array(bias)
    z = oracle.linear(oracle.array(features), oracle.array(weight), b, width)
    return oracle.scores(z, KINDS, labels.numpy())


def of_torch(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, width: int | None = None
) -> dict[str, oracle.Array]:
    """F.linear at the dtype of its inputs, then the scores without any further error."""
    x, w = features[:, :width].contiguous(), weight[:, :width].contiguous()
    return oracle.scores(oracle.array(F.linear(x, w, bias)), KINDS, labels.numpy())


def compare(got: dict[str, Tensor], want: Any, torchs: Any, dtype: torch.dtype) -> None:
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert list(got) == list(KINDS)
    for kind, scores in got.items():
        assert scores.dtype == oracle.result_dtype(dtype)
        finite = np.isfinite(want[kind])
        values = oracle.array(scores)
        assert (np.isnan(values) == np.isnan(want[kind])).all(), kind
        size = max(1.0, float(np.abs(want[kind][finite]).max(initial=0.0)))
        error = oracle.worst(scores, want[kind])
        allowed = 1.25 * oracle.worst(torchs[kind], want[kind]) + 16 * eps * size
        assert error <= allowed, f"{kind}: error {error:.3g}, torch's own with slack {allowed:.3g}"


def check(rows: int, size: int, classes: int, dtype: torch.dtype, *, biased: bool = True) -> None:
    features, weight, bias, labels = head(rows, size, classes, dtype)
    operands = (features, weight, bias if biased else None, labels)
    got = dk.linear_scores(features, weight, KINDS, operands[2], labels=labels)
    compare(got, wanted(*operands), of_torch(*operands), dtype)


def plan(rows: int, size: int, classes: int) -> TilePlan:
    found = plan_tiles(rows, classes, size, 4, whole_rows=False)
    assert found is not None
    return found


# One block of rows and many tiles; blocks of several tiles; blocks of one.
SHAPES = [(40, 32, 27_000), (970, 24, 1100), (7100, 20, 150)]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "size", "classes"), SHAPES)
def test_error_is_no_larger_than_torchs_own(
    rows: int, size: int, classes: int, dtype: torch.dtype
) -> None:
    check(rows, size, classes, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_150_thousand_classes(dtype: torch.dtype) -> None:
    found = plan(8, 16, 150_000)
    assert found.runs > 8, "the classes are the only work to share"
    check(8, 16, 150_000, dtype)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_classes_and_rows_around_the_borders_of_tiles(beyond: int) -> None:
    rows, size, classes = SHAPES[1]
    found = plan(rows, size, classes)
    check(rows + 100, size, 2 * found.classes + beyond, torch.float32, biased=False)
    check(4 * found.rows + beyond, size, classes, torch.float32)


def test_the_label_and_the_largest_may_stand_in_any_tile() -> None:
    rows, classes = 64, 40_000
    found = plan(rows, 64, classes)
    assert found.runs > 4
    weight = torch.zeros(classes, 64)
    # Row i is large in two classes at the borders of tile i, and tied with another in the last tile.
    features = torch.eye(64)
    for row in range(rows):
        border = min((row % found.tiles + 1) * found.classes, classes - 1)
        weight[border - 1, row], weight[border, row] = 3.0 + row % 3, 4.0
        if row % 4 == 0:
            weight[-1, row] = 4.0
    labels = torch.arange(rows) * 617 % classes
    z = oracle.array(features) @ oracle.array(weight).T
    labels[1::2] = torch.from_numpy(z.argmax(1)[1::2])
    got = dk.linear_scores(features, weight, KINDS, labels=labels)
    for kind, want in oracle.scores(z, KINDS, labels.numpy()).items():
        oracle.check(got[kind], want, ulps=64, floor=1.0 if kind == "entropy" else 2.0**-14)
    margins = dk.linear_margin(features.requires_grad_(), weight)
    order = np.argsort(-z, axis=1, kind="stable")[:, :2]
    grad = torch.autograd.grad(margins.sum(), features)[0]
    pair = torch.from_numpy(order)
    assert torch.equal(grad, weight[pair[:, 0]] - weight[pair[:, 1]])


@pytest.mark.parametrize("place", [0, 700, 15_000, 29_999])
def test_not_a_number_and_infinities_in_any_tile(place: int) -> None:
    features, weight, bias, labels = head(40, 32, 30_000, torch.float32)
    features[3, 5] = NAN
    bias[place] = INF
    got = dk.linear_scores(features, weight, KINDS, bias, labels=labels)
    want = wanted(features, weight, bias, labels)
    for kind in KINDS:
        values = oracle.array(got[kind])
        assert (np.isnan(values) == np.isnan(want[kind])).all(), kind
        assert (np.isinf(values) == np.isinf(want[kind])).all(), kind
    bias[place] = NAN
    spoilt = dk.linear_scores(features, weight, KINDS, bias, labels=labels)
    assert all(bool(scores.isnan().all()) for scores in spoilt.values())


def test_classes_masked_by_minus_infinity_up_to_whole_tiles() -> None:
    features, weight, bias, labels = head(40, 32, 30_000, torch.float32)
    bias[:20_000] = -INF
    labels = 20_000 + labels % 10_000
    got = dk.linear_scores(features, weight, KINDS, bias, labels=labels)
    rest = (features, weight[20_000:], bias[20_000:], labels - 20_000)
    compare(got, wanted(*rest), of_torch(*rest), torch.float32)
    none = dk.linear_scores(features, weight, ["gap", "confidence"], torch.full((30_000,), -INF))
    assert none["gap"].tolist() == [0.0] * 40
    oracle.check(none["confidence"], np.full(40, 1 - 1 / 30_000), ulps=4)


def test_an_ignored_label_is_not_a_number_in_its_scores_alone() -> None:
    features, weight, bias, labels = head(40, 32, 30_000, torch.float32)
    ignored = labels.clone()
    ignored[::7] = -100
    got = dk.linear_scores(features, weight, KINDS, bias, labels=ignored)
    want = dk.linear_scores(features, weight, KINDS, bias, labels=labels)
    for kind in KINDS:
        expected = want[kind].clone()
        if kind in oracle.LABEL_KINDS:
            expected[::7] = NAN
        assert oracle.same_answer(got[kind], expected), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "size", "classes"), [(40, 48, 27_000), (970, 33, 1100)])
def test_several_widths_share_their_tiles(
    rows: int, size: int, classes: int, dtype: torch.dtype
) -> None:
    features, weight, bias, labels = head(rows, size, classes, dtype)
    widths = [16, size // 2 + 1, size]
    found = dk.linear_scores(features, weight, KINDS, bias, width=widths, labels=labels)
    for nth, width in enumerate(widths):
        operands = (features, weight, bias, labels, width)
        at_width = {kind: scores[nth] for kind, scores in found.items()}
        compare(at_width, wanted(*operands), of_torch(*operands), dtype)


def test_distances_among_other_scores_take_whole_rows() -> None:
    features, weight, bias, labels = head(3000, 12, 600, torch.float32)
    got = dk.linear_scores(features, weight, ["distance", "entropy"], bias, labels=labels)
    z = oracle.linear(oracle.array(features), oracle.array(weight), oracle.array(bias))
    apart = oracle.class_distances(oracle.array(weight))
    oracle.check(got["distance"], oracle.margin(z, "distance", None, apart), ulps=64, floor=1.0)
    oracle.check(got["entropy"], oracle.scores(z, ["entropy"])["entropy"], ulps=64)


@given(
    rows=st.integers(1, 200_000),
    classes=st.integers(2, 300_000),
    size=st.integers(1, 8192),
    element_size=st.sampled_from([2, 4, 8]),
    whole_rows=st.booleans(),
)
def test_tiles_cover_the_logits_and_are_small(
    rows: int, classes: int, size: int, element_size: int, whole_rows: bool
) -> None:
    found = plan_tiles(rows, classes, size, element_size, whole_rows)
    if found is None:
        assert rows * classes <= 1 << 20
        return
    blocks = [found.rows_of(block) for block in range(found.blocks)]
    assert [begin for begin, _ in blocks] == [0, *(end for _, end in blocks[:-1])]
    assert blocks[-1][1] == rows
    assert all(begin < end <= begin + found.rows for begin, end in blocks)
    assert [tile for run in range(found.runs) for tile in found.tiles_of(run)] == list(
        range(found.tiles)
    )
    assert all(len(found.tiles_of(run)) > 0 for run in range(found.runs))
    assert (found.tiles - 1) * found.classes < classes <= found.tiles * found.classes
    assert not whole_rows or found.tiles == 1
    assert found.rows * found.classes <= (1 << 20) + 16 * found.classes
    # What is remembered of the rows of all runs is no more than a few tiles.
    assert found.runs == 1 or found.runs * rows <= 1 << 18


def results(shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    features, weight, bias, labels = head(*shape, dtype)
    return list(dk.linear_scores(features, weight, KINDS, bias, labels=labels).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(
    shape: tuple[int, int, int], dtype: torch.dtype, threads: Callable[[int], None]
) -> None:
    threads(1)
    want = results(shape, dtype)
    for count in (2, 3, 4):
        threads(count)
        assert all(map(oracle.same_bits, results(shape, dtype), want)), count


def test_calls_from_several_python_threads() -> None:
    want = results(SHAPES[1], torch.float32)
    found: list[list[Tensor]] = []
    callers = [
        threading.Thread(target=lambda: found.append(results(SHAPES[1], torch.float32)))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(found) == 3
    assert all(all(map(oracle.same_bits, got, want)) for got in found)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_operands_made_in_any_mode(mode: Callable[[], Any], threads: Callable[[int], None]) -> None:
    threads(3)
    want = results(SHAPES[1], torch.float32)
    with torch.inference_mode():
        features, weight, bias, labels = head(*SHAPES[1], torch.float32)
    with mode():
        got = dk.linear_scores(features, weight, KINDS, bias, labels=labels)
    assert all(map(oracle.same_bits, got.values(), want))
    features, weight, bias, labels = head(*SHAPES[1], torch.float32)
    with torch.no_grad():
        got = dk.linear_scores(
            features.requires_grad_(), weight.requires_grad_(), KINDS, bias, labels=labels
        )
    assert all(map(oracle.same_bits, got.values(), want))


class TestTeam:
    """A function called in every thread of a team."""

    @pytest.fixture
    def call_in_team(self) -> Callable[[Callable[[], object], int], None]:
        module = pytest.importorskip("dynams_kernels._cpu")
        call: Callable[[Callable[[], object], int], None] = module.call_in_team
        return call

    def test_it_runs_once_in_each_thread(self, call_in_team: Any) -> None:
        seen: list[int] = []
        call_in_team(lambda: seen.append(threading.get_ident()), 3)
        assert len(seen) == len(set(seen)) == 3
        assert threading.get_ident() in seen

    @pytest.mark.parametrize("culprit", ["caller", "other", "all"])
    def test_an_exception_of_any_thread_reaches_the_caller(
        self, culprit: str, call_in_team: Any
    ) -> None:
        caller = threading.get_ident()
        done: list[int] = []

        def work() -> None:
            if culprit == "all" or (culprit == "caller") == (threading.get_ident() == caller):
                raise KeyboardInterrupt("stop")
            done.append(1)

        with pytest.raises(KeyboardInterrupt, match="stop"):
            call_in_team(work, 2)
        assert len(done) == (0 if culprit == "all" else 1)
        call_in_team(lambda: done.append(2), 2)
        assert done[-2:] == [2, 2]


NO_TEAM = """
import os, signal, torch
import dynams_kernels as dk
torch.set_num_threads(2)
torch.manual_seed(0)
f, w = torch.randn(600, 64), torch.randn(3000, 64)
want = dk.linear_margin(f, w)
child = os.fork()
if child == 0:
    # Torch's own pool does not survive a fork: its loaders' workers run on one thread.
    signal.alarm(60)
    torch.set_num_threads(1)
    os._exit(0 if torch.equal(dk.linear_margin(f, w), want) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.equal(dk.linear_margin(f, w), want))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_no_team_and_the_same_bits() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", NO_TEAM],
        env=env, cwd=os.path.dirname(__file__), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "True"], done.stderr
