"""The installed CUDA module: it imports with neither GPU nor driver, says what it is, and holds the code it says it holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import aot
import cuda_build
import dynams_kernels as dk
from cuda_requirements import build_requirements

MODULE = cuda_build.installed_module()
PRIMITIVES = {"row_scores", "linear_scores", "smallest_k"}

installed = pytest.mark.skipif(MODULE is None, reason="the CUDA module is not built")
needs_cuobjdump = pytest.mark.skipif(aot.cuobjdump() is None, reason="cuobjdump is not installed")


def run(code: str, **environment: str) -> Any:
    """What `code` prints last, as JSON, in a process of its own that sees no GPU."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DYNAMS_")}
    env |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env | environment,
        cwd=Path(__file__).parent,  # not the source tree, whose package may have no compiled module
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_installation_beside_a_cuda_compiler_has_the_module() -> None:
    if cuda_build.ROOT in Path(dk.__file__).parents:
        pytest.skip("the package is imported from its source tree")
    if cuda_build.find_nvcc() is None or os.environ.get("DYNAMS_BUILD_CUDA") == "off":
        pytest.skip("no nvcc, or DYNAMS_BUILD_CUDA=off")
    assert MODULE is not None, "nvcc is here, but the module was not built"
    if build_requirements() or os.environ.get("DYNAMS_CUTLASS", "off") != "off":
        assert without_hopper() == ""


def without_hopper() -> str:
    """Why the module has no kernels for Hopper; empty where it has them."""
    code = "import json; from dynams_kernels._cuda import HOPPER; print(json.dumps(HOPPER))"
    return str(run(code))


# ------------------------------------------------------------------------------------ import

IMPORT_ALONE = f"""
import importlib.util, json
spec = importlib.util.spec_from_file_location("dynams_kernels._cuda", {str(MODULE)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
loaded = open("/proc/self/maps").read()
print(json.dumps([module.ARCHITECTURES, module.CUDA_VERSION,
                  [name for name in ("libcuda.so", "libcudart", "libtorch", "libc10") if name in loaded]]))
"""


@installed
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_it_loads_alone_without_torch_driver_or_toolkit() -> None:
    architectures, version, loaded = run(IMPORT_ALONE)
    assert architectures
    assert re.fullmatch(r"\d+\.\d+", version)
    assert loaded == []


@installed
def test_without_a_gpu_its_calls_are_errors_that_say_so() -> None:
    code = """
import json
import dynams_kernels._cuda as module
said = [module.why_unusable(0)]
rows = lambda: module.row_scores(1, 0, 8, 8, 8, 0, 0, 0, 1, 1, 8, list, 0, 0)
smallest = lambda: module.smallest_k(1, 0, 100, 10, 1, 1, 0, list, 0, 0)
for call in (rows, smallest):
    try:
        call()
    except RuntimeError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    why, *errors = run(code)
    assert why
    assert len(errors) == 2
    assert all("cudaError" in error for error in errors)


# ------------------------------------------------------------------------------------ backends()


@cache
def told_without_gpu() -> dict[str, Any]:
    told: dict[str, Any] = run(
        "import json, dynams_kernels as dk; print(json.dumps(dk.backends()))"
    )
    return told


def test_backends_tells_of_the_module_what_is_so() -> None:
    told = told_without_gpu()["native_cuda"]
    assert {"compiled", "usable", "why_not"} <= set(told)
    assert told["compiled"] is (MODULE is not None)
    assert told["usable"] is False
    if MODULE is None:
        assert "not built" in told["why_not"]
    else:
        assert "no CUDA device" in told["why_not"]
        assert told["architectures"]


def test_backends_tells_of_triton_what_is_so() -> None:
    told = told_without_gpu()["triton"]
    assert {"compiled", "usable", "why_not", "version"} <= set(told)
    try:
        import triton
    except ImportError:
        assert told["compiled"] is False
        assert "not installed" in told["why_not"]
    else:
        assert told["compiled"] is True
        assert told["version"] == triton.__version__
        assert "no CUDA device" in told["why_not"]
    assert told["usable"] is False


def test_backends_tells_who_serves_whom() -> None:
    serves = told_without_gpu()["serves"]
    assert serves["cpu"] in ("native_cpu", "eager")
    assert serves["other"] == "eager"
    assert serves["cuda"] == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_with_a_gpu_every_primitive_is_served() -> None:
    told: dict[str, Any] = dk.backends()
    serves = told["serves"]["cuda"]
    assert set(serves) == PRIMITIVES
    for primitive, servers in serves.items():
        assert all(told[server]["usable"] for server in servers.split(", ")), primitive
    if MODULE is not None and os.environ.get("DYNAMS_KERNELS_BACKEND", "auto") == "auto":
        assert told["native_cuda"]["usable"], told["native_cuda"]["why_not"]
        assert serves["row_scores"] == serves["smallest_k"] == "native_cuda"


def test_importing_the_package_does_not_import_triton() -> None:
    # It takes half a second, which a process that never meets a GPU should not pay.
    code = "import json, sys, dynams_kernels; print(json.dumps('triton' in sys.modules))"
    assert run(code) is False


# ------------------------------------------------------------------------------------ machine code


@pytest.fixture(scope="module")
def binary() -> cuda_build.Binary:
    assert MODULE is not None
    return cuda_build.read_binary(MODULE)


@installed
@needs_cuobjdump
def test_it_holds_code_for_the_architectures_it_names(binary: cuda_build.Binary) -> None:
    named = told_without_gpu()["native_cuda"]["architectures"]
    everywhere = {name for name in named if name.startswith("sm_")}
    # The linear head's kernels are Hopper's alone.
    assert set(binary) == everywhere | (set() if without_hopper() else {"sm_90a"})
    # The newest one's intermediate code too, which a driver compiles for GPUs to come.
    newest = max((name.partition("_")[2] for name in everywhere), key=int)
    assert [name for name in named if name.startswith("compute_")] == [f"compute_{newest}"]
    assert MODULE is not None
    assert f"sm_{newest}.ptx" in aot.run_cuobjdump("-lptx", MODULE)
    kernels = [set(binary[name]) for name in everywhere]
    assert kernels[0]
    assert all(len(other) == len(kernels[0]) for other in kernels)


@installed
@needs_cuobjdump
def test_no_kernel_in_it_has_local_memory(binary: cuda_build.Binary) -> None:
    wrong = [
        (architecture, name, machine.usage)
        for architecture, functions in binary.items()
        for name, machine in functions.items()
        if machine.usage["STACK"] or machine.usage["LOCAL"] or aot.local_accesses(machine.opcodes)
    ]
    readable = cuda_build.readable([name for _, name, _ in wrong])
    assert not wrong, "\n".join(
        f"{place}: {readable[name]}: {usage}" for place, name, usage in wrong
    )
