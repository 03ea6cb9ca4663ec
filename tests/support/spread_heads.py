"""Heads whose classes are spread over ranks: the rows that each has, and gradients beside those of the whole head."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor


def shards(
    sizes: Sequence[int], weight: Tensor, bias: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The weight's rows and the bias of every rank."""
    borders = [0, *itertools.accumulate(sizes)]
    assert borders[-1] == len(weight)
    for begin, end in itertools.pairwise(borders):
        yield weight[begin:end].clone(), None if bias is None else bias[begin:end].clone()


def compare(got: Tensor, want: Tensor, bound: float) -> None:
    assert got.dtype == want.dtype
    scale = max(1.0, float(want.abs().max()))
    assert float((got - want).abs().max()) <= bound * scale
