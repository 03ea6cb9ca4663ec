"""Large selections on a GPU: their values, made where they are used, and the CPU's answers; and the kernel called with
buffers of the caller's, on a way it would seldom take.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

import dynams_kernels as dk
from cuda_calls import spoil
from dynams_kernels._backends.native_rows import DTYPE_NUMBER

INF, NAN = float("inf"), float("nan")


def numbers(
    kind: str, size: int, dtype: torch.dtype, device: str = "cuda", seed: int = 0
) -> Tensor:
    """Normal numbers, the same for the same arguments; of kind "ties" with two decimals, zeros of both signs, and now and
    then a NaN or an infinity among them.
    """
    generator = torch.Generator(device).manual_seed(seed)
    plain = torch.randn(size, generator=generator, device=device, dtype=torch.float64)
    if kind == "ties":
        plain = plain.mul_(100).round_().div_(100)
        for offset, special in enumerate((NAN, INF, -INF)):
            plain[offset::3001] = special
    return plain.to(dtype)


@dataclass(frozen=True)
class Answer:
    """The selected values, their indices and, a byte a value, which they are."""

    values: Tensor
    indices: Tensor
    mask: Tensor

    def all(self) -> list[Tensor]:
        """What there is to compare."""
        return [self.values, self.indices, self.mask]

    def selected(self) -> list[Tensor]:
        """What `smallest_k` returns."""
        return [self.values, self.indices]


def answer(values: Tensor, k: int) -> Answer:
    """The CPU's, brought to where the values are."""
    chosen = dk.smallest_k(values.cpu(), k)
    mask = torch.zeros(len(values), dtype=torch.uint8)
    mask[chosen.indices] = 1
    there = [each.to(values.device) for each in (chosen.values, chosen.indices, mask)]
    return Answer(*there)


@dataclass(frozen=True)
class Force:
    """What is set otherwise than planned: a bracket's ends as ranks in the sample, and how many values in the bracket a
    block may show the others and list. (0, 0) and 0: as planned.
    """

    bracket: tuple[int, int] = (0, 0)
    place: int = 0
    listed: int = 0


def select(
    native: ModuleType, values: Tensor, k: int, *, byte: int, force: Force | None = None
) -> Answer:
    """One launch of the compiled kernel, with scratch and outputs that are full of `byte`."""
    device = values.get_device()

    def spoilt(size: int) -> Tensor:
        scratch = values.new_empty(size)
        spoil([scratch], byte)
        return scratch

    out = Answer(
        values.new_empty(k),
        values.new_empty(k, dtype=torch.int64),
        values.new_empty(len(values), dtype=torch.uint8),
    )
    spoil(out.all(), byte)
    arguments = (
        *(values.data_ptr(), DTYPE_NUMBER[values.dtype], len(values), k),
        *(out.values.data_ptr(), out.indices.data_ptr(), out.mask.data_ptr()),
        *(spoilt, device, torch.cuda.current_stream(device).cuda_stream),
    )
    if force is None:
        native.smallest_k(*arguments)
    else:
        native.smallest_k_forced(*arguments, *force.bracket, force.place, force.listed)
    return out
