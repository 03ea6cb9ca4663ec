"""Who scores rows of logits on a GPU: the compiled kernels, but for distances between many classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynams_kernels._backends import eager
from dynams_kernels._backends.gpu import Gpu, Served
from dynams_kernels._kinds import BIT, mask_of
from kernel_inputs import labels_for, random_logits

DISTANCE = BIT["distance"]
EVERY = mask_of(("gap", "distance", "label", "loss", "entropy"))


class Noted:
    """A backend that notes what it is asked for; plain torch computes it."""

    def __init__(self) -> None:
        self.kinds: list[int] = []

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, apart: Tensor | None, kinds: int
    ) -> Tensor:
        self.kinds.append(kinds)
        return eager.row_scores(logits, labels, apart, kinds)

    def row_score(
        self, logits: Tensor, labels: Tensor | None, apart: Tensor | None, kind: int
    ) -> Tensor:
        return self.row_scores(logits, labels, apart, kind)[0]


def gpu_of(**served: Any) -> tuple[Gpu, Noted, Noted]:
    """The backends of a GPU whose device is that of the CPU's tensors, -1."""
    native, triton = Noted(), Noted()
    gpu = Gpu(None, None, "auto")
    gpu._served[-1] = Served(**{"native": native, "triton": triton, **served})
    gpu._fallbacks[-1] = None
    return gpu, native, triton


def logits(classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return random_logits(5, classes, dtype)


def asked(gpu: Gpu, x: Tensor, kinds: int) -> Tensor:
    points = random_logits(x.shape[1], 3, seed=1)
    apart = torch.cdist(points, points)
    got = gpu.row_scores(x, labels_for(x), apart, kinds)
    assert torch.equal(got, eager.row_scores(x, labels_for(x), apart, kinds))
    if kinds == DISTANCE:
        assert torch.equal(gpu.row_score(x, None, apart, kinds), got[0])
    return got


def test_distances_between_many_classes_are_tritons_in_any_company() -> None:
    gpu, native, triton = gpu_of()
    asked(gpu, logits(1000), DISTANCE)
    assert (native.kinds, triton.kinds) == ([], [DISTANCE] * 2)
    asked(gpu, logits(1000), EVERY)
    assert (native.kinds, triton.kinds[2:]) == ([EVERY & ~DISTANCE], [DISTANCE])
    asked(gpu, logits(1000), EVERY & ~DISTANCE)
    assert native.kinds[1:] == [EVERY & ~DISTANCE]


@pytest.mark.parametrize(
    ("x", "served"),
    [
        (logits(257), {}),
        (logits(1001), {}),  # rows at odd places
        (logits(1000).T.contiguous().T, {}),
        (logits(1008)[:, 1:1001], {}),
        (logits(1000, torch.float64), {}),
        (logits(1000), {"triton": None}),
        (logits(1000), {"may_mix": False}),  # the compiled kernels were asked for
    ],
    ids=["few", "odd", "columns", "begin", "float64", "no Triton", "asked for"],
)
def test_the_others_are_the_compiled_kernels(x: Tensor, served: dict[str, Any]) -> None:
    gpu, native, triton = gpu_of(**served)
    asked(gpu, x, DISTANCE)
    asked(gpu, x, EVERY)
    assert (native.kinds, triton.kinds) == ([DISTANCE, DISTANCE, EVERY], [])
