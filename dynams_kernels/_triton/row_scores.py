"""Row scores by Triton: which configuration a shape gets, and its launch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynams_kernels import _device
from dynams_kernels._kinds import BIT, LABELLED_KINDS, kinds_of, mask_of
from dynams_kernels._triton.row_kernels import (
    merge_parts_kernel,
    row_parts_kernel,
    row_scores_kernel,
)
from dynams_kernels._triton.shipped import Shipped

# One rounding an operation, never fused: a score has the same bits in whatever company it is asked for.
OPTIONS = {"enable_fp_fusion": False}

_ACCESS_BYTES = 16
# What a thread holds of a row at a time, in registers of 4 bytes: enough loads in flight to cover the memory's latency with
# the 16 or so warps that fit beside each other, and a state per lane on top of it without spills.
_GROUP_REGISTERS = 32
# What 16 warps leave a thread, and 12 of float64. The divisions of the `distance` margin take registers beside what is
# loaded: left to itself the compiler may aim at more warps, and spill to get there.
_DISTANCE_REGISTERS, _DISTANCE_REGISTERS_FP64 = 128, 168
# Of short rows a program takes many: as many elements a thread, or half of them where each row has a dozen numbers to keep.
_SHORT_ROWS_TILE = 2048
# Rows fewer than this leave multiprocessors idle; longer than this they are worth a second launch.
_FEW_ROWS = 256
_LONG_ROW = 32_768
_PARTS_WANTED = 512

_LABELLED = mask_of(LABELLED_KINDS)
_LIGHT = mask_of(("gap", "label"))


@dataclass(frozen=True)
class Configuration:
    """How rows are cut: `rows` a program, `lanes` columns at a time, `group` such chunks in flight, `warps` for all of it.

    `loop`: a row is longer than a group. `parts`: programs that share a row (1: none).
    """

    rows: int
    lanes: int
    group: int
    loop: bool
    warps: int
    parts: int = 1


def _power_of_two_from(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def configuration(element_size: int, rows: int, classes: int, kinds: int) -> Configuration:
    """The configuration of a shape. A row's scores depend on its length alone, unless few long rows are split in parts."""
    wide = max(1, element_size // 4)
    vector = _ACCESS_BYTES // element_size
    whole_warp = 32 * vector
    if classes <= whole_warp:
        lanes = _power_of_two_from(classes)
        tile = _SHORT_ROWS_TILE // (wide if kinds & _LIGHT == kinds else 2 * wide)
        return Configuration(tile // lanes, lanes, 1, False, 4)
    row_warps = 1 if classes <= 4096 else 4 if classes <= 16_384 else 8
    lanes = whole_warp * row_warps
    group_most = _GROUP_REGISTERS // (vector * wide)
    group = min(group_most, _power_of_two_from(-(-classes // lanes)))
    parts = 1
    if rows < _FEW_ROWS and classes > _LONG_ROW and not kinds & BIT["distance"]:
        groups = -(-classes // (group * lanes))
        wanted = min(groups, _PARTS_WANTED // _power_of_two_from(rows))
        parts = -(-groups // -(-groups // wanted))
    return Configuration(
        max(1, 4 // row_warps), lanes, group, classes > group * lanes, max(4, row_warps), parts
    )


def _vector(element_size: int, *sizes: int) -> int:
    """How many elements one access may take: rows start, and end, at multiples of it."""
    vector = _ACCESS_BYTES // element_size
    while any(size % vector for size in sizes):
        vector //= 2
    return vector


def row_scores(
    logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
) -> Tensor:
    """The scores of logits (B, C) named by the bits of `kinds`: (n, B), a row for each kind in bit order.

    Columns that are not adjacent are copied: a strided read would fetch 32 bytes of memory for every element, more than the
    copy costs, and it is a layout that logits hardly ever have. Rows may lie at any distance from each other.
    """
    rows, classes = logits.shape
    distance = BIT["distance"]
    if kinds & distance and kinds & ~distance:
        # Both at once need more registers than a thread has.
        others = kinds_of(kinds & ~distance)
        scores = row_scores(logits, labels, None, kinds & ~distance)
        place = sum(BIT[kind] < distance for kind in others)
        apart = row_scores(logits, None, class_distances, distance)
        return torch.cat((scores[:place], apart, scores[place:]))
    config = configuration(logits.element_size(), rows, classes, kinds)
    return _launch(logits, labels, class_distances, kinds, config)


def _launch(
    logits: Tensor,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kinds: int,
    config: Configuration,
) -> Tensor:
    rows, classes = logits.shape
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    scores = torch.empty((bin(kinds).count("1"), rows), dtype=wide, device=logits.device)
    if rows == 0 or kinds == 0:
        return scores
    logits = logits.resolve_neg()
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    labels = labels.contiguous() if labels is not None and kinds & _LABELLED else None
    # Of an expanded or single row the stride says nothing of where accesses start.
    row_stride = logits.stride(0) if rows > 1 else 0
    sizes = [classes, row_stride]
    distance_stride = 0
    if class_distances is not None and kinds & BIT["distance"]:
        class_distances = class_distances.resolve_neg()
        if class_distances.stride(1) != 1:
            class_distances = class_distances.contiguous()
        distance_stride = class_distances.stride(0)
        sizes.append(distance_stride)
    else:
        class_distances = None
    vector = _vector(logits.element_size(), *sizes)
    # Fusing a product into a sum in one kernel and not in another would make a score depend on the company it is asked in.
    options = {"num_warps": config.warps, "num_stages": 1, **_options(logits.element_size(), kinds)}
    with _device.on_device(logits.get_device()):
        if config.parts == 1:
            row_scores_kernel[(-(-rows // config.rows),)](
                logits,
                labels,
                class_distances,
                scores,
                rows,
                classes // vector,
                row_stride // vector,
                distance_stride // vector,
                rows,
                KINDS=kinds,
                VECTOR=vector,
                ROWS=config.rows,
                LANES=config.lanes,
                GROUP=config.group,
                LOOP=config.loop,
                **options,
            )
            return scores
        groups = -(-classes // (config.lanes * config.group))
        parts = torch.empty((5, rows, config.parts), dtype=wide, device=logits.device)
        row_parts_kernel[(rows, config.parts)](
            logits,
            parts,
            rows,
            classes // vector,
            row_stride // vector,
            -(-groups // config.parts),
            KINDS=kinds,
            VECTOR=vector,
            LANES=config.lanes,
            GROUP=config.group,
            **options,
        )
        merge_parts_kernel[(rows,)](
            parts,
            logits,
            labels,
            scores,
            rows,
            classes,
            row_stride,
            rows,
            config.parts,
            KINDS=kinds,
            PARTS=_power_of_two_from(config.parts),
            **{**options, "num_warps": 4},
        )
    return scores


def _options(element_size: int, kinds: int) -> dict[str, Any]:
    if not kinds & BIT["distance"]:
        return OPTIONS
    most = _DISTANCE_REGISTERS_FP64 if element_size == 8 else _DISTANCE_REGISTERS
    return {**OPTIONS, "maxnreg": most}


_TYPES = {
    "fp32": (torch.float32, "fp32"),
    "fp16": (torch.float16, "fp32"),
    "bf16": (torch.bfloat16, "fp32"),
    "fp64": (torch.float64, "fp64"),
}


def _shipped_one(
    type_name: str, rows: int, classes: int, kinds: int, what: str
) -> Iterator[Shipped]:
    dtype, wide = _TYPES[type_name]
    size = torch.empty(0, dtype=dtype, device="cpu").element_size()
    config = configuration(size, rows, classes, kinds)
    vector = _vector(size, classes)
    name = f"row_scores {type_name} {classes} classes, {what}"
    constants = {"KINDS": kinds, "VECTOR": vector}
    pointers = {"logits": f"*{type_name}"}
    outputs = {"scores": f"*{wide}"}
    labels = {"labels": "*i64"} if kinds & _LABELLED else {"labels": "constexpr"}
    absent = {} if kinds & _LABELLED else {"labels": None}
    if config.parts == 1:
        distances = {"class_distances": "*fp32"}
        if not kinds & BIT["distance"]:
            distances = {"class_distances": "constexpr"}
            absent["class_distances"] = None
        tile = {"ROWS": config.rows, "LANES": config.lanes, "GROUP": config.group}
        yield Shipped(
            name=name,
            fn=row_scores_kernel,
            signature={
                **pointers,
                **labels,
                **distances,
                **outputs,
                "rows": "i32",
                "class_vectors": "i32",
                "stride_vectors": "i32",
                "distance_vectors": "i32",
                "scores_stride": "i32",
                **dict.fromkeys((*constants, *tile, "LOOP"), "constexpr"),
            },
            constexprs={**absent, **constants, **tile, "LOOP": config.loop},
            num_warps=config.warps,
            options=_options(size, kinds),
            divisible_by_16=tuple(
                argument
                for argument in ("logits", "labels", "class_distances", "scores")
                if argument not in absent
            ),
            wants_wide_loads=vector * size == _ACCESS_BYTES,
        )
        return
    tile = {"LANES": config.lanes, "GROUP": config.group}
    yield Shipped(
        name=f"{name}, parts",
        fn=row_parts_kernel,
        signature={
            **pointers,
            "parts": f"*{wide}",
            "rows": "i32",
            "class_vectors": "i32",
            "stride_vectors": "i32",
            "span": "i32",
            **dict.fromkeys((*constants, *tile), "constexpr"),
        },
        constexprs={**constants, **tile},
        num_warps=config.warps,
        options=_options(size, kinds),
        divisible_by_16=("logits", "parts"),
        wants_wide_loads=vector * size == _ACCESS_BYTES,
    )
    constants = {"KINDS": kinds, "PARTS": _power_of_two_from(config.parts)}
    yield Shipped(
        name=f"{name}, merge",
        fn=merge_parts_kernel,
        signature={
            "parts": f"*{wide}",
            **pointers,
            **labels,
            **outputs,
            "rows": "i32",
            "classes": "i32",
            "row_stride": "i32",
            "scores_stride": "i32",
            "count": "i32",
            **dict.fromkeys(constants, "constexpr"),
        },
        constexprs={**absent, **constants},
        num_warps=4,
        options=_options(size, kinds),
        divisible_by_16=("parts", "logits", *labels, "scores")
        if kinds & _LABELLED
        else ("parts", "logits", "scores"),
    )


def shipped() -> list[Shipped]:
    """Configurations that stand for all: every dtype, tile and depth of the sums; requests as the public functions make them."""
    gap, distance = BIT["gap"], BIT["distance"]
    scores = mask_of(BIT) & ~distance
    what = {gap: "gap", distance: "distance", scores: "scores"}
    many, few = 1 << 16, 8
    shapes = [(name, many, 1000, kinds) for name in _TYPES for kinds in what]
    for name in ("fp32", "bf16"):
        shapes += [(name, many, 10, kinds) for kinds in what]
        shapes += [(name, many, 100, scores), (name, many, 8192, scores)]
        shapes += [(name, many, 8192, distance), (name, many, 50_257, scores)]
        shapes += [(name, many, 128_256, gap), (name, few, 128_256, scores)]
    shapes += [("fp64", many, 8192, scores), ("fp64", few, 128_256, scores)]
    return [
        one
        for name, rows, classes, kinds in shapes
        for one in _shipped_one(name, rows, classes, kinds, what[kinds])
    ]
