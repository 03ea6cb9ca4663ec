"""The CPU kernels of every instruction set this machine has, called as the backend calls them: vectors of rows, class
blocks, labels that are no class, several kinds at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from dynams_kernels._backends.native_rows import DTYPE_NUMBER
from dynams_kernels._kinds import BIT
from kernel_inputs import labels_for, random_logits, with_specials

cpu = pytest.importorskip("dynams_kernels._cpu", reason="the CPU kernels are not built")

ISAS = cpu.supported_isas()
ALL = oracle.SCORE_KINDS
# Around the vectors' widths, and on both sides of where rows stop being read a vector at a time.
CLASSES = (2, 3, 9, 10, 16, 17, 31, 32, 33, 64, 65, 130)
STATE_BYTES = cpu.ROW_STATE_BYTES


@pytest.fixture(params=range(len(ISAS)), ids=ISAS)
def isa(request: pytest.FixtureRequest) -> int:
    place: int = request.param
    return place


def score(
    isa: int,
    x: Tensor,
    kinds: tuple[str, ...],
    labels: Tensor | None = None,
    *,
    distances: Tensor | None = None,
    bias: Tensor | None = None,
    block: int | None = None,
) -> dict[str, Tensor]:
    """The kernel's scores of contiguous logits, in blocks of `block` classes (None: whole rows)."""
    rows, classes = x.shape
    kinds = tuple(sorted(kinds, key=BIT.__getitem__))
    out = torch.full((len(kinds), rows), 7.0, dtype=oracle.result_dtype(x.dtype))
    states = torch.zeros(rows, STATE_BYTES, dtype=torch.uint8)
    for first in range(0, classes, block or classes):
        part = x[:, first : first + (block or classes)].contiguous()
        end = first + part.shape[1]
        shift = None if bias is None else bias[first:end].contiguous()
        cpu.row_scores(
            isa, part.data_ptr(), DTYPE_NUMBER[x.dtype], rows, part.shape[1], part.shape[1],
            0 if shift is None else shift.data_ptr(), 0 if labels is None else labels.data_ptr(),
            0 if distances is None else distances.data_ptr(), classes, sum(BIT[k] for k in kinds),
            out.data_ptr(), rows, 0, 0 if block is None else states.data_ptr(),
            first, first == 0, end == classes, 1,
        )  # fmt: skip
    return dict(zip(kinds, out, strict=True))


def check(got: dict[str, Tensor], x: Tensor, labels: Tensor) -> None:
    want = oracle.scores(oracle.array(x), tuple(got), labels.numpy())
    for kind, values in got.items():
        exact = kind in ("gap", "label")
        oracle.check(values, want[kind], ulps=0 if exact else 32, floor=0.0 if exact else 1.0)


def mixed(rows: int, classes: int, dtype: torch.dtype) -> Tensor:
    """Ordinary rows, and among them rows of ties, of infinities and with NaN."""
    x = random_logits(rows, classes, dtype, seed=classes)
    x[1::4] = x[1::4].round()
    x[2::9] = with_specials(x[2::9], seed=classes)
    x[5] = -torch.inf
    x[7, :2] = torch.inf
    return x


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_every_kind_of_row_beside_every_other(isa: int, dtype: torch.dtype) -> None:
    for classes in CLASSES:
        x = mixed(37, classes, dtype)
        y = labels_for(x)
        check(score(isa, x, ALL, y), x, y)
        check(score(isa, x, ("gap",)), x, y)


def sub_batches() -> Iterator[slice]:
    for begin in range(18):
        for size in (1, 3, 4, 8, 9, 16, 17):
            yield slice(begin, begin + size)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_a_rows_scores_do_not_depend_on_its_neighbours(isa: int, dtype: torch.dtype) -> None:
    for classes in (3, 33, 65):
        x = mixed(37, classes, dtype)
        y = labels_for(x)
        together, gap = score(isa, x, ALL, y), score(isa, x, ("gap",))["gap"]
        for rows in sub_batches():
            apart = score(isa, x[rows], ALL, y[rows])
            differing = [k for k in ALL if not oracle.same_answer(apart[k], together[k][rows])]
            assert differing == [], (classes, rows)
            assert oracle.same_answer(score(isa, x[rows], ("gap",))["gap"], gap[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scores_keep_their_digits_from_certain_to_undecided_rows(
    isa: int, dtype: torch.dtype
) -> None:
    # Of two classes every score is a function of their difference; an error is measured against the score itself.
    rise = torch.logspace(-6, 1.1, 500, dtype=torch.float64).to(dtype)
    x = torch.stack([rise, torch.zeros_like(rise)], 1)
    y = torch.zeros(len(x), dtype=torch.int64)
    got = score(isa, x, ALL, y)
    # Written so that nothing cancels, as it would in the definitions.
    gap = oracle.array(rise)
    rest = np.exp(-gap) / (1 + np.exp(-gap))
    want = {
        "probability": np.tanh(gap / 2),
        "loss": np.log1p(np.exp(-gap)),
        "el2n": np.sqrt(2) * rest,
        "entropy": np.log1p(np.exp(-gap)) + gap * rest,
        "confidence": rest,
    }
    for kind, expected in want.items():
        oracle.check(got[kind], expected, ulps=6)


@pytest.mark.parametrize("block", [None, 1, 5, 16, 70])
def test_a_label_that_is_no_class_makes_its_scores_nan_and_no_others(
    isa: int, block: int | None
) -> None:
    for classes in (10, 70, 130):
        x = random_logits(20, classes, seed=classes)
        right = labels_for(x)
        wrong = torch.tensor([-1, -100, classes, classes + 1, -(2**63), 2**63 - 1, 2**32, -(2**32)])
        y = right.clone()
        y[::3][: len(wrong)] = wrong[: len(y[::3])]
        is_wrong = y != right
        got = score(isa, x, ALL, y, block=block)
        want = oracle.scores(oracle.array(x), ALL, right.numpy())
        for kind in ALL:
            expected = want[kind]
            if kind in oracle.LABEL_KINDS:
                expected = np.where(is_wrong.numpy(), np.nan, expected)
            oracle.check(got[kind], expected, ulps=32, floor=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_class_blocks_and_a_bias_score_as_the_whole_row(isa: int, dtype: torch.dtype) -> None:
    for classes, block in [(10, None), (33, None), (130, None), (33, 8), (70, 1), (130, 64)]:
        x = mixed(37, classes, dtype)
        y = labels_for(x)
        bias = None if dtype == torch.bfloat16 else random_logits(1, classes, dtype, seed=1)[0]
        check(score(isa, x, ALL, y, bias=bias, block=block), x if bias is None else x + bias, y)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_distance_among_other_kinds(isa: int, dtype: torch.dtype) -> None:
    for classes in (10, 64, 130):
        x = mixed(37, classes, dtype)
        y = labels_for(x)
        corners = random_logits(classes, 3, seed=2)
        distances = torch.cdist(corners, corners)
        got = score(isa, x, ("distance", *ALL), y, distances=distances)
        largest = torch.finfo(oracle.result_dtype(dtype)).max
        want = oracle.margin(
            oracle.array(x), "distance", class_distances=oracle.array(distances), largest=largest
        )
        oracle.check(got.pop("distance"), want, ulps=4)
        check(got, x, y)
