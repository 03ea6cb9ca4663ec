"""Selections on a GPU at the sizes where they are dangerous: slices beyond 48 KB of shared memory (1.28 M values), streamed
ones (8 M), grids that need every multiprocessor at once, and rounds that luck would spare them. The answers are the CPU's.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from cuda_calls import captured, same, same_there, spoil
from cuda_selections import Answer, Force, answer, numbers, select

CACHED, STREAMED = 1_280_000, 8_000_000
KINDS = ("random", "ties")
LARGE = [
    (CACHED, torch.float32),
    (CACHED, torch.float64),
    (STREAMED, torch.float32),
    (STREAMED, torch.bfloat16),
]
BYTES = (0x00, 0x01, 0x7F, 0xFF)
TIMEOUT = 45  # seconds, for a process that starts, makes its values and selects


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    return pytest.mark.gpu(skip(test))


@pytest.fixture(scope="module")
def native() -> ModuleType:
    """The compiled kernels, where they are those to be tested."""
    if os.environ.get("DYNAMS_KERNELS_BACKEND", "auto") not in ("auto", "native"):
        pytest.skip("other kernels are asked for")
    told: Any = dk.backends()
    if not told["native_cuda"]["usable"]:
        pytest.skip(told["native_cuda"]["why_not"])
    return importlib.import_module("dynams_kernels._cuda")


def share(size: int) -> int:
    return size * 6 // 10


# ------------------------------------------------------------------------------------ the tests' own means


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_compared_with_are_the_oracles(kind: str, dtype: torch.dtype) -> None:
    values = numbers(kind, 20_011, dtype, "cpu")
    assert bool(values.isnan().any()) == (kind == "ties")
    for k in (1, 200, 12_000, 20_011):
        want = oracle.smallest_k(oracle.array(values), k, "index")
        got = answer(values, k)
        assert np.array_equal(got.indices.numpy(), want)
        assert same([got.values], [values[torch.from_numpy(want)]])
        assert np.array_equal(np.flatnonzero(got.mask.numpy()), want)
        spoil(got.all(), 0xFF)
        assert not same_there(got.all(), answer(values, k).all())


# Ways a selection seldom goes, as shares of the values to select and what forces them. The ranks are of samples of 3968
# (cached) and 7680 (streamed; 3840 of doubles). Bins of one key are never placed, and a bracket of 16-bit numbers has no
# others: without a bracket, every type meets rounds that are not placed.
FORCED = {
    "missed low": (0.01, Force(bracket=(500, 900))),
    "missed high": (0.6, Force(bracket=(1, 9))),
    "unplaced": (0.6, Force(place=256)),
    "unplaced and unlisted": (0.6, Force(place=256, listed=256)),
    "no bracket": (0.6, Force(bracket=(-1, 1 << 20))),
    "no bracket, nothing listed": (0.6, Force(bracket=(-1, 1 << 20), place=256, listed=256)),
}


@pytest.mark.parametrize("sample", [3840, 3968, 7680])
def test_the_forced_brackets_miss_in_samples_of_every_size(sample: int) -> None:
    generator = torch.Generator().manual_seed(sample)
    samples = torch.randn(200, sample, generator=generator).sort().values.double()
    for name in ("missed low", "missed high"):
        wanted, force = FORCED[name]
        threshold = torch.special.ndtri(torch.tensor(wanted, dtype=torch.float64))
        low, high = force.bracket
        missed = (
            threshold < samples[:, low] if name == "missed low" else threshold > samples[:, high]
        )
        assert missed.all(), name


# ------------------------------------------------------------------------------------ on the GPU


@on_gpu
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 100_003, CACHED, STREAMED])
def test_masks_tell_which_are_selected(native: ModuleType, size: int, dtype: torch.dtype) -> None:
    backend = importlib.import_module("dynams_kernels._backends.native_cuda").NativeCuda(native)
    for kind in KINDS:
        values = numbers(kind, size, dtype)
        assert not backend.smallest_mask(values, 0).any()
        for k in {1, max(1, share(size)), size}:
            mask = backend.smallest_mask(values, k)
            assert mask.dtype == torch.bool
            assert same_there([mask.view(torch.uint8)], [answer(values, k).mask]), (kind, k)


@on_gpu
@pytest.mark.parametrize(("size", "dtype"), LARGE, ids=str)
def test_nothing_is_read_from_memory_that_was_not_written(
    native: ModuleType, size: int, dtype: torch.dtype
) -> None:
    values = numbers("ties", size, dtype)
    want = answer(values, share(size))
    for byte in BYTES:
        got = select(native, values, share(size), byte=byte)
        assert same_there(got.all(), want.all()), f"memory full of {byte:#x}"


@on_gpu
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("size", [CACHED, STREAMED])
def test_every_seldom_way_leads_to_the_answer(
    native: ModuleType, size: int, dtype: torch.dtype
) -> None:
    for kind in KINDS:
        values = numbers(kind, size, dtype)
        want: dict[int, Answer] = {}
        for name, (wanted, force) in FORCED.items():
            k = int(size * wanted)
            if k not in want:
                want[k] = answer(values, k)
            got = select(native, values, k, byte=0xFF, force=force)
            assert same_there(got.all(), want[k].all()), f"{kind}: {name}"


@on_gpu
@pytest.mark.parametrize(("size", "dtype"), LARGE, ids=str)
def test_captured_selections_are_replayed_on_new_values(size: int, dtype: torch.dtype) -> None:
    static = numbers("ties", size, dtype)
    graph, out = captured(lambda: list(dk.smallest_k(static, share(size))))
    for seed, kind in enumerate((*KINDS, *KINDS)):
        static.copy_(numbers(kind, size, dtype, seed=seed))
        want = answer(static, share(size)).selected()
        for byte in BYTES:
            spoil(out, byte)
            graph.replay()
            assert same_there(out, want), f"{kind}: replayed over {byte:#x}"


@on_gpu
def test_several_sizes_in_one_graph() -> None:
    # Each wants another amount of shared memory; in one order and the other, as a limit set by a call would be the last's.
    sizes = (100_003, CACHED, STREAMED, CACHED // 2, CACHED + 128)
    static = [
        numbers("random", size, dtype)
        for size in (*sizes, *reversed(sizes))
        for dtype in (torch.float32, torch.float64)
    ]

    def select_all() -> list[Tensor]:
        return [out for values in static for out in dk.smallest_k(values, share(len(values)))]

    graph, out = captured(select_all)
    dk.smallest_k(static[0][:5000], 100)  # a small one between capture and replay
    for seed in (1, 2):
        for values in static:
            values.copy_(numbers("ties", len(values), values.dtype, seed=seed))
        want = [t for values in static for t in answer(values, share(len(values))).selected()]
        for byte in BYTES:
            spoil(out, byte)
            graph.replay()
            assert same_there(out, want), f"replayed over {byte:#x}"


@on_gpu
@pytest.mark.parametrize(("size", "dtype"), LARGE, ids=str)
def test_selections_are_queued_on_the_current_stream(size: int, dtype: torch.dtype) -> None:
    late, now = numbers("random", size, dtype, seed=3), numbers("random", size, dtype, seed=4)
    want = answer(late, share(size)).selected()
    dk.smallest_k(now, share(size))
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # the values come long after the call was made
        now.copy_(late)
        got = list(dk.smallest_k(now, share(size)))
    side.synchronize()
    assert same_there(got, want)


@on_gpu
def test_grids_that_do_not_fit_together_all_end() -> None:
    program = Path(__file__).parents[1] / "support" / "concurrent_selections.py"
    try:
        done = subprocess.run(
            [sys.executable, str(program)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"still running after {TIMEOUT} s, done: {error.stdout!r}") from None
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split("\n") == ["streams_beside_a_product", "branches_of_one_graph", ""]


@on_gpu
@pytest.mark.parametrize(
    ("size", "dtype"),
    [(20_000_000, torch.float32), (20_000_000, torch.bfloat16), (256_000_000, torch.float32)],
    ids=str,
)
def test_the_largest_have_the_cpus_bits(
    size: int, dtype: torch.dtype, threads: Callable[[int], None]
) -> None:
    if torch.cuda.mem_get_info()[0] < 40 * size:
        pytest.skip(f"needs {40 * size >> 30} GiB of free GPU memory")
    threads(min(16, os.cpu_count() or 1))
    generator = torch.Generator("cuda").manual_seed(size)
    values = torch.randn(size, generator=generator, device="cuda").to(dtype)
    got, want = dk.smallest_k(values, share(size)), dk.smallest_k(values.cpu(), share(size))
    assert same_there([got.values], [want.values.cuda()])
    assert same_there([got.indices], [want.indices.cuda()])
    torch.cuda.empty_cache()  # other tests, maybe of other processes, need the room
