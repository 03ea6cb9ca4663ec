"""The machine code of the CUDA kernels: nothing spills, memory is read 16 bytes at a time. No GPU is needed, only nvcc or a build."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

import aot
import cuda_build

Compilations = dict[str, "Future[cuda_build.Compiled]"]

# They read what other kernels left: states of parts of rows, and the logits themselves once more, from cache.
READERS_OF_CACHE = ("merge_parts", "measure_parts")
# Choose among the kernels of others.
WITHOUT_KERNELS = ("row_scores.cu",)
DTYPES = ("f32", "f64", "f16", "bf16")
CAPABILITY = 90

needs_nvcc = pytest.mark.skipif(cuda_build.find_nvcc() is None, reason="nvcc is not installed")
needs_cuobjdump = pytest.mark.skipif(aot.cuobjdump() is None, reason="cuobjdump is not installed")


def _sources() -> list[Path]:
    sources = cuda_build.setup_constant("CUDA_SOURCES")
    return [cuda_build.ROOT / source for source in sources if source.endswith(".cu")]


def _spilling(usages: list[cuda_build.PtxasUsage]) -> list[str]:
    found = [usage for usage in usages if usage.stack or usage.spill_stores or usage.spill_loads]
    names = cuda_build.readable([usage.name for usage in found])
    return [
        f"{names[usage.name]}: {usage.registers} registers, {usage.stack} bytes of stack, "
        f"{usage.spill_stores} of spill stores, {usage.spill_loads} of spill loads"
        for usage in found
    ]


@pytest.fixture(scope="session")
def compiled_sources(
    tmp_path_factory: pytest.TempPathFactory,
) -> Compilations:
    """Every source compiled for sm_90."""
    folder = tmp_path_factory.mktemp("cuda")
    return cuda_build.compile_all(_sources(), CAPABILITY, folder)


def test_the_sources_are_those_of_the_build() -> None:
    folder = cuda_build.ROOT / "csrc" / "cuda"
    assert {source.name for source in _sources()} == {path.name for path in folder.glob("*.cu")}


@needs_nvcc
@pytest.mark.parametrize("source", [source.name for source in _sources()])
def test_no_kernel_spills_or_has_a_stack(source: str, compiled_sources: Compilations) -> None:
    usages = cuda_build.parse_ptxas(compiled_sources[source].result().report)
    assert bool(usages) == (source not in WITHOUT_KERNELS)
    assert all(usage.registers for usage in usages), "a function was not inlined"
    spilling = _spilling(usages)
    assert not spilling, "\n".join(spilling)


@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("dtype", DTYPES)
def test_row_scores_read_16_bytes_at_a_time(dtype: str, compiled_sources: Compilations) -> None:
    compiled = compiled_sources[f"row_scores_{dtype}.cu"].result()
    functions = cuda_build.read_binary(compiled.fatbin)[f"sm_{CAPABILITY}"]
    from_memory = {
        name: machine
        for name, machine in functions.items()
        if not any(reader in name for reader in READERS_OF_CACHE)
    }
    assert from_memory
    narrow = [name for name, machine in from_memory.items() if not machine.uses_wide_loads]
    assert list(cuda_build.readable(narrow).values()) == []


# ------------------------------------------------------------------------------------ the readers themselves

SPILLING = r"""
// 1024 threads leave 64 registers each; 160 values are alive at the barrier.
extern "C" __global__ void __launch_bounds__(1024) spilling(const float* in, float* out, int n) {
  float kept[160];
#pragma unroll
  for (int i = 0; i < 160; ++i) kept[i] = in[i * n + threadIdx.x];
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < 160; ++i) total = total * kept[159 - i] + kept[i];
  out[threadIdx.x] = total;
}
extern "C" __global__ void wide(const float4* in, float4* out) { out[threadIdx.x] = in[threadIdx.x]; }
"""

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4wideIfEvPKT_PS0_' for 'sm_90'
ptxas info    : Function properties for _Z4wideIfEvPKT_PS0_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
ptxas info    : Compile time = 17.963 ms
ptxas info    : Function properties for _Z6helperIfET_S0_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'spilling' for 'sm_90'
ptxas info    : Function properties for spilling
    656 bytes stack frame, 656 bytes spill stores, 820 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 656 bytes cumulative stack size
ptxas info    : Compile time = 29.462 ms
"""


def test_ptxas_reports_are_read_by_function() -> None:
    assert cuda_build.parse_ptxas(REPORT) == [
        cuda_build.PtxasUsage("_Z4wideIfEvPKT_PS0_", 12, 0, 0, 0),
        cuda_build.PtxasUsage("_Z6helperIfET_S0_", 0, 0, 0, 0),
        cuda_build.PtxasUsage("spilling", 64, 656, 656, 820),
    ]


def test_names_are_readable_or_left_alone() -> None:
    names = cuda_build.readable(["_Z4wideIfEvPKT_PS0_", "spilling"])
    assert names["_Z4wideIfEvPKT_PS0_"] in (
        "_Z4wideIfEvPKT_PS0_",
        "void wide<float>(float const*, float*)",
    )
    assert names["spilling"] == "spilling"


@needs_nvcc
def test_a_spill_and_a_narrow_load_are_noticed(tmp_path: Path) -> None:
    source, target = tmp_path / "sample.cu", tmp_path / "sample.fatbin"
    source.write_text(SPILLING)
    report = cuda_build.compile_fatbin(source, CAPABILITY, target)
    spilling = _spilling(cuda_build.parse_ptxas(report))
    assert len(spilling) == 1
    assert spilling[0].startswith("spilling: 64 registers")
    if aot.cuobjdump() is None:
        return
    functions = cuda_build.read_binary(target)[f"sm_{CAPABILITY}"]
    assert functions["spilling"].usage["STACK"] > 0
    assert aot.local_accesses(functions["spilling"].opcodes) > 0
    assert not functions["spilling"].uses_wide_loads
    assert functions["wide"].usage["STACK"] == 0
    assert functions["wide"].uses_wide_loads


@needs_nvcc
def test_a_source_that_does_not_compile_is_an_error_with_the_compilers_words(
    tmp_path: Path,
) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { undeclared(); }")
    with pytest.raises(RuntimeError, match="undeclared"):
        cuda_build.compile_fatbin(source, CAPABILITY, tmp_path / "wrong.fatbin")
