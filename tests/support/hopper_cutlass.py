"""What CUTLASS makes of the linear head's kernels: their own source asked by a program that the host's C++ compiler makes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import cuda_build
import cuda_on_host
import cuda_requirements

HOST_CUTLASS = Path(__file__).parent / "host_cutlass"


@dataclass(frozen=True)
class Kernel:
    """The kernels of a tiling. Threads: that share a tile, and of a block; blocks: of a cluster."""

    number: int
    rows: int
    columns: int
    threads: int
    block_threads: int
    cluster_blocks: int
    stages: int
    shared_bytes: int
    registers: int


@dataclass(frozen=True)
class Walk:
    """Over a grid of tiles: (blocks, 2) of row tile and class tile, in the order of the blocks' turns."""

    swizzle: int
    places: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Described:
    """An operand as TMA is told of it. By dimension: its size, its stride in bytes, and how much of it is loaded at once."""

    type: int
    swizzled: bool
    zero_filled: bool
    address: int
    sizes: list[int]
    strides: list[int]
    box: list[int]


@dataclass(frozen=True)
class Launch:
    """What a head's launch is made of."""

    features: Described
    weight: Described
    grid: tuple[int, ...]
    described: tuple[bool, bool]  # as the launcher sees it


def header_folders() -> list[Path] | None:
    """The folders of CUTLASS's and CUDA's headers, None where either are missing."""
    cutlass = _cutlass()
    nvcc = cuda_build.find_nvcc()
    if cutlass is None or nvcc is None:
        return None
    toolkit = Path(nvcc).resolve().parent.parent / "include"
    if not (toolkit / "cuda_runtime.h").is_file():
        return None
    return [toolkit, toolkit / "cccl", cutlass]


def _cutlass() -> Path | None:
    try:
        return cuda_requirements.cutlass_headers([cuda_requirements.HOPPER])
    except cuda_requirements.WithoutHopperError:
        # Those of the last build, as far as they are still there.
        folders = sorted(cuda_build.ROOT.glob("build/native-*/headers/cutlass-*"))
    return next((folder for folder in folders if (folder / "cutlass/cutlass.h").is_file()), None)


def build(directory: Path, headers: list[Path]) -> Facts:
    """Compiles the program."""
    program = directory / "facts"
    command = [
        *(cuda_on_host.compiler() or ["c++"]),
        # CUTLASS's device code uses names that plain C++ lacks; none of it is called.
        *("-std=c++17", "-O0", "-w", "-fpermissive", "-DNDEBUG", f"-I{HOST_CUTLASS}"),
        *(part for folder in headers for part in ("-isystem", str(folder))),
        *(str(HOST_CUTLASS / "facts.cpp"), "-o", str(program)),
    ]
    subprocess.run(command, check=True)
    return Facts(program)


@dataclass(frozen=True)
class Facts:
    """The compiled program's answers."""

    program: Path

    def kernels(self) -> list[Kernel]:
        """Those of each tiling."""
        lines = self._ask("kernels").decode().splitlines()
        return [Kernel(*map(int, line.split())) for line in lines]

    def places(self) -> list[npt.NDArray[np.int16]]:
        """By tiling: (threads, registers, 2, 2) of row and column, by CUTLASS and as the reductions have it."""
        told = np.frombuffer(self._ask("places"), dtype=np.int16)
        out, begin = [], 0
        for kernel in self.kernels():
            size = kernel.threads * kernel.registers * 4
            out.append(told[begin : begin + size].reshape(kernel.threads, kernel.registers, 2, 2))
            begin += size
        assert begin == len(told)
        return out

    def walks(self, heads: list[tuple[int, int, int]]) -> list[Walk]:
        """Over the tiles of heads: rows, classes, number of the tiling."""
        asked = "".join(f"{rows} {classes} {tile}\n" for rows, classes, tile in heads)
        walks = []
        for line in self._ask("walk", asked).decode().splitlines():
            swizzle, blocks, *places = map(int, line.split())
            assert len(places) == 2 * blocks
            walks.append(Walk(2**swizzle, np.array(places).reshape(-1, 2)))
        return walks

    def launch(
        self,
        addresses: tuple[int, int],
        shape: tuple[int, int, int],
        strides: tuple[int, int],
        multiprocessors: int,
    ) -> Launch:
        """In tiles of 144 columns, of features and weight at these addresses; shape: rows, classes, width; strides in elements."""
        numbers = (*addresses, *shape, *strides, multiprocessors)
        told = self._ask("launch", " ".join(map(str, numbers))).decode().splitlines()
        *operands, grid, described = ([int(number) for number in line.split()] for line in told)
        features, weight = (
            Described(
                kind, bool(swizzled), bool(filled), address, rest[::3], rest[1::3], rest[2::3]
            )
            for kind, swizzled, filled, address, *rest in operands
        )
        return Launch(features, weight, tuple(grid), (bool(described[0]), bool(described[1])))

    def _ask(self, question: str, text: str = "") -> bytes:
        done = subprocess.run(
            [str(self.program), question], input=text.encode(), capture_output=True, check=True
        )
        return done.stdout
