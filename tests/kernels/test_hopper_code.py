"""The machine code of the linear head's Hopper kernels, as the build left it or the installed module holds it: no GPU is needed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest

import aot
import cuda_build
from hopper_on_host import TILES

TARGET = "sm_90a"
SOURCE = cuda_build.ROOT / "csrc" / "cuda" / "hopper" / "head_kernels.cu"


@dataclass(frozen=True)
class HopperKernel:
    """One kernel: by which types it is made, and its code. `products`: of 64 rows, of a warpgroup for a tile."""

    products: int
    groups: int
    columns: int
    element: str
    task: str
    machine: cuda_build.Machine

    @property
    def has_aside(self) -> bool:
        """Whether a warp of those that load takes part in the ends of tiles (aside.cuh)."""
        return self.groups == 2 and self.task == "GapTask"

    def count(self, *names: str) -> int:
        """Instructions of these names, whatever their modifiers."""
        counts: Counter[str] = Counter()
        for opcode, count in self.machine.opcodes.items():
            counts[opcode.split(".")[0]] += count
        return sum(counts[name] for name in names)


def hopper_kernels(binary: cuda_build.Binary) -> list[HopperKernel]:
    """The linear head's kernels in a binary: those whose names tell their types."""
    pattern = re.compile(
        r"6dynams(?:9Reduction|13EpilogueAside)I\w*?9TileShapeILi(\d+)ELi(\d+)ELi(\d+)EE\w*?\d(Half|BFloat)E\w*?\d(GapTask|StatesTask)E"
    )
    kernels = []
    for name, machine in binary.get(TARGET, {}).items():
        found = pattern.search(name)
        if found is not None:
            numbers = (int(part) for part in found.groups()[:3])
            kernels.append(HopperKernel(*numbers, found[4], found[5], machine))
    return kernels


@cache
def read_kernels() -> list[HopperKernel]:
    """Those of the build's object, else of the installed module; none where there is neither."""
    left, module = cuda_build.built(SOURCE, TARGET), cuda_build.installed_module()
    binary = left.fatbin if left is not None else module
    return [] if binary is None else hopper_kernels(cuda_build.read_binary(binary))


@pytest.fixture(scope="module")
def kernels() -> list[HopperKernel]:
    if aot.cuobjdump() is None:
        pytest.skip("cuobjdump is not installed")
    found = read_kernels()
    if not found:
        pytest.skip("the Hopper kernels are not built")
    return found


def test_the_sources_are_those_of_the_build() -> None:
    sources = {cuda_build.ROOT / source for source in cuda_build.setup_constant("HOPPER_SOURCES")}
    assert sources == set(SOURCE.parent.glob("*.cu"))


def test_every_tiling_has_a_kernel_of_each_type_and_reduction(
    kernels: list[HopperKernel],
) -> None:
    made = Counter(
        (64 * kernel.products * kernel.groups, kernel.columns, kernel.element, kernel.task)
        for kernel in kernels
    )
    wanted = {
        (128, columns, element, task): 1
        for _, columns in TILES.values()
        for element in ("Half", "BFloat")
        for task in ("GapTask", "StatesTask")
    }
    assert made == wanted


def test_tensor_cores_are_fed_by_tma_and_nothing_spills(kernels: list[HopperKernel]) -> None:
    for kernel in kernels:
        assert kernel.count("HGMMA") >= 4 * kernel.products, (
            kernel
        )  # a step of 64 features is four of 16
        assert kernel.count("UTMALDG") == 2, kernel
        assert any("MULTICAST" in op for op in kernel.machine.opcodes if op.startswith("UTMALDG"))
        # Registers move from the warpgroup that loads to those that multiply.
        assert kernel.count("USETMAXREG") >= 2, kernel
        assert kernel.machine.usage["REG"] <= 168, kernel
        assert kernel.machine.usage["STACK"] == kernel.machine.usage["LOCAL"] == 0, kernel
        assert kernel.count("STL", "LDL") == 0, kernel


def test_no_logit_is_stored(kernels: list[HopperKernel]) -> None:
    for kernel in kernels:
        assert kernel.count("UTMASTG", "STSM") == 0, kernel
        # The bias of a tile's classes, a warp's at a time, and a row's two keys.
        assert kernel.count("STS") <= (kernel.columns // 32 + 1 if kernel.has_aside else 0), kernel
        # A row's score; or the label's logit of each row of a quad, and the state's five numbers.
        most = 1 if kernel.task == "GapTask" else 5 + 2 * kernel.products
        assert kernel.count("STG", "ST") <= most, kernel
        assert kernel.count("ATOMG", "RED") <= (5 if kernel.has_aside else 3), kernel


def test_reductions_cost_what_they_did(kernels: list[HopperKernel]) -> None:
    """Three comparisons a logit and, for sums, one exponential; a few more of each row."""
    for kernel in kernels:
        rows, logits = 2 * kernel.products, kernel.products * kernel.columns // 2
        kinds_of_tile = 2 if kernel.has_aside else 1  # whole and ragged ones have code of their own
        assert kernel.count("FMNMX", "FMNMX3") <= kinds_of_tile * 3 * logits + 8 * rows, kernel
        exponentials = 0 if kernel.task == "GapTask" else logits + 2 * rows
        divisions = 1 if kernel.groups == 2 else 0  # where a block's turns start (turns.h)
        assert kernel.count("MUFU") <= exponentials + divisions, kernel


def test_products_are_not_serialised() -> None:
    left = cuda_build.built(SOURCE, TARGET)
    if left is None:
        pytest.skip("the Hopper kernels are not built here")
    assert cuda_build.parse_ptxas(left.report)
    assert "C7510" not in left.report
    assert "serialized" not in left.report
