"""A kernel launched again goes straight to what Triton compiled, with the very arguments Triton would give it, or to Triton."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

import launches

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

import triton
import triton.language as tl
from triton.compiler import CompiledKernel

from dynams_kernels._triton import launch as launch_module
from dynams_kernels._triton.launch import Launch


@triton.jit
def kernel(x, absent, out, count, step, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    pass


class Compiled(CompiledKernel):
    """What Triton keeps of a kernel, without a driver: notes what it is launched with."""

    def __init__(self, seen: list[tuple[Any, ...]]) -> None:
        self.module, self.function, self.packed_metadata = object(), object(), object()
        self.seen = seen

    def run(self, *given: Any) -> None:
        self.seen.append(given)

    def launch_metadata(self, *_: Any) -> None:
        pass


class Searched:
    """The kernel, and how often Triton is asked for it."""

    def __init__(self) -> None:
        self.fn = kernel.fn
        self.times = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.times += 1
        return kernel[grid]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of every launch."""
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(triton.compiler, "compile", lambda *_, **__: Compiled(made))
    kernel.device_caches.clear()  # which keep what compiles
    monkeypatch.setattr(launch_module, "raw_stream", lambda _device: 0)
    with launches.named_gpu(90):
        yield made


def test_it_is_launched_as_triton_would(seen: list[tuple[Any, ...]]) -> None:
    searched = Searched()
    # Constants by name, in another order than the kernel has them; options among them.
    launch = Launch(searched, (3, 2), (7, 16), {"BLOCK": 8, "num_warps": 2, "WIDE": True})
    x, out = torch.zeros(64), torch.zeros(64)
    for _ in range(3):
        launch(0, x, None, out)
    assert searched.times == 1
    first, *others = seen
    # Without the compiled function, which each compilation has its own of, and Triton's hooks.
    assert first[:4] == (3, 2, 1, 0)
    assert first[9:] == (x, None, out, 7, 16, True, 8)
    for other in others:
        assert len(other) == len(first)
        assert all(
            one is another or one == another for one, another in zip(first, other, strict=True)
        )


def test_what_it_was_not_compiled_for_is_triton_s_to_launch(seen: list[tuple[Any, ...]]) -> None:
    searched = Searched()
    launch = Launch(searched, (1,), (1, 2), {"WIDE": False, "BLOCK": 4})
    x, out = torch.zeros(64), torch.zeros(64)
    asked = 0
    for device, *tensors in (
        (0, x, None, out),
        (0, x.int(), None, out),
        (0, x, x, out),
        (1, x, None, out),
    ):
        launch(device, *tensors)
        launch(device, *tensors)
        asked += 1
        assert searched.times == asked
    for _ in range(2):  # never kept: the next address may be aligned
        launch(0, x[1:], None, out)
        asked += 1
        assert searched.times == asked
    launch(0, x, None, out)
    assert searched.times == asked
    assert len(seen) == 11
