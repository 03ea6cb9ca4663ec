"""The GPU's row scores under sanitizers, without a GPU: the kernels' own source on the host, every thread of a block and
every block a thread to the sanitizer, which sees races of any order, stray accesses and undefined arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cuda_on_host
import oracle
import row_sanitizers
from cuda_on_host import Plan, check_scores, distances_for, split, tiles, whole
from dynams_kernels._kinds import SCORE_KINDS, mask_of
from kernel_inputs import labels_for, random_logits, with_specials
from row_sanitizers import RowCase

pytestmark = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="needs a C++ compiler on Linux"
)

ALL = mask_of(SCORE_KINDS)
DISTANCE = mask_of(("distance",))
GAP = mask_of(("gap",))
ONE_SUM = mask_of(("probability", "loss"))


def case(x: Tensor, kinds: int, plan: Plan | None, **more: int) -> RowCase:
    apart = distances_for(x.shape[1]) if kinds & DISTANCE else None
    return RowCase(x, labels_for(x), apart, kinds, plan, **more)


def every_path(dtype: torch.dtype) -> Iterator[RowCase]:
    """Every kernel, at sizes that leave the last vector, group, block and part unfilled."""
    elements = 16 // dtype.itemsize
    x = with_specials(random_logits(9, 70, dtype, seed=1), seed=1, share=0.02)
    for lanes in (8, 16, 32):
        yield case(x, ALL, whole(lanes, 70, blocks=1, turns=2), offset=1, gap=3)
    yield case(x[:, :66].contiguous(), ONE_SUM, whole(8, 66))
    long = random_logits(3, 4 * 256 * elements + 5 * elements + 1, dtype, seed=2)
    yield case(long[:2], ALL & ~DISTANCE, whole(256, long.shape[1], blocks=1), offset=elements - 1)
    yield case(long[:, :333].contiguous(), ALL, whole(256, 333, blocks=2, turns=2))
    for kinds in (ALL, GAP):  # with and without the pass over distances
        yield case(long[:, :150].contiguous(), kinds, split(64, 150, blocks=2), offset=1)
    if dtype == torch.float16:  # more parts than lanes that merge them
        yield case(random_logits(1, 66, dtype, seed=3), ALL, split(2, 66))
    few = random_logits(130, 3 * elements, dtype, seed=4)
    yield case(few, ALL, tiles(128))  # whole vectors
    yield case(few[:, :-1].contiguous(), ALL, tiles(100), offset=1)
    yield case(few[:40], GAP, tiles(128))
    for rows, classes in ((5, 2), (70, 33), (2, 70_001)):  # as the shape is planned
        yield case(random_logits(rows, classes, dtype, seed=5), ALL & ~DISTANCE, None)


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_no_race_no_stray_access(sanitizer: str, tmp_path: Path) -> None:
    program = row_sanitizers.build(tmp_path, sanitizer)
    cases = [each for dtype in oracle.DTYPES for each in every_path(dtype)]
    for got, of in zip(row_sanitizers.run(program, cases, tmp_path), cases, strict=True):
        check_scores(got, of.logits, of.labels, of.distances, of.kinds)
