"""The GPU's selection, run by C++ threads: the same block algorithm as the CUDA kernel's, compiled by the host's compiler
for tests/executor, plainly and under the thread, address and undefined-behaviour sanitizers. Blocks of 32 threads, 64 bins
and lists of a few members take small inputs down every path that millions of values take on a GPU.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sanitizers

ROOT = Path(__file__).parents[2]
SECONDS = 120

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the executor is built and tried on Linux only"
)

# Of tests/executor/selection_driver.cpp and csrc/common/smallest_k_block.h.
TILE, MEMBERS = 256, 6
SAMPLE = 96
EVENTS = (
    "ranked members",
    "single key",
    "split ties",
    "missed low",
    "missed high",
    "narrowed",
    "unplaced",
    "unlisted",
)

Bits = npt.NDArray[Any]
FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = range(4)
UNSIGNED = (np.uint32, np.uint64, np.uint16, np.uint16)
FRACTION_BITS = (23, 52, 10, 7)


@dataclass(frozen=True)
class Case:
    name: str
    bits: Bits
    k: int
    dtype: int = FLOAT32
    cached: bool = True
    blocks: int = 3
    slice: int = 0  # 0: as many values as leave none over
    sample: bool = True
    ranks: tuple[int, int] = (
        0,
        0,
    )  # in the sample; (0, 0): those that the kernel's launch would set
    place: int = 64
    list: int = 64
    values: bool = True
    mask: bool = True
    garbage: int = 1
    lead: int = 0  # elements by which values and answers lie behind where vectors begin

    def packed(self) -> bytes:
        n = len(self.bits)
        size = self.slice or -(-n // self.blocks)
        fields = (
            *(self.dtype, self.cached, self.blocks, size, self.sample, *self.ranks),
            *(min(self.place, size + MEMBERS), self.list, n, self.k),
            *(self.values, self.mask, self.garbage, self.lead),
        )
        return struct.pack("<15q", *fields) + self.bits.astype(UNSIGNED[self.dtype]).tobytes()


@dataclass(frozen=True)
class Answer:
    values: Bits
    indices: npt.NDArray[np.int64]
    mask: npt.NDArray[np.uint8]
    events: frozenset[str]
    once: bool


# ------------------------------------------------------------------------------------ inputs


def bits_of(values: npt.ArrayLike, dtype: int) -> Bits:
    """The bits of numbers rounded to a dtype (bfloat16: cut off)."""
    wide = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        if dtype == FLOAT64:
            return wide.view(np.uint64)
        if dtype == FLOAT16:
            return wide.astype(np.float16).view(np.uint16)
        single = wide.astype(np.float32).view(np.uint32)
    return (single >> 16).astype(np.uint16) if dtype == BFLOAT16 else single


def numbers_of(bits: Bits, dtype: int) -> npt.NDArray[np.float64]:
    """The numbers that bits stand for, exactly."""
    if dtype == FLOAT64:
        return bits.astype(np.uint64).view(np.float64)
    if dtype == FLOAT16:
        return bits.astype(np.uint16).view(np.float16).astype(np.float64)
    single = bits.astype(np.uint32) << 16 if dtype == BFLOAT16 else bits.astype(np.uint32)
    with np.errstate(invalid="ignore"):
        return single.astype(np.uint32).view(np.float32).astype(np.float64)


def special_bits(dtype: int) -> Bits:
    """Both zeros and infinities, NaNs of both signs and several payloads, subnormals, the largest numbers."""
    width, fraction = 8 * np.dtype(UNSIGNED[dtype]).itemsize, FRACTION_BITS[dtype]
    sign, quiet = 1 << (width - 1), 1 << (fraction - 1)
    infinity = (sign - 1) & ~((1 << fraction) - 1)
    one_sign = [
        0,
        infinity,
        infinity | 1,
        infinity | quiet,
        infinity | quiet | 1,
        1,
        2,
        infinity - 1,
    ]
    return np.array(one_sign + [sign | b for b in one_sign], dtype=np.uint64)


def inputs(dtype: int, n: int) -> dict[str, Bits]:
    rng = np.random.default_rng(n + 10_000 * dtype)
    normal = rng.standard_normal(n)
    width = 8 * np.dtype(UNSIGNED[dtype]).itemsize
    return {
        "normal": bits_of(normal, dtype),
        "of one sign": bits_of(np.abs(normal) + 0.01, dtype),
        "sorted": bits_of(np.sort(normal), dtype),
        "reversed": bits_of(np.sort(normal)[::-1], dtype),
        "few values": bits_of(np.round(normal), dtype),
        "two values": bits_of(np.where(normal > 0.3, 1.0, -2.0), dtype),
        "half tied": bits_of(np.where(normal > 0.2, normal, 0.2), dtype),
        "constant": bits_of(np.full(n, -1.5), dtype),
        "zeros of both signs": bits_of(np.where(normal > 0, 0.0, -0.0), dtype),
        "all NaN": rng.choice(special_bits(dtype)[[2, 3, 4, 10, 11, 12]], n),
        "any bits": rng.integers(0, 1 << width, n, dtype=np.uint64),
        "specials": np.where(
            rng.random(n) < 0.3,
            rng.choice(special_bits(dtype), n),
            bits_of(normal, dtype).astype(np.uint64),
        ),
        "next to each other": bits_of(np.ones(n), dtype).astype(np.uint64)
        + rng.integers(0, n // 3 + 1, n, np.uint64),
        "a cliff in the slice": bits_of(
            np.where(np.arange(n) < n // 3, normal * 1e-3, normal + 9), dtype
        ),
    }


# ------------------------------------------------------------------------------------ building and running


@dataclass(frozen=True)
class Driver:
    path: Path

    def run(self, cases: Sequence[Case], folder: Path) -> list[Answer]:
        given = b"".join(case.packed() for case in cases)
        return parse(sanitizers.run_program(self.path, given, folder, SECONDS), cases)


def parse(raw: bytes, cases: Sequence[Case]) -> list[Answer]:
    answers, at = [], 0

    def take(dtype: Any, count: int) -> Any:
        nonlocal at
        out = np.frombuffer(raw, dtype, count, at)
        at += out.nbytes
        return out

    for case in cases:
        k = case.k if case.values else 0
        values, indices = take(UNSIGNED[case.dtype], k), take(np.int64, k)
        mask = take(np.uint8, len(case.bits) if case.mask else 0)
        events, once = (int(x) for x in take(np.uint64, 2))
        noted = frozenset(name for i, name in enumerate(EVENTS) if events >> i & 1)
        answers.append(Answer(values, indices, mask, noted, once == 1))
    assert at == len(raw)
    return answers


PROBE = "#include <atomic>\nint main() { std::atomic<int> x{0}; x.notify_all(); }\n"


def build(folder: Path, flags: Sequence[str] = (), sanitizer: str = "") -> Driver:
    includes = (f"-I{ROOT / 'csrc/common'}", f"-I{ROOT / 'tests/executor'}")
    return Driver(
        sanitizers.compile_program(
            ROOT / "tests/executor/selection_driver.cpp",
            folder,
            ("-std=c++20", *includes, *flags),
            sanitizer=sanitizer,
            probe=PROBE,
        )
    )


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return build(tmp_path_factory.mktemp("executor"))


# ------------------------------------------------------------------------------------ what must come out


def smallest(case: Case) -> npt.NDArray[np.int64]:
    """The indices of the k smallest: by value, NaN last, then by index."""
    numbers = numbers_of(case.bits, case.dtype)
    nan = np.isnan(numbers)
    order = np.lexsort((np.arange(len(numbers)), np.where(nan, 0.0, numbers), nan))
    return np.sort(order[: case.k])


def check(case: Case, answer: Answer) -> None:
    expected = smallest(case)
    assert answer.once, f"{case.name}: some place of the answer was not written exactly once"
    if case.values:
        np.testing.assert_array_equal(answer.indices, expected, err_msg=case.name)
        bits = case.bits.astype(UNSIGNED[case.dtype])[expected]
        np.testing.assert_array_equal(answer.values, bits, err_msg=case.name)
    if case.mask:
        mask = np.zeros(len(case.bits), np.uint8)
        mask[expected] = 1
        np.testing.assert_array_equal(answer.mask, mask, err_msg=case.name)


def check_all(driver: Driver, cases: Sequence[Case], folder: Path) -> list[Answer]:
    answers = driver.run(cases, folder)
    for case, answer in zip(cases, answers, strict=True):
        check(case, answer)
    return answers


def every_path(dtype: int, cached: bool) -> list[tuple[Case, str]]:
    """Cases made for one event each."""
    base = Case("", np.array([]), 1, dtype, cached)
    made = inputs(dtype, 500)
    normal, tied, near = made["normal"], made["half tied"], made["next to each other"]
    last = SAMPLE
    cases = [
        (replace(base, name="plain", bits=normal, k=270), "ranked members"),
        (replace(base, name="one value", bits=made["constant"], k=77), "single key"),
        (replace(base, name="ties split in a block", bits=tied, k=200), "split ties"),
        (replace(base, name="low", bits=normal, k=20, ranks=(last - 9, last - 1)), "missed low"),
        (replace(base, name="high", bits=normal, k=490, ranks=(1, 9)), "missed high"),
        (
            replace(base, name="no sample", bits=near, k=250, sample=False, place=256, list=256),
            "narrowed",
        ),
    ]
    if dtype in (
        FLOAT32,
        FLOAT64,
    ):  # bins of a single key are never placed: sixteen bits have little else
        cases.append(
            (replace(base, name="no place", bits=normal, k=250, place=MEMBERS), "unplaced")
        )
    if not cached:
        cases.append(
            (replace(base, name="not listed", bits=normal, k=250, place=8, list=8), "unlisted")
        )
    return cases


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "streamed"])
@pytest.mark.parametrize("dtype", range(4), ids=["float32", "float64", "float16", "bfloat16"])
def test_every_path_is_walked_and_right(
    driver: Driver, dtype: int, cached: bool, tmp_path: Path
) -> None:
    pairs = every_path(dtype, cached)
    answers = check_all(driver, [case for case, _ in pairs], tmp_path)
    for (case, event), answer in zip(pairs, answers, strict=True):
        assert event in answer.events, f"{case.name}: {sorted(answer.events)}"


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "streamed"])
@pytest.mark.parametrize("dtype", range(4), ids=["float32", "float64", "float16", "bfloat16"])
def test_order_and_ties_of_every_input(
    driver: Driver, dtype: int, cached: bool, tmp_path: Path
) -> None:
    cases = [
        Case(name, bits, k, dtype, cached, blocks=blocks, garbage=i)
        for i, (name, bits) in enumerate(inputs(dtype, 331).items())
        for blocks, k in ((2, 199), (3, 40 + 15 * i))
    ]
    check_all(driver, cases, tmp_path)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "streamed"])
def test_ragged_sizes_of_values_slices_and_answers(
    driver: Driver, cached: bool, tmp_path: Path
) -> None:
    cases = []
    for n in (1, 2, 31, 32, 33, 64, 96, 97, TILE - 1, TILE, TILE + 1, 2 * TILE + 37):
        bits = inputs(FLOAT32, n)["specials"]
        for blocks, k in ((1, 1), (1, (n + 1) // 2), (2, n)):
            cases.append(Case(f"{n} in {blocks}", bits, k, cached=cached, blocks=blocks))
    normal = inputs(FLOAT32, 100)["normal"]
    cases.append(Case("the last block has none", normal, 60, cached=cached, blocks=3, slice=64))
    cases.append(Case("one of two has all", normal, 60, cached=cached, blocks=2, slice=128))
    check_all(driver, cases, tmp_path)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "streamed"])
@pytest.mark.parametrize(
    "dtype", [FLOAT32, FLOAT64, BFLOAT16], ids=["float32", "float64", "bfloat16"]
)
def test_slices_of_several_tiles(driver: Driver, dtype: int, cached: bool, tmp_path: Path) -> None:
    """Tiles follow each other in counting and writing; ties end in a later one; a list holds one tile at most."""
    made = inputs(dtype, 3 * TILE + 91)
    names = ("normal", "sorted", "half tied", "two values", "constant", "specials", "all NaN")
    base = Case("", np.array([]), 1, dtype, cached, place=TILE, list=TILE)
    cases = [
        replace(base, name=name, bits=made[name], k=k, blocks=blocks, garbage=7 * i + blocks)
        for i, name in enumerate(names)
        for blocks, k in ((1, 2 * TILE + 130), (2, TILE // 2 + 40 * i))
    ]
    answers = check_all(driver, cases, tmp_path)
    noted = frozenset().union(*(answer.events for answer in answers))
    assert noted >= {"unlisted", "split ties", "ranked members"}


@pytest.mark.parametrize("lead", range(4))
def test_values_and_answers_may_begin_anywhere(driver: Driver, lead: int, tmp_path: Path) -> None:
    """Vectors are read and written where memory allows, and nowhere else."""
    cases = [
        Case(f"{dtype}", inputs(dtype, 300)["specials"], 170, dtype, cached, lead=lead)
        for dtype in range(4)
        for cached in (True, False)
    ]
    check_all(driver, cases, tmp_path)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "streamed"])
def test_values_or_the_mask_alone(driver: Driver, cached: bool, tmp_path: Path) -> None:
    cases = [
        Case(
            name,
            inputs(FLOAT32, 200)[name],
            120,
            cached=cached,
            blocks=2,
            values=values,
            mask=not values,
        )
        for name in ("normal", "two values")
        for values in (True, False)
    ]
    check_all(driver, cases, tmp_path)


def test_runs_differ_in_nothing_whatever_scratch_holds(driver: Driver, tmp_path: Path) -> None:
    case = Case("normal", inputs(FLOAT32, 400)["half tied"], 220)
    answers = check_all(driver, [replace(case, garbage=seed) for seed in range(8)], tmp_path)
    assert {answer.events for answer in answers} == {answers[0].events}


@pytest.mark.parametrize(
    "sanitizer", ["thread", "address,undefined"], ids=["thread", "address and undefined"]
)
def test_no_race_no_stray_access(sanitizer: str, tmp_path: Path) -> None:
    driver = build(tmp_path, ["-DDYNAMS_EXECUTOR_FLOAT32_ONLY"], sanitizer)
    cases = [case for cached in (True, False) for case, _ in every_path(FLOAT32, cached)]
    made = inputs(FLOAT32, 150)
    cases += [
        Case(name, made[name], 91, cached=True, blocks=2) for name in ("specials", "two values")
    ]
    cases += [
        Case("one block", made["normal"], 150, cached=cached, blocks=1) for cached in (True, False)
    ]
    tied = inputs(FLOAT32, 2 * TILE + 91)["half tied"]
    cases += [
        Case("tiles", tied, 400, cached=cached, blocks=1, place=TILE, list=TILE, lead=cached)
        for cached in (True, False)
    ]
    check_all(driver, cases, tmp_path)
