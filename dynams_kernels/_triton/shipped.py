"""What a kernel is compiled as when it ships, so that it can be compiled and inspected ahead of time, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shipped:
    """One kernel at one configuration.

    Attributes:
        name: kernel and configuration, for people.
        fn: the jitted function.
        signature: the type of every argument, in order: "*bf16", "i64", "fp32", "constexpr".
        constexprs: the value of every constexpr argument.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
        options: further compiler options, as its launches give them.
        divisible_by_16: arguments that launches hand over as multiples of 16 (addresses, strides).
        architectures: the compute capabilities it is meant for.
        wants_wgmma: whether its code for sm_90 must use the warpgroup tensor-core instruction.
        wants_bulk_loads: whether it must have the copy engine (TMA) read its tiles.
        wants_wide_loads: whether it must read global memory 16 bytes at a time.
    """

    name: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    divisible_by_16: tuple[str, ...] = ()
    architectures: tuple[int, ...] = (80, 90, 100)
    wants_wgmma: bool = False
    wants_bulk_loads: bool = False
    wants_wide_loads: bool = False
