"""Counts and fractions are taken as callers have them, whatever torch's default device and dtype; bools are no counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
from kernel_inputs import random_logits

X, V = random_logits(20, 6), random_logits(1, 20, seed=1)[0]
FEATURES, WEIGHT = random_logits(20, 8, seed=2), random_logits(6, 8, seed=3)
LABELS = torch.arange(20) % 6
GROUPS = torch.arange(20) % 3
INTS: dict[str, Callable[[int], Any]] = {
    "int64": np.int64,
    "int8": np.int8,
    "array": np.array,
    "tensor": lambda k: torch.tensor(k, device="cpu"),
    "uint8 tensor": lambda k: torch.tensor(k, dtype=torch.uint8, device="cpu"),
}
FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64}

# Every function that is told a count, with the count 3.
OF_COUNT: dict[str, Callable[[Any], Tensor]] = {
    "smallest_k": lambda k: dk.smallest_k(V, k).indices,
    "margin_topk": lambda k: dk.margin_topk(X, k, order="value").indices,
    "linear_margin_topk": lambda k: dk.linear_margin_topk(FEATURES, WEIGHT, k, width=k).indices,
    "linear_margin": lambda k: dk.linear_margin(FEATURES, WEIGHT, width=k),
    "linear_margin of several": lambda k: dk.linear_margin(FEATURES, WEIGHT, width=[k, 8]),
    "linear_scores": lambda k: dk.linear_scores(
        FEATURES, WEIGHT, ["loss"], width=k, labels=LABELS, ignore_index=k
    )["loss"],
    "scores": lambda k: dk.scores(X, ["loss"], labels=LABELS, ignore_index=k)["loss"],
    "class_distances": lambda k: dk.class_distances(WEIGHT, width=k),
    "smallest_k_grouped": lambda k: dk.smallest_k_grouped(V, GROUPS, [k, 1, k]).indices,
    "MarginSelector": lambda k: dk.MarginSelector(k).smallest(k).indices,
}
# Every function that is told a fraction, with the fraction 0.5.
OF_FRACTION: dict[str, Callable[[Any], Tensor]] = {
    "smallest_k": lambda k: dk.smallest_k(V, k).indices,
    "margin_topk": lambda k: dk.margin_topk(X, k).indices,
    "linear_margin": lambda k: dk.linear_margin(FEATURES, WEIGHT, width=k),
    "class_distances": lambda k: dk.class_distances(WEIGHT, width=k),
    "smallest_k_grouped": lambda k: dk.smallest_k_grouped(V, GROUPS, k).indices,
}


def same(got: Tensor, want: Tensor) -> bool:
    return got.dtype == want.dtype and torch.equal(got.nan_to_num(), want.nan_to_num())


@pytest.mark.parametrize("kind", INTS)
@pytest.mark.parametrize("name", OF_COUNT)
def test_a_count_is_anything_that_stands_for_an_int(name: str, kind: str) -> None:
    assert same(OF_COUNT[name](INTS[kind](3)), OF_COUNT[name](3))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", OF_FRACTION)
def test_a_fraction_is_any_floating_point_number(name: str, kind: str) -> None:
    assert same(OF_FRACTION[name](FLOATS[kind](0.5)), OF_FRACTION[name](0.5))


@pytest.mark.parametrize(
    "wrong", [True, np.bool_(True), torch.tensor(True), torch.tensor([3]), "3"]
)
@pytest.mark.parametrize("name", OF_COUNT)
def test_bools_and_what_is_no_number_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match="got "):
        OF_COUNT[name](wrong)


def test_quotas_are_taken_as_an_array(device: str) -> None:
    values, groups = V.to(device), GROUPS.to(device)
    want = dk.smallest_k_grouped(values, groups, [3, 1, 2]).indices
    for quotas in (
        np.array([3, 1, 2]),
        np.array([3, 1, 2], np.int32),
        (np.int16(3), 1, np.int64(2)),
    ):
        assert same(dk.smallest_k_grouped(values, groups, quotas).indices, want)


# ------------------------------------------------------------------------------------ defaults


@pytest.fixture(params=["meta", "float64", "bfloat16"])
def default(request: pytest.FixtureRequest) -> Iterator[str]:
    """A default of torch's that no function may heed: all are told a device and a dtype by their tensors."""
    before = torch.get_default_dtype()
    if request.param == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_device(None)
    torch.set_default_dtype(before)


WANT = {name: call(3) for name, call in OF_COUNT.items()}
WANT_OF_FRACTION = {name: call(0.5) for name, call in OF_FRACTION.items()}
KINDS = ["gap", "probability", "label", "loss", "el2n", "entropy", "confidence"]


def gradients() -> list[Tensor]:
    features, weight = (each.clone().requires_grad_() for each in (FEATURES, WEIGHT))
    found = dk.linear_scores(features, weight, [*KINDS, "distance"], labels=LABELS, width=[4, 8])
    torch.stack([each.sum() for each in found.values()]).sum().backward()
    logits = X.clone().requires_grad_()
    found = dk.scores(logits, KINDS, labels=LABELS)
    torch.stack([each.sum() for each in found.values()]).sum().backward()
    return [each.grad for each in (features, weight, logits) if each.grad is not None]


WANT_GRADIENTS = gradients()


def test_no_default_of_torchs_changes_what_comes_out(default: str) -> None:
    for name, call in OF_COUNT.items():
        assert same(call(3), WANT[name]), name
    for name, call in OF_FRACTION.items():
        assert same(call(0.5), WANT_OF_FRACTION[name]), name
    for got, want in zip(gradients(), WANT_GRADIENTS, strict=True):
        assert same(got, want)
    selector = dk.MarginSelector(20)
    selector.update(GROUPS[:1], V[:1])
    other = dk.MarginSelector(20)
    other.load_state_dict(selector.state_dict())
    assert same(other.margins, selector.margins)
    assert other.margins.dtype == torch.float32
