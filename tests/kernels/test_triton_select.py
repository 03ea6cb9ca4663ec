"""Triton's selection, interpreted on the CPU, is the head of a stable sort: any values, any cut into tiles and programs."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import oracle
from dynams_kernels.selection import SmallestK
from kernel_inputs import counts, from_pattern, keys, layouts_1d, special_values

if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
    pytest.skip("interprets Triton's kernels: TRITON_INTERPRET=1", allow_module_level=True)

from dynams_kernels._triton import smallest_k as select_module
from dynams_kernels._triton.smallest_k import Configuration, configuration, smallest_k

INF, NAN = math.inf, math.nan
# Small enough that a few hundred values are several tiles, and that a program gets several of them.
SMALL = Configuration(tile=64, programs=3)


def check(values: Tensor, k: int, config: Configuration = SMALL) -> None:
    got = SmallestK(*select_module._select(values, k, config))
    oracle.check_selection(got, values, k)


@settings(max_examples=40)
@given(
    values=keys(max_size=600),
    data=st.data(),
    tile=st.sampled_from([64, 256, 1024]),
    programs=st.sampled_from([1, 2, 5]),
)
def test_selection_is_the_head_of_a_stable_sort(
    values: Tensor, data: st.DataObject, tile: int, programs: int
) -> None:
    # Of the ragged sizes the largest would be many interpreted tiles.
    values = values[:1100]
    tile = max(tile, 256) if len(values) > 300 else tile
    check(values, data.draw(counts(len(values))), Configuration(tile, programs))


@settings(max_examples=15)
@given(values=st.lists(st.sampled_from([0.0, -0.0, NAN, INF, -INF, 1.0]), min_size=1, max_size=7))
def test_every_k_of_the_hard_values(values: list[float]) -> None:
    for k in range(len(values) + 1):
        check(torch.tensor(values, dtype=torch.float16), k)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_every_k_of_special_values(dtype: torch.dtype) -> None:
    x = special_values(dtype)
    # Every dtype takes the same passes of 8 bits. Those of 16 bits take the fewest, and try every k.
    for k in range(0, len(x) + 1, 1 if dtype.itemsize == 2 else 3):
        check(x, k, Configuration(32, 1))
    x = torch.cat([x, x.flip(0)])
    for k in range(1, len(x), 7):
        check(x, k, Configuration(32, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_pattern_of_sixteen_bits(dtype: torch.dtype) -> None:
    patterns = np.random.default_rng(1).permutation(2**16).astype(np.uint64)
    x = from_pattern(patterns, dtype)
    for k in (100, 2**15 + 1, 2**16 - 700):
        check(x, k, Configuration(16_384, 3))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 128, 191, 192, 193, 450])
def test_ragged_sizes_and_the_ends_of_k(dtype: torch.dtype, size: int) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    for k in sorted({1, size * 6 // 10, size - 1, size} - {0}):
        check(x, k)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 9000])
def test_the_shipped_configuration(size: int) -> None:
    x = torch.randint(-300, 300, (size,), generator=torch.Generator().manual_seed(size)).float()
    for k in (1, size * 6 // 10, size):
        check(x, k, configuration())


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_ties_at_the_threshold_are_taken_from_the_lowest_index_across_programs(
    dtype: torch.dtype,
) -> None:
    x = torch.full((700,), 2.0, dtype=dtype)
    x[::5] = -3.0
    x[1::7] = 9.0
    config = Configuration(128, 3)
    for k in (139, 140, 141, 300, 601):
        check(x, k, config)
    for k in (1, 128, 129, 400):
        check(torch.full((500,), -0.0, dtype=dtype), k, config)
    check(torch.full((500,), NAN, dtype=dtype), 257, config)


def test_keys_that_differ_in_one_digit_alone() -> None:
    generator = np.random.default_rng(3)
    for dtype, width in ((torch.float32, 32), (torch.float64, 64), (torch.bfloat16, 16)):
        for shift in range(0, width, 8):
            base = int(generator.integers(0, 2**15)) << (width - 16)
            base &= ~(255 << shift)
            digits = generator.integers(0, 256, 300, dtype=np.uint64) << np.uint64(shift)
            x = from_pattern(digits | np.uint64(base), dtype)
            for k in (1, 150):
                check(x, k, Configuration(256, 2))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_any_strides(dtype: torch.dtype) -> None:
    base = torch.randint(-40, 40, (200,), generator=torch.Generator().manual_seed(4)).to(dtype)
    for _name, x in layouts_1d(base):
        check(x, 77)


def test_none_of_some_and_none_of_none() -> None:
    for values in (torch.empty(0), torch.ones(5, dtype=torch.bfloat16)):
        got = smallest_k(values, 0)
        oracle.check_selection(SmallestK(*got), values, 0)


def test_calls_leave_nothing_behind() -> None:
    x = torch.randn(300, generator=torch.Generator().manual_seed(0))
    first = smallest_k(x, 100)
    smallest_k(torch.full((3000,), -INF), 2500)
    again = smallest_k(x, 100)
    assert all(oracle.same_bits(a, b) for a, b in zip(first, again, strict=True))
