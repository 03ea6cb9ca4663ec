"""The GPU's row scores run on the host in a program of their own, under a sanitizer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import sanitizers
from cuda_on_host import DTYPES, HOST_CUDA, KERNEL_FLAGS, Plan
from dynams_kernels._kinds import LABELLED_KINDS, mask_of

SECONDS = 120
# Whether the sanitizer knows of coroutines.
PROBE = (
    '#include "sanitized.h"\nint main() { host_cuda::Stack stack; host_cuda::publish(&stack); }\n'
)


@dataclass(frozen=True)
class RowCase:
    """Rows (B, C), as they are to lie in memory, and how they are to be scored."""

    logits: Tensor
    labels: Tensor
    distances: Tensor | None
    kinds: int
    plan: Plan | None = None
    offset: int = 0  # of the first element beyond a multiple of 16 bytes, in elements
    gap: int = 0  # elements between rows

    def packed(self) -> bytes:
        """The case as row_scores_driver.cpp reads it."""
        rows, classes = self.logits.shape
        labelled = bool(self.kinds & mask_of(LABELLED_KINDS))
        plan = self.plan or Plan()
        numbers = (
            *(DTYPES[self.logits.dtype], rows, classes, classes + self.gap, self.offset),
            *(self.kinds, labelled, self.distances is not None, self.plan is not None),
            *(plan.tile_rows, plan.lanes, plan.splits, plan.part_classes, plan.blocks),
            plan.turns,
        )
        tensors = [self.logits]
        tensors += [self.labels] if labelled else []
        tensors += [] if self.distances is None else [self.distances]
        return struct.pack("<15q", *numbers) + b"".join(as_bytes(tensor) for tensor in tensors)


def as_bytes(tensor: Tensor) -> bytes:
    """A tensor's elements as they lie in memory."""
    return bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def build(folder: Path, sanitizer: str) -> Path:
    """The program that runs cases under a sanitizer."""
    return sanitizers.compile_program(
        HOST_CUDA / "row_scores_driver.cpp",
        folder,
        # Inlined into every kernel, checked code takes longer to compile than it saves in running.
        (*KERNEL_FLAGS, "-fno-inline"),
        sanitizer=sanitizer,
        probe=PROBE,
    )


def run(program: Path, cases: Sequence[RowCase], folder: Path) -> list[Tensor]:
    """The scores of each case, a row a kind."""
    given = b"".join(case.packed() for case in cases)
    raw = bytearray(sanitizers.run_program(program, given, folder, SECONDS))
    answers, at = [], 0
    for case in cases:
        dtype = torch.float64 if case.logits.dtype == torch.float64 else torch.float32
        shape = (bin(case.kinds).count("1"), case.logits.shape[0])
        scores = torch.frombuffer(raw, dtype=dtype, count=shape[0] * shape[1], offset=at)
        at += scores.numel() * dtype.itemsize
        answers.append(scores.view(shape))
    assert at == len(raw)
    return answers
