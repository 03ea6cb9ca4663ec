"""Every kernel that could serve a linear head, forced by its name on a GPU: against float64, twice, beside rows of NaN, and in a graph."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import oracle
from cuda_calls import captured, same, spoil
from dynams_kernels._backends import registry
from dynams_kernels._backends.linear_choice import CANDIDATES, HOPPER_TILES, Candidate
from dynams_kernels._kinds import LABELLED_KINDS, LOGSUMEXP, kinds_of, mask_of
from kernel_inputs import random_head

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

DEVICE = "cuda"
INF, NAN = math.inf, math.nan
HOPPER = tuple(HOPPER_TILES)
# Most rows whose reference is computed.
CHECKED_ROWS = 48
SUMS = (*oracle.SCORE_KINDS, LOGSUMEXP)
ASKED: tuple[tuple[str, ...], ...] = (("gap",), ("label",), ("probability",), ("loss", "entropy", "gap"), SUMS)  # fmt: skip
ALONE, TOGETHER = ("gap",), SUMS
# Rows, width, columns of the weight that the width leads, classes: one row; tiles that end anywhere in rows, classes and
# width; more tiles than any GPU has multiprocessors; classes by the ten thousand.
SHAPES = (
    (1, 64, 64, 1000),
    (130, 72, 72, 2),
    (127, 64, 64, 257),
    (127, 250, 1024, 1100),
    (1000, 1024, 1024, 1000),
    (1000, 250, 1024, 5000),
    (5003, 200, 256, 1100),
    (300, 64, 64, 20_011),
)
Operands = tuple[Tensor, Tensor, "Tensor | None", "Tensor | None"]  # features, weight, bias, labels


every_candidate = pytest.mark.parametrize("candidate", CANDIDATES)
# The others are what test_cuda_linear.py is about, and Triton's compiler takes a GPU's lent time.
untried_candidates = pytest.mark.parametrize("candidate", [*HOPPER, "triton descriptors"])
# Triton's kernels differ by no more than the type of what they load.
and_float16 = pytest.mark.parametrize(
    ("candidate", "dtype"),
    [(name, torch.bfloat16) for name in CANDIDATES] + [(name, torch.float16) for name in HOPPER],
    ids=str,
)


def head(
    shape: tuple[int, int, int, int], dtype: torch.dtype, *, biased: bool = True, seed: int = 0
) -> Operands:
    """Logits of the order of two, from leading columns; of the labels some are ignored, and some are no class."""
    rows, width, columns, classes = shape
    scale = 2 * math.sqrt(columns / width)
    features, weight, some = random_head(rows, columns, classes, dtype, seed=seed, scale=scale)
    # What lies past the width must not be read.
    features[:, width:], weight[:, width:] = NAN, NAN
    bias = some if biased else None
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    for place, outside in enumerate((-100, -1, classes, 2**40)):
        labels[5 + place :: 11] = outside
    moved = [t if t is None else t.to(DEVICE) for t in (features, weight, bias, labels)]
    return moved[0][:, :width], moved[1][:, :width], moved[2], moved[3]  # type: ignore[index, return-value]


def served(candidate: Candidate, operands: Operands, kinds: Sequence[str]) -> bool:
    features, weight = operands[:2]
    about = (features, weight, [features.shape[1]], mask_of(kinds), False)
    return candidate in registry.gpu.serves(features.get_device()).linear_candidates(*about)


def scores(candidate: Candidate, operands: Operands, kinds: Sequence[str]) -> dict[str, Tensor]:
    """The candidate's scores by kind; the test is skipped where it cannot serve."""
    if not served(candidate, operands, kinds):
        pytest.skip(f"{candidate} cannot serve these operands here")
    features, weight, bias, labels = operands
    used = labels if LABELLED_KINDS.intersection(kinds) else None
    rest = ([features.shape[1]], mask_of(kinds), False)
    found, _pairs = registry.gpu.linear_scores(
        features, weight, bias, used, None, *rest, by=candidate
    )
    assert found.shape == (len(kinds), 1, len(features))
    return dict(zip(kinds_of(mask_of(kinds)), found[:, 0], strict=True))


def some_rows(batch: int) -> Tensor:
    """The first and the last of tiles, those around labels that are no class, and some between."""
    if batch <= CHECKED_ROWS:
        return torch.arange(batch)
    generator = torch.Generator().manual_seed(batch)
    some = torch.randperm(batch, generator=generator)[: CHECKED_ROWS - 12]
    edges = torch.tensor([0, 1, 5, 6, 7, 8, 63, 64, 127, 128, batch - 2, batch - 1])
    return torch.cat([some, edges[edges < batch]])


def check(found: dict[str, Tensor], operands: Operands) -> None:
    """Asserts that scores err no more than those of torch's own product of these operands."""
    features, weight, bias, labels = operands
    rows = some_rows(len(features)).to(features.device)
    picked = features[rows]
    assert labels is not None
    own = labels[rows].cpu().numpy()
    # In float64 by torch: NumPy's product would take the test's time.
    wide = None if bias is None else bias.double()
    exact = oracle.array(F.linear(picked.double(), weight.double(), wide))
    kinds = tuple(found)
    want = oracle.scores(exact, kinds, own)
    torchs = oracle.scores(oracle.array(F.linear(picked, weight, bias)), kinds, own)
    # Tensor cores add sixteen products at a time, and cut off where they do.
    walk = (16 + features.shape[1] / 8) * torch.finfo(torch.float32).eps
    for kind, got in found.items():
        assert got.dtype == torch.float32
        values = oracle.array(got[rows])
        assert np.array_equal(np.isnan(values), np.isnan(want[kind])), f"{kind}: NaN elsewhere"
        size = max(1.0, float(np.abs(want[kind][np.isfinite(want[kind])]).max(initial=0.0)))
        error, allowed = oracle.worst(values, want[kind]), oracle.worst(torchs[kind], want[kind])
        assert error <= 1.25 * allowed + walk * size, (
            f"{kind}: error {error:.3g}, torch's own {allowed:.3g}"
        )


def litter() -> None:
    """Leaves memory full of ones for the next call to find: scratch that it forgets to clear would show."""
    spoil([torch.empty(size, dtype=torch.uint8, device=DEVICE) for size in (2048, 1 << 18, 1 << 23)], 0xFF)  # fmt: skip


# ------------------------------------------------------------------------------------ who is there


def test_on_hopper_its_kernels_serve_gaps_and_sums() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("no GPU of compute capability 9.0")
    module = pytest.importorskip("dynams_kernels._cuda")
    if module.HOPPER:
        pytest.skip(module.HOPPER)
    operands = head((300, 256, 256, 1000), torch.bfloat16)
    assert all(served(candidate, operands, ALONE) for candidate in HOPPER)
    assert all(served(candidate, operands, SUMS) for candidate in HOPPER)


def test_plain_torch_and_triton_serve_every_head() -> None:
    operands = head((70, 33, 33, 10), torch.bfloat16)
    assert served("eager", operands, SUMS)
    if importlib.util.find_spec("triton") is not None:
        assert served("triton pointers", operands, SUMS)


# ------------------------------------------------------------------------------------ how exact


@every_candidate
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_as_exact_as_torchs_own_twice_alike(
    shape: tuple[int, int, int, int], candidate: Candidate
) -> None:
    place = SHAPES.index(shape)
    dtype = torch.float16 if place % 3 == 2 else torch.bfloat16
    operands = head(shape, dtype, biased=place % 2 == 0)
    able = [kinds for kinds in (ALONE, TOGETHER) if served(candidate, operands, kinds)]
    for kinds in able:
        found = scores(candidate, operands, kinds)
        check(found, operands)
        for _ in range(2):
            litter()
            again = scores(candidate, operands, kinds)
            assert same(list(found.values()), list(again.values())), kinds
    if not able:
        pytest.skip(f"{candidate} cannot serve these operands here")


@and_float16
@pytest.mark.parametrize("kinds", ASKED, ids="+".join)
def test_every_kind_alone_and_together(
    kinds: tuple[str, ...], dtype: torch.dtype, candidate: Candidate
) -> None:
    for biased in (False, True):
        operands = head((513, 136, 136, 1000), dtype, biased=biased)
        check(scores(candidate, operands, kinds), operands)


@untried_candidates
def test_operands_that_start_anywhere_are_served_rightly_or_not_at_all(
    candidate: Candidate,
) -> None:
    features, weight, bias, labels = head((130, 64, 80, 300), torch.bfloat16)

    def past(tensor: Tensor, by: int) -> Tensor:
        flat = tensor.new_full((tensor.numel() + by,), NAN)
        return flat[by:].view(tensor.shape).copy_(tensor)

    moved = [
        (past(features, 1), weight),
        (features, past(weight, 1)),
        (past(features, 8), past(weight, 8)),
        (features.t().contiguous().t(), weight),
        (features, weight.t().contiguous().t()),
        (features.new_full((390, 64), NAN)[1::3].copy_(features), weight),
    ]
    for f, w in moved:
        for kinds in (ALONE, TOGETHER):
            operands = (f, w, bias, labels)
            if served(candidate, operands, kinds):
                check(scores(candidate, operands, kinds), operands)


# ------------------------------------------------------------------------------------ special values


def biases(classes: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """None of note; the least and the largest infinite; two infinite; all the least; NaN."""
    places = ({}, {0: -INF}, {classes - 1: INF}, {0: INF, classes - 1: INF}, {classes // 2: NAN})
    for given in places:
        bias = torch.zeros(classes, dtype=dtype)
        for place, value in given.items():
            bias[place] = value
        yield bias
    yield torch.full((classes,), -INF, dtype=dtype)


@and_float16
@pytest.mark.parametrize("classes", [2, 129, 257, 1000, 5003])
def test_ties_infinities_and_nan_where_logits_come_out_exactly(
    classes: int, dtype: torch.dtype, candidate: Candidate
) -> None:
    # One feature a row is 1, the others 0: the logits are the weight's columns, whole numbers full of ties, and the bias.
    rows = 64
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randint(-9, 9, (classes, rows), generator=generator).to(dtype)
    features, labels = torch.eye(rows, dtype=dtype), torch.arange(rows) % classes
    labels[3] = -100
    for bias in biases(classes, dtype):
        logits = oracle.array(weight.T) + oracle.array(bias)
        operands = tuple(t.to(DEVICE) for t in (features, weight, bias, labels))
        for kinds in (ALONE, TOGETHER):
            if kinds == TOGETHER and not served(candidate, operands, kinds):
                continue
            found = scores(candidate, operands, kinds)
            want = oracle.scores(logits, kinds, labels.numpy())
            for kind, got in found.items():
                exact = kind in ("gap", "label")
                oracle.check(got, want[kind], ulps=0 if exact else 256, floor=0 if exact else 8)


@untried_candidates
@pytest.mark.parametrize("kinds", [ALONE, TOGETHER], ids="+".join)
def test_rows_that_are_not_finite_spoil_no_others(
    kinds: tuple[str, ...], candidate: Candidate
) -> None:
    features, weight, bias, labels = head((300, 64, 64, 1000), torch.bfloat16)
    labels = torch.zeros(300, dtype=torch.int64, device=DEVICE)
    want = scores(candidate, (features, weight, bias, labels), kinds)
    features = features.clone()
    features[[0, 5, 127, 128, 299]] = NAN
    features[100] = INF
    found = scores(candidate, (features, weight, bias, labels), kinds)
    spoilt = torch.zeros(300, dtype=torch.bool, device=DEVICE)
    spoilt[[0, 5, 100, 127, 128, 299]] = True
    for kind in kinds:
        assert torch.equal(found[kind].isnan(), spoilt), kind
        assert oracle.same_bits(found[kind][~spoilt], want[kind][~spoilt]), kind


# ------------------------------------------------------------------------------------ how it is called


@untried_candidates
@pytest.mark.parametrize("kinds", [ALONE, TOGETHER], ids="+".join)
def test_a_graph_scores_what_its_inputs_hold_when_it_is_replayed(
    kinds: tuple[str, ...], candidate: Candidate
) -> None:
    shape = (1500, 256, 256, 1100)
    static = head(shape, torch.bfloat16)
    scores(candidate, static, kinds)  # compilation, or a skip
    graph, out = captured(lambda: list(scores(candidate, static, kinds).values()))
    for seed in (10, 20):
        fresh = head(shape, torch.bfloat16, seed=seed)
        for there, here in zip(static, fresh, strict=True):
            there.copy_(here)  # type: ignore[union-attr, arg-type]
        for _ in range(2):
            spoil(out, 0xAB)
            graph.replay()
            torch.cuda.synchronize()
            check(dict(zip(kinds_of(mask_of(kinds)), out, strict=True)), fresh)


@untried_candidates
@pytest.mark.parametrize("kinds", [ALONE, TOGETHER], ids="+".join)
def test_memory_is_a_kibibyte_a_row_and_the_states_of_some_rows(
    kinds: tuple[str, ...], candidate: Candidate
) -> None:
    rows = 8192
    operands = head((rows, 64, 64, 20_000), torch.bfloat16)
    scores(candidate, operands, kinds)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    scores(candidate, operands, kinds)
    torch.cuda.synchronize()
    # Sums on Hopper keep a state for each tile of classes, of as many rows as this holds. The logits would be 330 MB.
    states = 64 << 20 if candidate in HOPPER and kinds == TOGETHER else 0
    assert torch.cuda.max_memory_allocated() - before <= rows * 1024 + states
