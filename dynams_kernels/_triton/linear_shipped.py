"""The linear kernels as they are compiled for typical heads: one entry for each way a tile is cut and reduced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dynams_kernels._kinds import BIT, LABELLED_KINDS, SCORE_KINDS, mask_of
from dynams_kernels._triton.linear_configuration import (
    MERGE_SPLITS,
    MERGE_WARPS,
    OPTIONS,
    Configuration,
    burden,
    compiler_options,
    configuration,
    descriptors_configuration,
    merge_tile,
    slicing,
    slicing_widths,
)
from dynams_kernels._triton.linear_descriptors import descriptors_kernel
from dynams_kernels._triton.linear_kernel import linear_kernel
from dynams_kernels._triton.linear_merge import merge_kernel
from dynams_kernels._triton.linear_rounding import round_constants
from dynams_kernels._triton.linear_rounding_kernel import round_kernel
from dynams_kernels._triton.linear_states import LARGEST
from dynams_kernels._triton.linear_widths_kernel import widths_kernel
from dynams_kernels._triton.shipped import Shipped

_ARCHITECTURES = (80, 90, 100)
_MULTIPROCESSORS = 132
_ELEMENT_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4}
_POINTERS = {
    "bias": "",
    "labels": "i64",
    "distances": "fp32",
    "known_largest": "fp32",
    "known_class": "i64",
    "scores": "fp32",
    "pairs": "i64",
    "state_floats": "fp32",
    "state_classes": "i32",
    "copy": "fp32",
}
_UNIT_STEPS = ("features_step", "weight_step")


@dataclass(frozen=True)
class Head:
    """A linear head and what is asked of it."""

    kinds: str
    classes: int
    dtype: str = "bf16"
    precision: str = "ieee"
    rounded: bool = False
    rows: int = 65_536
    width: int = 1024
    pairs: bool = False
    bias: bool = True
    split: bool = False
    known: bool = False
    scattered: bool = False
    described: bool = False
    widths: tuple[int, ...] = ()

    @property
    def mask(self) -> int:
        """The kinds as the kernels are told of them."""
        return LARGEST.value if self.kinds == "largest" else mask_of(self.kinds.split("+"))

    @property
    def tiled_as(self) -> int:
        """The kinds whose tiles these are: both sweeps of `distance` cut the classes in the same way."""
        return BIT["distance"] if self.kinds == "largest" else self.mask

    def __str__(self) -> str:
        parts = [self.kinds, self.dtype, f"{self.rows} x {self.width} -> {self.classes}"]
        parts += [self.precision] if self.dtype == "fp32" else []
        marks = ("rounded", "pairs", "split", "known", "scattered", "described")
        parts += [name for name in marks if getattr(self, name)]
        parts += ["no bias"] if not self.bias else []
        parts += [f"widths {self.widths}"] if self.widths else []
        return ", ".join(parts)


EVERY = "+".join(SCORE_KINDS)
_HEADS = (
    Head("gap", 10, bias=False),
    Head("gap", 32, "fp16"),
    Head("gap", 50),
    Head("gap", 100),
    Head("gap", 100, rows=64, split=True),
    Head("gap", 1000),
    Head("gap", 1000, "fp16", bias=False),
    Head("gap", 1000, width=1016),
    Head("gap", 1000, width=154),
    Head("gap", 1000, width=40),
    Head("gap", 128_256, rows=8192, width=4096, bias=False, split=True),
    Head("gap", 10, "fp32", "tf32"),
    Head("gap", 1000, "fp32", "tf32"),
    Head("gap", 1000, "fp32", "tf32", rounded=True),
    Head("gap", 10, "fp32", "ieee"),
    Head("gap", 100, "fp32", "ieee"),
    Head("gap", 1000, scattered=True, width=1001),
    Head("probability", 1000, "fp32", "tf32", scattered=True),
    Head("gap", 1000, pairs=True),
    Head("probability", 10),
    Head("probability", 1000),
    Head("label", 1000, pairs=True, split=True),
    Head("probability", 100, "fp32", "ieee"),
    Head("label", 100),
    Head("label", 1000, "fp32", "ieee", pairs=True),
    Head("distance", 10),
    Head("distance", 100, pairs=True),
    Head("largest", 1000, pairs=True),
    Head("distance", 1000, known=True, pairs=True, split=True),
    Head("distance", 1000, "fp32", "ieee", known=True, pairs=True),
    Head("gap", 1000, widths=(256, 512, 768, 1024)),
    Head("gap", 10, widths=(128, 256)),
    Head("probability", 1000, widths=(100, 200, 300, 400, 500, 600, 700, 800)),
    Head("label", 100, "fp32", "ieee", widths=(256, 512)),
    Head("loss", 128_256, rows=8192, width=4096, bias=False, split=True),
    Head("gap+loss+entropy", 128_256, rows=8192, width=4096, bias=False, split=True),
    Head("gap+loss+entropy", 1000, rows=4096, bias=False, split=True),
    Head(EVERY, 1000),
    Head(EVERY, 10),
)


def _described_heads() -> list[tuple[Head, int]]:
    """The heads whose tiles descriptors load, and for which architecture."""
    short = Head("gap", 1000, split=True, described=True)
    every = "+".join(kind for kind in SCORE_KINDS if kind != "distance")
    # It keeps the most beside its logits.
    most = Head(every, 1000, described=True)
    long = Head("gap", 128_256, rows=8192, width=4096, bias=False, split=True, described=True)
    training = replace(long, kinds="gap+loss+entropy")
    few = replace(short, rows=256, width=2048)
    heads = (short, most, long, training, few, replace(few, kinds=every))
    return [*((head, 90) for head in heads), (short, 100), (most, 100)]


def shipped() -> list[Shipped]:
    """Every way the kernels are compiled for, by architecture."""
    kernels: dict[tuple[Any, ...], Shipped] = {}
    wanted = [(head, architecture) for architecture in _ARCHITECTURES for head in _HEADS]
    wanted += _described_heads()
    for head, architecture in wanted:
        kernel = (_described if head.described else _linear)(head, architecture)
        sizes = kernel.num_warps, kernel.num_stages, kernel.options.get("maxnreg")
        same = (str(head), *sizes, *kernel.constexprs.values())
        if same in kernels:
            kernel = _for_both(kernels[same], kernel)
        kernels[same] = kernel
    return [*kernels.values(), *_merges(), _rounding()]


def _for_both(one: Shipped, other: Shipped) -> Shipped:
    architectures = (*one.architectures, *other.architectures)
    base = one.name.partition(" for sm_")[0]
    suffix = "" if architectures == _ARCHITECTURES else _suffix(architectures)
    return replace(one, name=base + suffix, architectures=architectures)


def _suffix(architectures: tuple[int, ...]) -> str:
    return " for sm_" + ", ".join(str(architecture) for architecture in architectures)


def _linear(head: Head, architecture: int) -> Shipped:
    fn = widths_kernel if head.widths else linear_kernel
    load = burden(head.tiled_as, head.pairs, len(head.widths))
    chosen = configuration(
        head.rows,
        head.classes,
        head.width,
        _ELEMENT_SIZE[head.dtype],
        head.precision,
        load,
        head.scattered,
        divmod(architecture, 10),
    )
    constants = {
        **_constants(head, chosen),
        "PRECISION": head.precision,
        "WEIGHT_ROUNDED": head.rounded,
        "ROW_UNIT": 1 if head.scattered else 16,
    }
    if head.widths:
        constants |= slicing_widths(head.widths, chosen.block_features)
    else:
        constants |= slicing(head.width, chosen.block_features, _ELEMENT_SIZE[head.dtype])
        constants |= {"PAIRS": head.pairs, "ONE_TILE": not head.known}
    missing = _missing(head)
    tensor_cores = head.dtype != "fp32" or head.precision == "tf32"
    return _shipped(
        f"linear {head}" + _suffix((architecture,)),
        fn,
        head.dtype,
        constants,
        missing,
        (chosen.num_warps, chosen.num_stages),
        options=compiler_options(chosen, load),
        architectures=(architecture,),
        scattered=head.scattered,
        divisible=("distances_row",) if head.classes % 16 == 0 else (),
        wants_wgmma=tensor_cores,
        # Widths that are no multiples of 16 bytes narrow the loads of every slice.
        wants_wide_loads=not head.scattered
        and (not head.widths or constants["WIDTH_UNIT"] * _ELEMENT_SIZE[head.dtype] >= 16),
    )


def _described(head: Head, architecture: int) -> Shipped:
    load = burden(head.mask, False, 1)
    chosen = descriptors_configuration(
        head.rows, head.classes, head.width, load, divmod(architecture, 10), _MULTIPROCESSORS
    )
    return _shipped(
        f"linear {head}" + _suffix((architecture,)),
        descriptors_kernel,
        head.dtype,
        _constants(head, chosen),
        _missing(head),
        (chosen.num_warps, chosen.num_stages),
        blocks={
            "features": (chosen.block_rows, chosen.block_features),
            "weight": (chosen.block_classes, chosen.block_features),
        },
        options=compiler_options(chosen, load),
        architectures=(architecture,),
        wants_wgmma=True,
        wants_bulk_loads=True,
    )


def _constants(head: Head, chosen: Configuration) -> dict[str, Any]:
    """What every sweep is compiled for."""
    return {
        "KINDS": head.mask,
        "HAS_BIAS": head.bias,
        "SPLIT": head.split,
        "PIPELINED": True,
        "BLOCK_ROWS": chosen.block_rows,
        "BLOCK_CLASSES": chosen.block_classes,
        "BLOCK_FEATURES": chosen.block_features,
    }


def _missing(head: Head) -> set[str]:
    """The arguments that a call of this kind leaves out."""
    missing = {
        "bias": not head.bias,
        "labels": not head.mask & mask_of(LABELLED_KINDS),
        "distances": head.kinds != "distance",
        "known_largest": not head.known,
        "known_class": not head.known,
        "pairs": not head.pairs,
        "state_floats": not head.split,
        "state_classes": not (head.split and head.pairs),
    }
    return {name for name, left_out in missing.items() if left_out}


def _merges() -> Iterator[Shipped]:
    for kinds in ("gap", "probability", "label", "distance", "loss", "gap+loss+entropy"):
        for pairs in (False, True) if kinds in ("gap", "label", "distance") else (False,):
            for most in MERGE_SPLITS:
                yield _merge(kinds, pairs, most)
    # Of a shard of the classes.
    yield _merge("gap", True, MERGE_SPLITS[0], is_shard=True)
    yield _merge("gap+loss+entropy", False, MERGE_SPLITS[0], is_shard=True)


def _merge(kinds: str, pairs: bool, most: int, *, is_shard: bool = False) -> Shipped:
    rows, splits = merge_tile(most)
    constants = {
        "KINDS": mask_of(kinds.split("+")),
        "PAIRS": pairs,
        "IS_SHARD": is_shard,
        "BLOCK_ROWS": rows,
        "BLOCK_SPLITS": splits,
    }
    of = f"{kinds}{', pairs' if pairs else ''}{', shard' if is_shard else ''}"
    return _shipped(
        f"merge {of}, to {most} splits",
        merge_kernel,
        "fp32",
        constants,
        set() if pairs else {"pairs", "state_classes"},
        (MERGE_WARPS, 3),
        options=OPTIONS,
        architectures=_ARCHITECTURES,
    )


def _rounding() -> Shipped:
    constants = round_constants()
    warps = constants.pop("num_warps")
    return _shipped(
        "round a weight",
        round_kernel,
        "fp32",
        constants,
        set(),
        (warps, 3),
        divisible=("width", "weight_row", "copy_row"),
        architectures=_ARCHITECTURES,
        wants_wide_loads=True,
    )


def _shipped(
    name: str,
    fn: Any,
    dtype: str,
    constants: dict[str, Any],
    missing: set[str],
    warps_and_stages: tuple[int, int],
    divisible: tuple[str, ...] = (),
    scattered: bool = False,
    blocks: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    **promises: Any,
) -> Shipped:
    signature: dict[str, str] = {}
    constexprs = dict(constants)
    for argument in fn.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in missing:
            signature[argument] = "constexpr"
            constexprs[argument] = None
        elif argument in blocks:
            signature[argument] = f"tensordesc<{dtype}{list(blocks[argument])}>"
        elif argument in _UNIT_STEPS and not scattered:
            signature[argument] = "constexpr"
            constexprs[argument] = 1
        elif argument in ("features", "weight") or argument in _POINTERS:
            signature[argument] = "*" + (_POINTERS.get(argument) or dtype)
        else:
            signature[argument] = "i32"
    pointers = [] if scattered else [name for name in signature if signature[name][0] == "*"]
    num_warps, num_stages = warps_and_stages
    return Shipped(
        name,
        fn,
        {argument: signature[argument] for argument in fn.arg_names},
        constexprs,
        num_warps=num_warps,
        num_stages=num_stages,
        divisible_by_16=(*pointers, *(name for name in divisible if name in signature)),
        **promises,
    )
