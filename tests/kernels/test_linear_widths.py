"""dk.linear_margin at several widths: each as accurate as torch's own layer of that width, from one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from kernel_inputs import labels_for, random_head

KINDS = ("gap", "probability", "label", "distance")


def head(
    rows: int, size: int, classes: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Tensor, ...]:
    return tuple(t.to(device) for t in random_head(rows, size, classes, dtype, seed=1))


def check(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    widths: Sequence[int | float],
    kind: str = "gap",
) -> None:
    labels = labels_for(features.new_empty(len(features), len(weight))).to(features.device)
    more: dict[str, Any] = {"labels": labels} if kind == "label" else {}
    got = dk.linear_margin(features, weight, bias, width=list(widths), kind=kind, **more)
    assert got.shape == (len(widths), len(features))
    assert got.dtype == oracle.result_dtype(features.dtype)
    x, w = oracle.array(features), oracle.array(weight)
    b = None if bias is None else oracle.array(bias)
    y = labels.cpu().numpy() if kind == "label" else None
    for row, width in zip(got, widths, strict=True):
        apart = oracle.class_distances(w, width) if kind == "distance" else None
        want = oracle.margin(oracle.linear(x, w, b, width), kind, y, apart)
        columns = oracle.columns(weight.shape[1], width)
        torchs = oracle.margin(
            oracle.array(F.linear(features[:, :columns], weight[:, :columns], bias)), kind, y, apart
        )
        # Class distances are float32 whatever the features.
        coarsest = torch.float32 if kind == "distance" else features.dtype
        eps = max(torch.finfo(features.dtype).eps, torch.finfo(coarsest).eps)
        floor = 8 * eps * max(1.0, float(np.abs(want).max(initial=0)))
        error = np.abs(oracle.array(row) - want).max(initial=0.0)
        assert error <= 2 * np.abs(torchs - want).max(initial=0.0) + floor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_width_has_the_margins_of_its_own_head(
    kind: str, dtype: torch.dtype, device: str
) -> None:
    check(*head(70, 40, 13, dtype, device), widths=[3, 10, 24, 40], kind=kind)


def test_more_classes_than_a_tile(device: str) -> None:
    check(*head(33, 48, 2500, device=device), widths=[16, 48], kind="probability")


def test_more_rows_than_a_tile(device: str) -> None:
    check(*head(9000, 9, 600, device=device), widths=[4, 9])


def test_widths_come_back_in_the_order_asked(device: str) -> None:
    features, weight, bias = head(20, 16, 5, device=device)
    got = dk.linear_margin(features, weight, bias, width=[16, 0.25, 9, 16])
    ascending = dk.linear_margin(features, weight, bias, width=(4, 9, 16))
    assert torch.equal(got, ascending[[2, 0, 1, 2]])


def test_one_width_in_a_list_still_has_a_row(device: str) -> None:
    features, weight, _ = head(20, 16, 5, device=device)
    got = dk.linear_margin(features, weight, width=[7])
    assert got.shape == (1, 20)
    torch.testing.assert_close(got[0], dk.linear_margin(features, weight, width=7))


def test_features_may_stop_at_the_largest_width(device: str) -> None:
    features, weight, bias = head(20, 16, 5, device=device)
    want = dk.linear_margin(features, weight, bias, width=[4, 12])
    assert torch.equal(dk.linear_margin(features[:, :12], weight, bias, width=[4, 12]), want)


def test_nothing_past_a_width_is_read_for_it(device: str) -> None:
    features, weight, bias = head(20, 16, 5, device=device)
    want = dk.linear_margin(features, weight, bias, width=[4, 9])
    features[:, 9:], weight[:, 9:] = math.nan, math.inf
    assert torch.equal(dk.linear_margin(features, weight, bias, width=[4, 9]), want)
    features[:, 8] = math.nan
    spoiled = dk.linear_margin(features, weight, bias, width=[4, 9])
    assert torch.equal(spoiled[0], want[0])
    assert bool(spoiled[1].isnan().all())


def test_an_empty_batch(device: str) -> None:
    features, weight, bias = head(0, 16, 5, device=device)
    assert dk.linear_margin(features, weight, bias, width=[4, 9]).shape == (2, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_widths_one_by_one(kind: str, device: str) -> None:
    features, weight, bias = (t.requires_grad_() for t in head(20, 16, 5, device=device))
    labels = torch.arange(20, device=device) % 5
    more: dict[str, Any] = {"labels": labels} if kind == "label" else {}
    upstream = torch.rand(2, 20, device=device)
    together = dk.linear_margin(features, weight, bias, width=[4, 9], kind=kind, **more)
    got = torch.autograd.grad(together, (features, weight, bias), upstream)
    want = [torch.zeros_like(t) for t in (features, weight, bias)]
    for row, width in zip(upstream, (4, 9), strict=True):
        alone = dk.linear_margin(features, weight, bias, width=width, kind=kind, **more)
        for total, part in zip(
            want, torch.autograd.grad(alone, (features, weight, bias), row), strict=True
        ):
            total += part
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left, right)


def test_a_compiled_function_takes_several_widths(device: str) -> None:
    features, weight, bias = head(20, 16, 5, device=device)

    def margins(x: Tensor) -> Tensor:
        return dk.linear_margin(x, weight, bias, width=[4, 9])

    compiled = torch.compile(margins, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features), margins(features))


@pytest.mark.parametrize(
    ("width", "error", "words"),
    [
        ([], ValueError, "width: got no widths"),
        ([4, 17], ValueError, r"width: got 17, want an int in \[1, 16\]"),
        ([4, 0], ValueError, "width: got 0"),
        ([4, 1.5], ValueError, "width: got 1.5"),
        ([4, None], TypeError, "width: got None"),
        ([4, "8"], TypeError, "width: got str"),
        ([True], TypeError, "width: got bool"),
    ],
)
def test_a_wrong_width_among_them_is_named(
    width: Any, error: type[Exception], words: str, device: str
) -> None:
    features, weight, bias = head(20, 16, 5, device=device)
    with pytest.raises(error, match=words):
        dk.linear_margin(features, weight, bias, width=width)


def test_class_distances_of_one_width_are_refused_for_several(device: str) -> None:
    features, weight, bias = head(20, 16, 5, device=device)
    with pytest.raises(ValueError, match="class_distances: got a tensor with several widths"):
        dk.linear_margin(
            features,
            weight,
            bias,
            width=[4, 9],
            kind="distance",
            class_distances=dk.class_distances(weight),
        )


@given(data=st.data())
def test_any_widths_of_any_head(data: st.DataObject, device: str) -> None:
    rows, size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 60))
    widths = data.draw(st.lists(st.integers(1, size), min_size=1, max_size=5))
    features, weight, bias = head(rows, size, data.draw(st.integers(2, 30)), device=device)
    check(features, weight, bias if data.draw(st.booleans()) else None, widths)
