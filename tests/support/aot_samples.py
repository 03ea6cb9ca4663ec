"""Kernels that keep every promise `aot.violations` checks, and kernels that break one each: a checker must tell them apart."""

import triton
import triton.language as tl

from dynams_kernels._triton.shipped import Shipped


@triton.jit
def copy_rows(source, target, stride, columns: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * stride
    at = tl.arange(0, columns)
    tl.store(target + row + at, tl.load(source + row + at))


@triton.jit
def sort_in_one_warp(source, target, columns: tl.constexpr):
    places = tl.arange(0, columns)[:, None] * columns + tl.arange(0, columns)[None, :]
    tile = tl.load(source + places)
    ordered = tl.sort(tile, 1)
    # Both tiles are alive at once: 256 values a thread.
    tl.store(target + places, tile * tl.sum(ordered, 0)[None, :] + ordered)


@triton.jit
def product(left, right, target, depth, tile: tl.constexpr, step: tl.constexpr):
    down, across = tl.arange(0, tile)[:, None], tl.arange(0, tile)[None, :]
    along = tl.arange(0, step)
    total = tl.zeros((tile, tile), tl.float32)
    for start in range(0, depth, step):
        a = tl.load(left + down * depth + start + along[None, :])
        b = tl.load(right + across * depth + start + along[:, None])
        total = tl.dot(a, b, total, input_precision="tf32")
    tl.store(target + down * tile + across, total)


def _copy(name: str, divisible: tuple[str, ...]) -> Shipped:
    return Shipped(
        name=name,
        fn=copy_rows,
        signature={"source": "*fp32", "target": "*fp32", "stride": "i64", "columns": "constexpr"},
        constexprs={"columns": 1024},
        num_warps=4,
        divisible_by_16=divisible,
        wants_wide_loads=True,
    )


def _product(
    name: str, num_warps: int, num_stages: int, wants_wgmma: bool, wants_bulk_loads: bool = False
) -> Shipped:
    pointers = {"left": "*fp16", "right": "*fp16", "target": "*fp32"}
    return Shipped(
        name=name,
        fn=product,
        signature={**pointers, "depth": "i32", "tile": "constexpr", "step": "constexpr"},
        constexprs={"tile": 128, "step": 64},
        num_warps=num_warps,
        num_stages=num_stages,
        divisible_by_16=(*pointers, "depth"),
        wants_wgmma=wants_wgmma,
        wants_bulk_loads=wants_bulk_loads,
        wants_wide_loads=True,
    )


def shipped() -> list[Shipped]:
    """The samples, by the promise each is about."""
    spilling = Shipped(
        name="spills",
        fn=sort_in_one_warp,
        signature={"source": "*fp32", "target": "*fp32", "columns": "constexpr"},
        constexprs={"columns": 64},
        num_warps=1,
        divisible_by_16=("source", "target"),
    )
    return [
        _copy("wide", ("source", "target", "stride")),
        _copy("narrow", ("source", "target")),
        _product("wgmma", 4, 3, True),
        _product("no wgmma", 2, 2, True),
        _product("no bulk loads", 4, 3, True, True),
        _product("too much shared memory", 8, 9, False),
        spilling,
    ]
