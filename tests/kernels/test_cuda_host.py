"""What the host does around a launch of the compiled CUDA kernels, with no GPU: whose device is current, and what one launch takes."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cuda_on_host
from dynams_kernels import _device
from dynams_kernels._backends import native_cuda
from dynams_kernels._backends.gpu import Gpu
from kernel_inputs import random_logits

CSRC = Path(__file__).parent.parent.parent / "csrc"

# ------------------------------------------------------------------------------------ csrc/cuda/current_device.h

# Three devices, of which the last cannot be used; every change and every question is noted.
RUNTIME = """
#pragma once
#include <string>
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
inline int current = 0;
inline std::string notes;
inline cudaError_t cudaGetDevice(int* device) { *device = current; return cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  notes += "set " + std::to_string(device) + ";";
  if (device > 1) return cudaErrorInvalidDevice;
  current = device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  notes += "ask " + std::to_string(device) + ";";
  if (device > 1 && device < 64) return cudaErrorInvalidDevice;
  *value = 100 + device;
  return cudaSuccess;
}
"""

PROGRAM = """
#include "cuda/current_device.h"
#include <cstdio>
using namespace dynams;
void launch_on(int device) {
  const OnDevice on_device(device);
  notes += "in " + std::to_string(current) + " error " + std::to_string(on_device.error()) + ";";
}
void count(int device) {
  int found = -1;
  const int error = count_multiprocessors(device, found);
  notes += (error != cudaSuccess ? "error" : std::to_string(found)) + ";";
}
int main() {
  const char* separator = "[";
  for (int device : {1, 0, 2}) {
    notes.clear();
    launch_on(device);
    std::printf("%s\\"%safter %d\\"", separator, notes.c_str(), current);
    separator = ", ";
  }
  for (int device : {1, 1, 0, 2, 2, 64, 64}) {
    notes.clear();
    count(device);
    std::printf(", \\"%s\\"", notes.c_str());
  }
  std::printf("]");
}
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler = cuda_on_host.compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("current_device")
    (folder / "cuda_runtime_api.h").write_text(RUNTIME)
    (folder / "main.cpp").write_text(PROGRAM)
    flags = ("-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{folder}", f"-I{CSRC}")
    command = [*compiler, *flags, str(folder / "main.cpp"), "-o", str(folder / "main")]
    subprocess.run(command, check=True)
    done = subprocess.run([folder / "main"], check=True, capture_output=True, text=True)
    lines: list[str] = json.loads(done.stdout)
    return lines


def test_a_launch_on_another_device_leaves_the_current_one(told: list[str]) -> None:
    assert told[0] == "set 1;in 1 error 0;set 0;after 0"


def test_a_launch_on_the_current_device_sets_none(told: list[str]) -> None:
    assert told[1] == "in 0 error 0;after 0"


def test_a_device_that_cannot_be_set_is_an_error_and_changes_nothing(told: list[str]) -> None:
    assert told[2] == "set 2;in 0 error 101;after 0"


def test_a_device_is_asked_once_for_its_multiprocessors(told: list[str]) -> None:
    assert told[3:6] == ["ask 1;101;", "101;", "ask 0;100;"]
    # An error is not kept as a count; a device past the table is asked every time.
    assert told[6:8] == ["ask 2;error;", "ask 2;error;"]
    assert told[8:10] == ["ask 64;164;", "ask 64;164;"]


# ------------------------------------------------------------------------------------ the Python side


class Devices:
    """torch's current device, of two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = 0
        monkeypatch.setattr(_device, "_current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "device", self.guard)

    @contextmanager
    def guard(self, device: int) -> Iterator[None]:
        before, self.current = self.current, device
        try:
            yield
        finally:
            self.current = before


def test_the_first_call_on_another_device_asks_there_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = Devices(monkeypatch)
    asked: list[tuple[str, int, int]] = []

    def answer(question: str, answers: dict[int, str]) -> Callable[[int], str]:
        def why_not(device: int) -> str:
            asked.append((question, device, devices.current))
            return answers.get(device, "")

        return why_not

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8 + device, 0))
    module = SimpleNamespace(
        HOPPER="",
        why_unusable=answer("any", {}),
        why_no_linear_scores=answer("linear", {0: "compute capability 8.0, want 9.0"}),
    )
    gpu = Gpu(module, None, "auto")  # type: ignore[arg-type]
    for device in (1, 0, 1):
        names = gpu.serves(device).names()
        assert names["row_scores"] == "native_cuda"
        assert names["linear_scores"] == ("native_cuda, eager" if device == 1 else "eager")
        assert devices.current == 0
    assert asked == [("any", 1, 1), ("linear", 1, 1), ("any", 0, 0), ("linear", 0, 0)]


def test_a_hopper_device_that_cannot_run_the_linear_head_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Devices(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    module = SimpleNamespace(
        HOPPER="", why_unusable=lambda _: "", why_no_linear_scores=lambda _: "out of memory"
    )
    gpu = Gpu(module, None, "auto")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="linear head is not used: out of memory"):
        assert gpu.serves(0).names()["linear_scores"] == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu.serves(0).rows is not None
        # Built without it is no news: the build said so.
        module.HOPPER = "DYNAMS_CUTLASS=off"
        gpu.serves(1)


def test_a_device_that_cannot_be_asked_leaves_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = Devices(monkeypatch)

    def why_unusable(device: int) -> str:
        raise RuntimeError("lost")

    gpu = Gpu(SimpleNamespace(why_unusable=why_unusable), None, "auto")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="lost"):
        gpu.serves(1)
    assert devices.current == 0


def test_a_launch_for_another_device_is_made_there(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices(monkeypatch)
    made: list[tuple[str, int]] = []
    for device in (0, 1):
        native_cuda._launch(lambda name: made.append((name, devices.current)), device, ("one",))
    assert made == [("one", 0), ("one", 1)]
    assert devices.current == 0


class Calls:
    """The compiled module's place: notes calls, asks for scratch, writes nothing."""

    def __init__(self, scratch: int) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []
        self.scratch = scratch

    def row_scores(self, *arguments: Any) -> None:
        self.made.append(("row_scores", arguments))
        assert arguments[11](self.scratch).data_ptr() % 16 == 0

    def smallest_k(self, *arguments: Any) -> None:
        self.made.append(("smallest_k", arguments))
        assert arguments[7](self.scratch).numel() == self.scratch


def test_one_native_call_makes_a_launch_on_the_current_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_cuda, "raw_stream", lambda device: 7000 + device)
    module = Calls(scratch=300)
    backend = native_cuda.NativeCuda(module)  # type: ignore[arg-type]
    x = random_logits(6, 9)
    scores = backend.row_scores(x, None, None, 0b1000001)
    (one,) = (backend.row_score(x.t().contiguous().t(), None, None, 1),)
    values, indices = backend.smallest_k(x[:, 0], 4, False)
    mask = backend.smallest_mask(x[:, 0], 4)
    assert [name for name, _ in module.made] == ["row_scores"] * 2 + ["smallest_k"] * 2
    several, single, selection, masked = (arguments for _, arguments in module.made)
    # The CPU's tensors stand in for a GPU's; their device has number -1.
    assert several[:11] == (x.data_ptr(), 0, 6, 9, 9, 0, 0, 0, 65, scores.data_ptr(), 6)
    assert several[12:] == (-1, 6999)
    assert single[1:11] == (0, 6, 9, 9, 0, 0, 0, 1, one.data_ptr(), 6)
    assert selection[1:7] == (0, 6, 4, values.data_ptr(), indices.data_ptr(), 0)
    assert selection[8:] == (-1, 6999)
    assert masked[4:7] == (0, 0, mask.data_ptr())
    assert (scores.shape, one.shape, values.shape, mask.dtype) == ((2, 6), (6,), (4,), torch.bool)
