"""dk.smallest_k is exact: NaN, zeros, ties, digit patterns, strides, sizes, both orders."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import (
    RAGGED_N,
    counts,
    from_pattern,
    keys,
    layouts_1d,
    sampled_places,
    special_values,
)

INF, NAN = math.inf, math.nan
ORDERS = ("index", "value")


def check(values: Tensor, k: int, orders: tuple[str, ...] = ORDERS) -> None:
    for order in orders:
        result = dk.smallest_k(values, k, order=order)
        assert result.values.device == result.indices.device == values.device
        oracle.check_selection(result, values, k, order)


def check_each(values: Tensor, several: tuple[int, ...], order: str = "index") -> None:
    """Checks selections of several sizes from values that are many, and so ranked only once."""
    ranked = oracle.smallest_k(oracle.array(values), len(values), "value")
    for k in several:
        want = np.sort(ranked[:k]) if order == "index" else ranked[:k]
        result = dk.smallest_k(values, k, order=order)
        assert result.values.device == result.indices.device == values.device
        oracle.check_selection(result, values, want, order)


@given(values=keys(), data=st.data())
def test_selection_is_the_head_of_a_stable_sort(
    values: Tensor, data: st.DataObject, device: str
) -> None:
    k = data.draw(counts(len(values)))
    check(values.to(device), k)


@given(values=st.lists(st.floats(width=32), max_size=40), data=st.data())
def test_any_floats(values: list[float], data: st.DataObject, device: str) -> None:
    x = torch.tensor(values, dtype=torch.float32, device=device)
    check(x, data.draw(counts(len(values))))


@given(values=st.lists(st.sampled_from([0.0, -0.0, NAN, INF, -INF]), max_size=12))
def test_every_k_of_the_hard_values(values: list[float], device: str) -> None:
    for k in range(len(values) + 1):
        check(torch.tensor(values, dtype=torch.float16, device=device), k)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("size", RAGGED_N)
def test_ragged_sizes_and_the_ends_of_k(dtype: torch.dtype, size: int, device: str) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype).to(device)
    for k in sorted({0, min(1, size), size // 3, size * 6 // 10, max(size - 1, 0), size}):
        check(x, k)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_every_k_of_special_values(dtype: torch.dtype, device: str) -> None:
    x = special_values(dtype)
    x = torch.cat([x, x.flip(0)]).to(device)
    for k in range(len(x) + 1):
        check(x, k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_pattern_of_sixteen_bits(dtype: torch.dtype, device: str) -> None:
    patterns = np.random.default_rng(1).permutation(2**16).astype(np.uint64)
    x = from_pattern(patterns, dtype).to(device)
    for k in (1, 100, 2**15, 2**15 + 1, 2**16 - 700, 2**16 - 1):
        check(x, k)


def test_zeros_tie_and_keep_their_sign(device: str) -> None:
    x = torch.tensor([1.0, 0.0, -0.0, 0.0, -0.0], device=device)
    got = dk.smallest_k(x, 3, order="value")
    assert got.indices.tolist() == [1, 2, 3]
    assert torch.signbit(got.values).tolist() == [False, True, False]


def test_ties_go_to_the_lowest_index(device: str) -> None:
    x = torch.tensor([2.0, 1.0, 2.0, 1.0, 2.0, 0.5], device=device)
    assert dk.smallest_k(x, 4).indices.tolist() == [0, 1, 3, 5]
    assert dk.smallest_k(x, 4, order="value").indices.tolist() == [5, 1, 3, 0]


def test_nan_of_any_sign_and_payload_comes_last_by_index(device: str) -> None:
    nans = special_values(torch.float32)
    nans = nans[nans.isnan()]
    x = torch.cat([nans, torch.tensor([INF, -INF]), nans.flip(0)]).to(device)
    n = len(nans)
    want = [n + 1, n, *range(n), *range(n + 2, 2 * n + 2)]
    for k in range(len(x) + 1):
        got = dk.smallest_k(x, k, order="value")
        assert got.indices.tolist() == want[:k]
        check(x, k)


def test_subnormals_are_not_taken_for_zero(device: str) -> None:
    for dtype in oracle.DTYPES:
        least = float(from_pattern(np.array([1]), dtype).double())
        x = torch.tensor([least, 0.0, -least, 2 * least, -0.0], dtype=torch.float64).to(dtype)
        got = dk.smallest_k(x.to(device), 5, order="value")
        assert got.indices.tolist() == [2, 1, 4, 0, 3]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_any_strides(dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    for size in (0, 1, 5, 64, 1000, 70_001):
        base = torch.randint(-40, 40, (size,), generator=generator).to(dtype).to(device)
        for _name, x in layouts_1d(base):
            for k in {0, size // 3, size}:
                check(x, k)
    pair = torch.complex(torch.zeros(9, device=device), torch.arange(9.0, device=device))
    check(pair.conj().imag, 4)


def test_one_value_expanded(device: str) -> None:
    x = torch.tensor([3.0], device=device).expand(5000)
    for k in (0, 1, 2500, 5000):
        check(x, k)


def test_the_result_shares_no_memory_with_the_input(device: str) -> None:
    x = torch.arange(10.0, device=device)
    for order in ORDERS:
        got = dk.smallest_k(x, 10, order=order)
        got.values.fill_(-1)
        assert torch.equal(x, torch.arange(10.0, device=device))


def test_result_is_a_named_tuple_of_values_and_indices(device: str) -> None:
    got = dk.smallest_k(torch.tensor([3.0, 1.0], device=device), 1)
    assert isinstance(got, tuple)
    assert isinstance(got, dk.SmallestK)
    assert got._fields == ("values", "indices")
    values, indices = got
    assert values.tolist() == [1.0]
    assert indices.tolist() == [1]


@given(values=keys(), fraction=st.floats(0, 1, exclude_min=True))
def test_a_fraction_of_the_values(values: Tensor, fraction: float, device: str) -> None:
    got = dk.smallest_k(values.to(device), fraction)
    oracle.check_selection(got, values, oracle.share(fraction, len(values)))


def test_a_fraction_is_rounded_half_up_and_takes_at_least_one(device: str) -> None:
    x = torch.arange(5.0, device=device)
    taken = {0.5: 3, 0.3: 2, 0.29: 1, 0.01: 1, 1.0: 5, np.float64(0.5): 3}
    for fraction, k in taken.items():
        assert len(dk.smallest_k(x, fraction).indices) == k
    assert len(dk.smallest_k(x[:0], 0.5).indices) == 0


def test_whatever_stands_for_an_int(device: str) -> None:
    x = torch.arange(5.0, device=device)
    for k in (3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor(3, dtype=torch.int32)):
        assert dk.smallest_k(x, k).indices.tolist() == [0, 1, 2]
    assert len(dk.smallest_k(x, 1).indices) == 1
    assert len(dk.smallest_k(x, 1.0).indices) == 5


# ------------------------------------------------------------- large: threaded and pivoting paths

LARGE = 300_007


def large(name: str) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    spread = rng.standard_normal(LARGE).astype(np.float32)
    if name == "few":
        spread = rng.integers(0, 3, LARGE).astype(np.float32)
    elif name == "equal":
        spread = np.full(LARGE, 1.5, np.float32)
    elif name == "sorted":
        spread = np.sort(spread)
    elif name == "reversed":
        spread = np.sort(spread)[::-1].copy()
    elif name == "gaps":
        # What margins look like: all at or above zero, most of them close to it.
        spread = np.abs(spread) ** 3
    elif name == "half nan":
        spread[rng.random(LARGE) < 0.5] = np.nan
    elif name == "half -inf":
        spread[rng.random(LARGE) < 0.5] = -np.inf
    elif name == "zeros of both signs":
        spread = np.where(rng.random(LARGE) < 0.5, np.float32(0.0), np.float32(-0.0))
    elif name == "last bit":
        return from_pattern(0x3F800000 + rng.integers(0, 2, LARGE), torch.float32)
    elif name == "last digit":
        return from_pattern(0x3F800000 + rng.integers(0, 1024, LARGE), torch.float32)
    elif name == "middle digit":
        return from_pattern(0x3F000123 + (rng.integers(0, 1024, LARGE) << 11), torch.float32)
    elif name == "bits":
        return from_pattern(rng.integers(0, 2**32, LARGE), torch.float32)
    elif name == "one outlier":
        spread = np.full(LARGE, 1.0, np.float32)
        spread[LARGE - 2] = -1.0
        spread[LARGE // 2] = 2.0
    return torch.from_numpy(spread)


@pytest.mark.parametrize(
    "name",
    [
        "normal", "few", "equal", "sorted", "reversed", "gaps", "half nan", "half -inf",
        "zeros of both signs", "last bit", "last digit", "middle digit", "bits", "one outlier",
    ],
)  # fmt: skip
def test_large_inputs_of_every_shape(name: str, device: str) -> None:
    x = large(name).to(device)
    check_each(x, (1, 1000, LARGE // 2, LARGE * 6 // 10, LARGE - 1))
    check_each(x, (17, LARGE // 10), "value")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_large_inputs_of_every_dtype(dtype: torch.dtype, device: str) -> None:
    rng = np.random.default_rng(3)
    width = torch.finfo(dtype).bits
    base = int(rng.integers(0, 2**width, dtype=np.uint64)) >> (width // 2) << (width // 2)
    inputs = {
        "normal": torch.from_numpy(rng.standard_normal(LARGE)).to(dtype),
        "bits": from_pattern(rng.integers(0, 2**width, LARGE, dtype=np.uint64), dtype),
        "few": torch.from_numpy(rng.integers(-2, 2, LARGE).astype(np.float32)).to(dtype),
        "only the low half differs": from_pattern(
            rng.integers(0, 2 ** (width // 2), LARGE, dtype=np.uint64) + np.uint64(base), dtype
        ),
    }
    for x in inputs.values():
        check_each(x.to(device), (1, LARGE // 3, LARGE - 1))
        check(x.to(device), LARGE // 2, ("value",))


@pytest.mark.parametrize("stride", [2, 3, 7, 16, 37, 64, 100, 128, 256, 1000, 1024, 4096])
def test_samples_at_a_regular_stride_cannot_mislead(stride: int, device: str) -> None:
    # Whoever estimates a pivot from every stride-th value sees nothing of the rest.
    size = 131_072
    rng = np.random.default_rng(stride)
    for phase in (0, stride - 1):
        for outside in (-1e30, 1e30, 0.5, math.nan):
            x = rng.random(size).astype(np.float32)
            x[phase::stride] = outside
            tensor = torch.from_numpy(x).to(device)
            check_each(tensor, (size // stride // 2, size // stride + 1, size * 6 // 10))


@pytest.mark.parametrize("size", [16_384, 100_003, 262_144])
@pytest.mark.parametrize("lie", [-1e30, 1e30, 0.0, INF, -INF, NAN, "spread"])
def test_a_sample_that_lies_cannot_mislead(size: int, lie: float | str, device: str) -> None:
    rng = np.random.default_rng(size)
    places = sampled_places(size)
    for scale in (1.0, 1e-3):
        x = (rng.random(size) * scale + 1).astype(np.float32)
        x[places] = rng.random(len(places)) + 5 if lie == "spread" else lie
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            values = torch.from_numpy(x).to(dtype).to(device)
            check_each(values, (1, size // 100, size // 2, size * 6 // 10, size - 1))


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_073, 262_144, 500_000])
def test_sizes_about_block_boundaries(size: int, device: str) -> None:
    rng = np.random.default_rng(size)
    x = torch.from_numpy(rng.integers(0, 50, size).astype(np.float32)).to(device)
    check_each(x, (size // 3, size - 1, size))


def test_k_at_every_edge_of_a_run_of_ties(device: str) -> None:
    size = 100_000
    x = torch.full((size,), 5.0)
    x[::10] = 1.0
    x[1::10] = 9.0
    x = x.to(device)
    for edge in (size // 10, size - size // 10):
        for k in (edge - 1, edge, edge + 1):
            check(x, k)


def test_smallest_k_of_values_far_apart_in_memory(
    far_storage: Callable[[torch.dtype], Tensor],
) -> None:
    # Offsets past 2**31 elements.
    x = far_storage(torch.float32).as_strided((301,), (2**31 // 300,), 11)
    x.copy_(torch.randn(301, generator=torch.Generator().manual_seed(0)))
    for k in (0, 1, 100, 301):
        check(x, k)


@pytest.mark.big
def test_more_than_two_to_the_31_values() -> None:
    size = 2**31 + 1001
    x = torch.zeros(size, dtype=torch.bfloat16)
    x[-1], x[2**31 + 5], x[12345], x[0] = -1.0, -2.0, NAN, 3.0
    got = dk.smallest_k(x, 4)
    assert got.indices.tolist() == [1, 2, 2**31 + 5, size - 1]
    assert got.values.tolist() == [0.0, 0.0, -2.0, -1.0]
    got = dk.smallest_k(x, 3, order="value")
    assert got.indices.tolist() == [2**31 + 5, size - 1, 1]
