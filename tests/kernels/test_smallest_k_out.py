"""dk.smallest_k writes into the tensors it is given, or refuses them and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import counts, keys


def room(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Output full of what no selection holds."""
    return values.new_full((k,), -77.0), torch.full((k,), -77, device=values.device)


@given(values=keys(), data=st.data())
def test_what_is_written_is_what_would_be_returned(
    values: Tensor, data: st.DataObject, device: str
) -> None:
    k = data.draw(counts(len(values)))
    x = values.to(device)
    for order in ("index", "value"):
        out = room(x, k)
        got = dk.smallest_k(x, k, order=order, out=out)
        assert isinstance(got, dk.SmallestK)
        assert got.values is out[0]
        assert got.indices is out[1]
        oracle.check_selection(got, x, k, order)


def test_nothing_beside_the_output_is_written(threads: Callable[[int], None], device: str) -> None:
    x = torch.randn(200_001, generator=torch.Generator().manual_seed(0)).to(device)
    k = 120_000
    around = room(x, k + 64)
    for count in (1, 3):
        threads(count)
        got = dk.smallest_k(x, k, out=(around[0][32:-32], around[1][32:-32]))
        oracle.check_selection(got, x, k)
        for whole in around:
            assert (whole[:32] == -77).all()
            assert (whole[-32:] == -77).all()


def test_memory_kept_from_one_call_to_the_next(device: str) -> None:
    out = room(torch.empty(0, device=device), 50)
    for seed in range(3):
        x = torch.randn(100, generator=torch.Generator().manual_seed(seed)).to(device)
        oracle.check_selection(dk.smallest_k(x, 0.5, out=out), x, 50)


def test_strided_and_negated_values(device: str) -> None:
    x = torch.complex(torch.zeros(9, device=device), torch.arange(9.0, device=device)).conj().imag
    for values in (x, torch.arange(18.0, device=device).flip(0)[::2]):
        oracle.check_selection(dk.smallest_k(values, 4, out=room(values, 4)), values, 4)


def test_in_inference_mode_and_without_gradients(device: str) -> None:
    x = torch.randn(9, device=device, requires_grad=True)
    with torch.no_grad():
        oracle.check_selection(dk.smallest_k(x, 4, out=room(x.detach(), 4)), x, 4)
    with torch.inference_mode():
        inside = room(x.detach(), 4)
        oracle.check_selection(dk.smallest_k(x, 4, out=inside), x, 4)
    oracle.check_selection(dk.smallest_k(x.detach(), 3, out=room(x.detach(), 3)), x, 3)


def test_a_backward_pass_learns_that_its_tensor_was_overwritten(device: str) -> None:
    weight = torch.ones(3, device=device, requires_grad=True)
    out = room(weight.detach(), 3)
    product = weight * out[0]
    dk.smallest_k(torch.arange(5.0, device=device), 3, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


# ------------------------------------------------------------------------------------ compiled


def test_one_graph_writes_in_place(device: str) -> None:
    def step(x: Tensor, out: tuple[Tensor, Tensor]) -> Tensor:
        chosen: Tensor = dk.smallest_k(x * 2, 3, out=out).indices + 1
        return chosen

    torch._dynamo.reset()
    x = torch.tensor([4.0, 1.0, 3.0, 2.0], device=device)
    out = room(x, 3)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert compiled(x, out).tolist() == [2, 3, 4]
    assert out[0].tolist() == [2.0, 6.0, 4.0]
    assert out[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("by_value", [False, True])
def test_opcheck(by_value: bool, device: str) -> None:
    x = torch.randn(7, device=device)
    operator = torch.ops.dynams_kernels.smallest_k_into.default
    torch.library.opcheck(operator, (x, by_value, *room(x, 4)))


# ------------------------------------------------------------------------------------ refusals

X = torch.arange(12.0)
VALUES, INDICES = torch.empty(4), torch.empty(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (VALUES, TypeError, "out: got Tensor"),
        ((VALUES,), TypeError, "out: got 1"),
        ((VALUES, None), TypeError, "out indices: got NoneType"),
        ((np.empty(4, np.float32), INDICES), TypeError, "out values: got ndarray"),
        ((torch.empty(5), INDICES), ValueError, "out values: got shape (5,), want (4,)"),
        ((VALUES, INDICES[:3]), ValueError, "out indices: got shape (3,), want (4,)"),
        ((VALUES[None], INDICES), ValueError, "out values: got shape (1, 4), want (4,)"),
        ((VALUES.double(), INDICES), ValueError, "out values: got dtype torch.float64"),
        ((VALUES, INDICES.int()), ValueError, "out indices: got dtype torch.int32"),
        ((VALUES.to("meta"), INDICES), ValueError, "out values: got device meta, want cpu"),
        ((torch.empty(8)[::2], INDICES), ValueError, "out values: got stride 2"),
        ((X[3:7], INDICES), ValueError, "out values: got memory shared with values"),
        ((VALUES, X.view(torch.int64)[2:]), ValueError, "out indices: got memory shared with values"),
        ((INDICES.view(torch.float32)[2:6], INDICES), ValueError,
         "out indices: got memory shared with out values"),
        ((torch.empty(4, requires_grad=True), INDICES), ValueError, "out values: got a tensor that requires grad"),
    ],
)  # fmt: skip
def test_a_wrong_output_is_refused_and_nothing_is_written(
    out: Any, error: type[Exception], words: str
) -> None:
    before = X.clone()
    with pytest.raises(error) as caught:
        dk.smallest_k(X, 4, out=out)
    assert str(caught.value).startswith(words)
    assert torch.equal(X, before)


def test_values_that_require_grad_are_refused() -> None:
    with pytest.raises(ValueError, match="values: got a tensor that requires grad"):
        dk.smallest_k(X.clone().requires_grad_(), 4, out=room(X, 4))


def test_overlap_is_seen_through_strides_and_through_other_owners_of_the_memory() -> None:
    whole = torch.arange(40.0)
    with pytest.raises(ValueError, match="shared with values"):
        dk.smallest_k(whole[::4], 4, out=(whole[33:37], INDICES))
    array = np.arange(10, dtype=np.float32)
    with pytest.raises(ValueError, match="shared with values"):
        dk.smallest_k(torch.from_numpy(array), 4, out=(torch.from_numpy(array[6:]), INDICES))
    oracle.check_selection(dk.smallest_k(whole[:20], 4, out=(whole[20:24], INDICES)), whole[:20], 4)
