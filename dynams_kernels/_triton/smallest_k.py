"""Exact partial selection by Triton: the launches of the radix selection's kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynams_kernels import _device
from dynams_kernels._triton.select_kernels import count_kernel, digit_kernel, write_kernel
from dynams_kernels._triton.shipped import Shipped

_BITS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}
_DIGIT_BITS = 8
_BINS = 1 << _DIGIT_BITS
_WARPS = 4
# The scan keeps several numbers an element: half as many elements a thread.
_WRITE_WARPS = 8


@dataclass(frozen=True)
class Configuration:
    """`tile` elements at a time, in at most `programs` programs, each of which takes one range of tiles."""

    tile: int
    programs: int


def configuration() -> Configuration:
    """The same for every dtype, size and GPU.

    Tiles of 2048 give a thread 16 elements: several 16-byte loads in flight, few enough registers for 8 programs on a
    multiprocessor. 1024 programs fill 128 multiprocessors so, and more would not run at once; each adds up the counts of all
    before it, so that no kernel is launched for their prefix sums.
    """
    return Configuration(tile=2048, programs=1024)


def smallest_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of values (N,), as (values, int64 indices) in index order: the contract's total order, the input's own bits.

    Scratch: 2 KB a digit, 16 KB of counts.
    """
    return _select(values, k, configuration())


def _select(values: Tensor, k: int, config: Configuration) -> tuple[Tensor, Tensor]:
    device = values.device
    out_values = torch.empty(k, dtype=values.dtype, device=device)
    out_indices = torch.empty(k, dtype=torch.int64, device=device)
    if k == 0:
        return out_values, out_indices
    integer, infinity = _BITS[values.dtype]
    bits = values.resolve_neg().contiguous().view(integer)
    count = bits.shape[0]
    width = 8 * bits.element_size()
    steps = width // _DIGIT_BITS
    programs = min(-(-count // config.tile), config.programs)
    # Zeroed at every call: a histogram that an aborted or concurrent call left behind would be added to.
    histograms = torch.zeros((steps, _BINS), dtype=torch.int64, device=device)
    state = torch.empty((steps + 1, 2), dtype=torch.int64, device=device)
    counts = torch.empty((2, programs), dtype=torch.int64, device=device)
    common: dict[str, Any] = {
        "INFINITY": infinity,
        "WIDTH": width,
        "TILE": config.tile,
        "num_stages": 1,
    }
    grid = (programs,)
    with _device.on_device(values.get_device()):
        for step in range(steps):
            digit_kernel[grid](
                bits,
                histograms,
                state,
                count,
                k,
                step,
                width - _DIGIT_BITS * (step + 1),
                FIRST=step == 0,
                num_warps=_WARPS,
                **common,
            )
        count_kernel[grid](
            bits, histograms, state, counts, count, steps, num_warps=_WARPS, **common
        )
        write_kernel[grid](
            bits,
            state,
            counts,
            out_values.view(integer),
            out_indices,
            count,
            steps,
            PROGRAMS=1 << max(0, config.programs - 1).bit_length(),
            num_warps=_WRITE_WARPS,
            **common,
        )
    return out_values, out_indices


def _shipped_of(type_name: str, infinity: int, width: int, size: str) -> Iterator[Shipped]:
    config = configuration()
    values = f"*i{width}"
    common = {"INFINITY": infinity, "WIDTH": width, "TILE": config.tile}
    scratch = {"histograms": "*i64", "state": "*i64"}

    def one(
        what: str, fn: Any, arguments: dict[str, str], constants: dict[str, int | bool]
    ) -> Shipped:
        return Shipped(
            name=f"smallest_k {type_name} {size}, {what}",
            fn=fn,
            signature={**arguments, **dict.fromkeys(constants, "constexpr")},
            constexprs=constants,
            num_warps=_WRITE_WARPS if fn is write_kernel else _WARPS,
            divisible_by_16=tuple(name for name, kind in arguments.items() if kind[0] == "*"),
            wants_wide_loads=True,
        )

    for first in (True, False):
        yield one(
            "first digit" if first else "later digits",
            digit_kernel,
            {"values": values, **scratch, "count": size, "k": size, "step": "i32", "shift": "i32"},
            {"FIRST": first, **common},
        )
    yield one(
        "count",
        count_kernel,
        {"values": values, **scratch, "counts": "*i64", "count": size, "step": "i32"},
        {**common},
    )
    yield one(
        "write",
        write_kernel,
        {
            "values": values,
            "state": "*i64",
            "counts": "*i64",
            "out_values": values,
            "out_indices": "*i64",
            "count": size,
            "step": "i32",
        },
        {**common, "PROGRAMS": config.programs},
    )


def shipped() -> list[Shipped]:
    """Every kernel of every dtype; for float32 also with counts past 2^31."""
    kinds = [("fp16", torch.float16, "i32"), ("bf16", torch.bfloat16, "i32")]
    kinds += [("fp32", torch.float32, "i32"), ("fp32", torch.float32, "i64")]
    kinds += [("fp64", torch.float64, "i32")]
    found: list[Shipped] = []
    for name, dtype, size in kinds:
        integer, infinity = _BITS[dtype]
        found += _shipped_of(name, infinity, torch.iinfo(integer).bits, size)
    return found
