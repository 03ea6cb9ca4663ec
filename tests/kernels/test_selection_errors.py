"""What selections refuse: k, order and values, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import dynams_kernels as dk
from kernel_inputs import random_logits

X = random_logits(6, 5)
FEATURES, WEIGHT = random_logits(6, 8, seed=1), random_logits(5, 8, seed=2)
WRONG = (TypeError, ValueError)


SELECTIONS: dict[str, Callable[..., Any]] = {
    "smallest_k": lambda k, **more: dk.smallest_k(X[:, 0], k, **more),
    "margin_topk": lambda k, **more: dk.margin_topk(X, k, **more),
    "linear_margin_topk": lambda k, **more: dk.linear_margin_topk(FEATURES, WEIGHT, k, **more),
}
selections = pytest.mark.parametrize("call", SELECTIONS.values(), ids=SELECTIONS)


@selections
@pytest.mark.parametrize("k", [-1, 7, 2**31, 2**32 + 1, 2**62, -(2**40)])
def test_k_out_of_range_names_both_numbers(call: Callable[..., Any], k: int) -> None:
    for order in ("index", "value"):
        with pytest.raises(ValueError, match=r"\bk\b") as error:
            call(k, order=order)
        numbers = re.findall(r"-?\d+", str(error.value))
        assert str(k) in numbers
        assert "6" in numbers


@selections
@pytest.mark.parametrize(
    "k",
    [True, False, "2", None, torch.tensor(2.0), torch.tensor(True), torch.tensor([2]), np.True_],
    ids=repr,
)
def test_k_of_another_type_is_refused(call: Callable[..., Any], k: Any) -> None:
    with pytest.raises(TypeError, match=r"\bk\b"):
        call(k)


@selections
@pytest.mark.parametrize("k", [0.0, -0.5, 1.0001, 2.0, math.nan, math.inf])
def test_a_fraction_outside_0_to_1_is_refused(call: Callable[..., Any], k: float) -> None:
    with pytest.raises(ValueError, match=rf"k: got {k}, want an int in \[0, 6\] or a float"):
        call(k)


@selections
@pytest.mark.parametrize("order", ["", "values", "INDEX", "sorted"])
def test_an_unknown_order_lists_both(call: Callable[..., Any], order: str) -> None:
    with pytest.raises(ValueError, match="order") as error:
        call(2, order=order)
    assert "index" in str(error.value)
    assert "value" in str(error.value)


@selections
@pytest.mark.parametrize("order", [None, True, 0], ids=repr)
def test_an_order_of_another_type_is_refused(call: Callable[..., Any], order: Any) -> None:
    with pytest.raises(WRONG, match="order"):
        call(2, order=order)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64], ids=str
)
def test_values_that_are_not_floating_are_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="values") as error:
        dk.smallest_k(torch.ones(3, dtype=dtype), 1)
    assert str(dtype).removeprefix("torch.") in str(error.value)


@pytest.mark.parametrize("shape", [(), (3, 1), (1, 3), (0, 0), (2, 2, 2)], ids=str)
def test_values_that_are_not_one_dimensional_are_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="values"):
        dk.smallest_k(torch.zeros(shape), 0)


@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0], np.zeros(3, np.float32), None], ids=["list", "numpy", "None"]
)
def test_values_that_are_no_tensor_are_refused_by_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match="values"):
        dk.smallest_k(wrong, 1)
