"""The GPU's row scores on tensors of the CPU: the kernels' source compiled by the host's C++ compiler and run thread by thread."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import oracle
from dynams_kernels._kinds import kinds_of

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# What an exact score may be off; of the others, 32 of their own units or those of 1.
ULPS = {"gap": 0, "label": 0, "distance": 4}
# A GPU so small that little data already takes the paths of much.
MULTIPROCESSORS = 2

HOST_CUDA = Path(__file__).parent / "host_cuda"
KERNEL_FLAGS = (
    *("-std=c++17", "-Wno-unknown-pragmas", "-ffp-contract=off", f"-I{HOST_CUDA}"),
    # A fortified longjmp refuses to change stacks, which is what it is for here.
    "-U_FORTIFY_SOURCE",
)


class Task(ctypes.Structure):
    """csrc/cuda/row_scores.h's CudaRowScores."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("classes", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("labels", ctypes.c_void_p),
        ("class_distances", ctypes.c_void_p),
        ("distances_stride", ctypes.c_int64),
        ("kinds", ctypes.c_uint32),
        ("scores", ctypes.c_void_p),
        ("scores_stride", ctypes.c_int64),
        ("scratch", ctypes.c_void_p),
    )


class Plan(ctypes.Structure):
    """csrc/cuda/row_plan.h's RowPlan."""

    _fields_ = (
        ("tile_rows", ctypes.c_int),
        ("lanes", ctypes.c_int),
        ("splits", ctypes.c_int64),
        ("part_classes", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("turns", ctypes.c_int),
    )


FOREVER = 2**31 - 1  # blocks


def whole(lanes: int, classes: int, blocks: int = FOREVER, turns: int = 1) -> Plan:
    """Rows by groups of lanes, so many each before they are scored."""
    return Plan(0, lanes, 1, classes, blocks, turns)


def split(part: int, classes: int, blocks: int = FOREVER) -> Plan:
    """Rows by blocks that take so many classes each."""
    return Plan(0, 256, -(-classes // part), part, blocks, 1)


def tiles(rows: int) -> Plan:
    """Short rows, so many a block."""
    return Plan(rows, 32, 1, 0, FOREVER, 1)


def distances_for(classes: int, seed: int = 0) -> Tensor:
    """Distances between classes, the first and the last of which are the same."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(classes, 3, generator=generator, dtype=torch.float64)
    rows[-1] = rows[0]
    return torch.cdist(rows, rows).float()


def check_scores(
    got: Tensor, x: Tensor, labels: Tensor, distances: Tensor | None, kinds: int
) -> None:
    """Compares the scores of rows x, a row a kind, with the oracle's."""
    largest = torch.finfo(oracle.result_dtype(x.dtype)).max
    y, apart = labels.numpy(), None if distances is None else oracle.array(distances)
    for row, kind in zip(got, kinds_of(kinds), strict=True):
        if kind in oracle.MARGIN_KINDS:
            want = oracle.margin(oracle.array(x), kind, y, apart, largest)
        else:
            want = oracle.scores(oracle.array(x), (kind,), y)[kind]
        try:
            oracle.check(row, want, ulps=ULPS.get(kind, 32), floor=0.0 if kind in ULPS else 1.0)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from None


def compiler() -> list[str] | None:
    """The host's C++ compiler, where there is one and the system has the coroutines that run the threads."""
    if sys.platform != "linux":
        return None
    command = shlex.split(os.environ.get("CXX", "c++"))
    return command if shutil.which(command[0]) else None


def build(directory: Path) -> HostKernels:
    """Compiles the kernels for the host."""
    library = directory / "row_scores.so"
    command = [
        *(compiler() or ["c++"]),
        *("-O1", "-Wall", "-Wextra", *KERNEL_FLAGS, "-shared", "-fPIC"),
        *(str(HOST_CUDA / "row_scores.cpp"), "-o", str(library)),
    ]
    subprocess.run(command, check=True)
    return HostKernels(ctypes.CDLL(str(library)))


@dataclass
class HostKernels:
    """The compiled library's functions, typed."""

    library: ctypes.CDLL

    def __post_init__(self) -> None:
        self.library.host_row_scores.restype = ctypes.c_char_p
        self.library.host_row_scores_scratch.restype = ctypes.c_int64
        self.library.host_exp_of_shift.restype = ctypes.c_float
        self.library.host_exp_of_shift.argtypes = (ctypes.c_float,)

    def plan(
        self,
        rows: int,
        classes: int,
        row_stride: int,
        element_bytes: int,
        multiprocessors: int = MULTIPROCESSORS,
    ) -> Plan:
        """How rows of a shape would be dealt to a GPU."""
        plan = Plan()
        shape = (ctypes.c_int64(rows), ctypes.c_int64(classes), ctypes.c_int64(row_stride))
        self.library.host_plan_rows(*shape, element_bytes, multiprocessors, ctypes.byref(plan))
        return plan

    def scratch_bytes(self, dtype: torch.dtype, rows: int, classes: int, sms: int) -> int:
        """What a launch on `sms` multiprocessors asks for."""
        shape = (ctypes.c_int64(rows), ctypes.c_int64(classes))
        return int(self.library.host_row_scores_scratch(DTYPES[dtype], *shape, sms))

    def exp_of_shift(self, shift: float) -> float:
        """The kernels' own exp in float."""
        return float(self.library.host_exp_of_shift(shift))

    def preload(self) -> int:
        """The first error of loading the kernels."""
        return int(self.library.host_preload_row_scores())

    def row_scores(
        self,
        logits: Tensor,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kinds: int,
        *,
        plan: Plan | None = None,
        order_seed: int = 0,
    ) -> Tensor:
        """As the operator `row_scores`; RuntimeError where the kernels wait for ever, read misaligned or overrun their scratch."""
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        count = bin(kinds).count("1")
        # Room beyond each row of scores, which must stay as it is.
        room = torch.full((count + 1, logits.shape[0] + 3), -77.0, dtype=dtype)
        assert logits.stride(1) == 1
        task = Task(
            logits.data_ptr(),
            DTYPES[logits.dtype],
            logits.shape[0],
            logits.shape[1],
            logits.stride(0),
            None if labels is None else labels.data_ptr(),
            None if class_distances is None else class_distances.data_ptr(),
            0 if class_distances is None else class_distances.stride(0),
            kinds,
            room.data_ptr(),
            room.stride(0),
            None,
        )
        problem = self.library.host_row_scores(
            ctypes.byref(task),
            MULTIPROCESSORS,
            None if plan is None else ctypes.byref(plan),
            order_seed,
        )
        if problem is not None:
            raise RuntimeError(problem.decode())
        rows = logits.shape[0]
        assert (room[:, rows:] == -77.0).all(), "written beyond the rows"
        assert (room[count] == -77.0).all(), "more kinds written than asked for"
        return room[:count, :rows]
