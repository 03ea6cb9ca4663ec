"""The search for the last selected key over ranks, by itself: digits as NumPy counts them, nothing read on the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import dynams_kernels as dk
import oracle
from dynams_kernels._backends import registry
from dynams_kernels._backends.digits import PlainDigitCounter, ordered_keys
from dynams_kernels.distributed.search import (
    Found,
    digits_of,
    search,
    search_among,
    share_of_ties,
)
from kernel_inputs import counts, keys, special_values


def plain_search(values: Tensor, k: Tensor) -> tuple[Found, Found]:
    """The last key among values and, among the indices of its ties, the last of those; as if there were as many on another rank."""
    counter = PlainDigitCounter(values, dk.smallest_k)
    found = search(counter.count, lambda counts: counts.mul_(2), k, counter.width)
    places = torch.arange(values.shape[0], device=values.device)
    tied = ordered_keys(values) == found.key
    return found, search_among(places, tied, lambda counts: counts.mul_(2), found.taken, 11)


def test_the_search_reads_nothing_on_the_host() -> None:
    # A fake tensor has no values: whoever asks for one raises.
    for dtype in oracle.DTYPES:
        with FakeTensorMode():
            k = torch.full((), 77)
            found, last = plain_search(torch.empty(1000, dtype=dtype), k)
            share = share_of_ties(found, torch.empty(4, dtype=torch.int64), 2)
            with pytest.raises(DataDependentOutputException):
                int(share)
        for told in (*found, *last, share):
            assert (told.shape, told.dtype) == ((), torch.int64)


@pytest.mark.gpu
def test_the_search_is_captured_in_a_graph(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)

    def sum_(counts: Tensor) -> Tensor:
        dist.all_reduce(counts)
        return counts

    def find(values: Tensor, k: Tensor) -> Found:
        counter = PlainDigitCounter(values, dk.smallest_k)
        return search(counter.count, sum_, k, counter.width)

    try:
        for dtype in oracle.DTYPES:
            x = torch.randn(50_000, device="cuda").to(dtype)
            k = torch.full((), 20_000, device="cuda")
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                find(x, k)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                found = find(x, k)
            for size, seed in ((20_000, 1), (1, 2), (49_999, 3)):
                torch.manual_seed(seed)
                x.copy_(torch.randn(50_000).to(dtype))
                k.fill_(size)
                graph.replay()
                torch.cuda.synchronize()
                last = dk.smallest_k(x, size, order="value").values[-1:]
                assert int(found.key) == int(ordered_keys(last))
                assert int(found.own_below) == int((x < last).sum())
                assert int(found.own_below + found.taken) == size
    finally:
        dist.destroy_process_group()


def signed_keys(values: Tensor) -> npt.NDArray[np.int64]:
    """Integers in the order of the values' bits: sign and magnitude as two's complement, one zero, one NaN."""
    raw = oracle.bits(values).numpy().astype(np.int64)
    largest = 2 ** (8 * values.element_size() - 1) - 1
    signed = np.where(raw < 0, -(raw & largest) - 1, raw)
    x = oracle.array(values)
    return np.where(np.isnan(x), largest, np.where(x == 0, 0, signed))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_digits_are_counted_as_by_numpy(
    dtype: torch.dtype, device: str, threads: Callable[[int], None]
) -> None:
    special = special_values(dtype)
    normal = torch.randn(70_000, generator=torch.Generator().manual_seed(2)).to(dtype)
    near = (1 + torch.rand(3000, generator=torch.Generator().manual_seed(3)) / 64).to(dtype)
    threads(3)
    for values in (special, torch.cat([special, normal]), torch.cat([near, special]), -near):
        signed = signed_keys(values)
        # Down to a key: that of each special value, and of some others.
        for last in {*signed[:30].tolist(), *signed[-30:].tolist()}:
            counter = registry.serving(values.to(device)).digit_counter(values.to(device))
            prefix, inside = None, np.ones(len(values), bool)
            for shift, bits in digits_of(counter.width):
                digits = (signed >> shift) & (2**bits - 1)
                want = np.bincount(digits[inside], minlength=2**bits)
                if prefix is None:  # two's complement: the negative ones come first
                    want = np.roll(want, 2 ** (bits - 1))
                got = counter.count(prefix, shift, bits)
                assert got.device.type == device
                assert np.array_equal(got.cpu().numpy(), want), (last, shift, bits)
                prefix = torch.tensor(last >> shift, device=device)
                inside = (signed >> shift) == (last >> shift)


@given(values=keys(), data=st.data())
def test_any_number_may_be_taken_for_the_last_selected(values: Tensor, data: st.DataObject) -> None:
    k = data.draw(counts(len(values)))
    counter = registry.serving(values).digit_counter(values)
    guesses = torch.cat(
        [special_values(values.dtype), values[:3], dk.smallest_k(values, k).values[-1:]]
    )
    for key in ordered_keys(guesses).long():
        found, indices = counter.smallest(k, key)
        oracle.check_selection(dk.SmallestK(found, indices), values, k)
