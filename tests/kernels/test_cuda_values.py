"""Row scores and selections on a GPU, on every path their kernels can take, against the oracle and the CPU's bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits, with_specials

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

DEVICE = "cuda"
NAN = math.nan
# Every change of path of either backend lies between two of these: rows in tiles, groups of 8, 16 and 32 lanes, a block a
# row, a row split over blocks; with their neighbours, no multiple of a vector.
# fmt: off
CLASSES = (
    2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 511, 513, 1000, 1023, 1024, 1025,
    2047, 2049, 4095, 4096, 4097, 8191, 8193, 16_383, 16_385, 32_000, 32_769, 50_257, 65_537, 128_256, 262_145, 1_000_000,
)
# fmt: on


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Puts before a failure what it is about."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{subject}: {error}") from None


def layouts(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Rows as a kernel can meet them: at 16-byte addresses, one element past, apart, all the same row."""
    rows, classes = x.shape
    yield "contiguous", x.clone()
    flat = x.new_full((x.numel() + 1,), NAN)
    yield "one element past", flat[1:].view(rows, classes).copy_(x)
    wide = x.new_full((rows, classes + 3), NAN)
    yield "apart", wide[:, 2:-1].copy_(x)
    yield "the same row", x[:1].expand(rows, classes)


def check_scores(x: Tensor, kinds: tuple[str, ...] = oracle.SCORE_KINDS) -> None:
    y = labels_for(x)
    got = dk.scores(x, kinds, labels=y.to(x.device))
    want = oracle.scores(oracle.array(x), kinds, y.numpy())
    for kind in kinds:
        exact = kind in ("gap", "label")
        with about(kind):
            oracle.check(got[kind], want[kind], ulps=0 if exact else 32, floor=0 if exact else 1)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_scores_on_every_path_and_layout(classes: int, dtype: torch.dtype) -> None:
    rows = 3 if classes > 4097 else 37
    x = random_logits(rows, classes, dtype, seed=classes).to(DEVICE)
    for name, view in layouts(x):
        with about(name):
            check_scores(view)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 10, 33, 100, 1000, 5003, 70_001])
def test_special_values_on_every_path(classes: int, dtype: torch.dtype) -> None:
    x = random_logits(16, classes, dtype, seed=classes)
    for share in (2 / classes, 0.3):
        rows = with_specials(x, seed=classes, share=share)
        for _, view in layouts(rows.to(DEVICE)):
            check_scores(view)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 9, 40, 1000, 5003, 70_001])
def test_the_two_largest_are_found_wherever_they_stand(classes: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(classes)
    x = random_logits(200, classes, dtype, seed=classes, scale=0.1)
    edges = torch.tensor([0, 1, classes - 1, classes - 2])
    for row in range(200):
        near = edges if row % 2 else torch.randint(classes, (4,), generator=generator)
        first, second = near[torch.randperm(4, generator=generator)[:2]]
        x[row, first] = 9.0
        x[row, second] = 9.0 if row % 5 == 0 else 7.0
    want = oracle.margin(oracle.array(x))
    for _, view in layouts(x.to(DEVICE)):
        if view.stride(0) != 0:
            oracle.check(dk.margin(view), want)


@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129, 1055, 1056, 1057, 20_011, 300_007])
@pytest.mark.parametrize("classes", [2, 10, 33, 100])
def test_any_number_of_rows(rows: int, classes: int) -> None:
    if rows * classes > 5_000_000:
        pytest.skip("the reference would take the test's time")
    for dtype in (torch.float32, torch.bfloat16):
        x = random_logits(rows, classes, dtype, seed=rows)
        oracle.check(dk.margin(x.to(DEVICE)), oracle.margin(oracle.array(x)))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 17, 300, 3001])
def test_distances_on_every_path(classes: int, dtype: torch.dtype) -> None:
    x = random_logits(25, classes, dtype, seed=classes)
    points = random_logits(classes, 3, seed=1)
    points[-1] = points[0]  # twins: no distance between them
    apart = torch.cdist(points, points)
    wide = torch.full((classes, 2 * classes), NAN)
    wide[:, ::2] = apart
    largest = torch.finfo(oracle.result_dtype(dtype)).max
    for distances in (apart, wide[:, ::2], apart.T, apart[:1].expand(classes, classes)):
        want = oracle.margin(oracle.array(x), "distance", None, oracle.array(distances), largest)
        got = dk.margin(x.to(DEVICE), kind="distance", class_distances=distances.to(DEVICE))
        oracle.check(got, want, ulps=4)


# ------------------------------------------------------------------------------------ selection


def processors() -> int:
    return torch.cuda.get_device_properties(DEVICE).multi_processor_count


def keys(size: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Keys of every kind a radix selection could stumble over."""
    generator = torch.Generator().manual_seed(size)
    plain = torch.randn(size, generator=generator)
    yield "random", plain.to(dtype)
    yield "margins", plain.abs().mul(5).to(dtype)
    yield "few distinct", torch.randint(0, 5, (size,), generator=generator).to(dtype)
    yield "equal", torch.full((size,), 0.25, dtype=dtype)
    rare = torch.rand(size, generator=generator) < 0.3
    yield "a third NaN", plain.masked_fill(rare, NAN).to(dtype)
    yield "specials", with_specials(plain.to(dtype), seed=size, share=0.5)
    yield (
        "one apart",
        torch.full((size,), 1.0, dtype=dtype).index_fill_(0, torch.tensor([size - 1]), -1.0),
    )
    yield "nearly sorted", plain.sort().values.to(dtype)


def check_selection(values: Tensor, ks: set[int]) -> None:
    """The CPU's bits, for each k; and the oracle's where that is cheap."""
    there = values.to(DEVICE)
    for k in sorted(ks):
        got, want = dk.smallest_k(there, k), dk.smallest_k(values, k)
        assert torch.equal(got.indices.cpu(), want.indices), f"indices of k = {k}"
        assert oracle.same_bits(got.values, want.values), f"values of k = {k}"
    if len(values) <= 20_000:
        oracle.check_selection(dk.smallest_k(there, len(values) // 2), values, len(values) // 2)


# fmt: off
SIZES = (
    1, 2, 3, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193, 12_287,
    12_289, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 65_535, 65_536, 65_537, 262_143, 262_145, 1_048_575, 1_280_000,
)
# fmt: on


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_selections_of_any_size_have_the_cpus_bits(size: int, dtype: torch.dtype) -> None:
    for name, values in keys(size, dtype):
        with about(name):
            check_selection(values, {0, 1, size // 3, size * 6 // 10, size - 1, size})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("beyond", [-1, 0, 1, 8192])
@pytest.mark.parametrize("bytes_a_processor", [4 << 12, 80 << 10, 200 << 10])
def test_selections_about_what_all_blocks_hold(
    bytes_a_processor: int, beyond: int, dtype: torch.dtype
) -> None:
    # Up to a size each block keeps its part in shared memory; beyond, parts are read again.
    size = processors() * bytes_a_processor // dtype.itemsize + beyond
    for name, values in keys(size, dtype):
        if name in ("random", "few distinct", "specials"):
            check_selection(values, {size * 6 // 10})


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_every_k_of_tied_keys(dtype: torch.dtype) -> None:
    values = torch.tensor(
        [0.0, -0.0, NAN, math.inf, -math.inf, 1.0, 1.0, -0.0, NAN] * 9, dtype=dtype
    )
    for k in range(len(values) + 1):
        for order in ("index", "value"):
            result = dk.smallest_k(values.to(DEVICE), k, order=order)
            oracle.check_selection(result, values, k, order)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_keys_that_start_anywhere(offset: int) -> None:
    for dtype in oracle.DTYPES:
        values = random_logits(1, 50_003, dtype)[0].round()
        flat = torch.full((50_003 + offset,), NAN, dtype=dtype, device=DEVICE)
        flat[offset:].copy_(values)
        oracle.check_selection(dk.smallest_k(flat[offset:], 30_000), values, 30_000)


# ------------------------------------------------------------------------------------ beyond 2^31 elements


@pytest.fixture
def room() -> None:
    """Memory for the largest tensors."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")


@pytest.mark.usefixtures("room")
def test_more_than_two_to_the_31_logits() -> None:
    rows, classes = 2**31 // 1000 + 999, 1000
    x = torch.zeros(rows, classes, dtype=torch.float16, device=DEVICE)
    x[:, 7] = 1.0
    tail = random_logits(600, classes, torch.float16, seed=5)
    x[-600:] = tail.to(DEVICE)
    got = dk.margin(x)
    oracle.check(got[-600:], oracle.margin(oracle.array(tail)))
    assert bool((got[:-600] == 1.0).all())


@pytest.mark.usefixtures("room")
def test_more_than_two_to_the_31_values() -> None:
    size = 2**31 + 100_003
    values = torch.ones(size, dtype=torch.float16, device=DEVICE)
    low = torch.tensor([5, 2**31 - 1, 2**31, size - 2, size - 1], device=DEVICE)
    values[low] = torch.tensor([0.5, -2.0, 0.5, NAN, -1.0], dtype=torch.float16, device=DEVICE)
    got = dk.smallest_k(values, 6)
    want = np.array([0, 1, 5, 2**31 - 1, 2**31, size - 1])
    assert np.array_equal(got.indices.cpu().numpy(), want)
    assert oracle.same_bits(got.values, values[got.indices])
    all_but_nan = dk.smallest_k(values[: 2**31 + 7], 2**20 + 3)
    assert bool((all_but_nan.indices[1:] > all_but_nan.indices[:-1]).all())
    assert all_but_nan.indices[-1].item() == 2**31
