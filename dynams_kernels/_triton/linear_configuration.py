"""How the linear kernels are cut into tiles, and how their programs share the work: plain functions of shape, dtype and device.

Nothing is tuned while a user waits: the tiles follow from the ratio of arithmetic to bytes, from what a multiprocessor's
shared memory and registers hold, and there are few of them, so that all can be compiled ahead of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Any

import torch

from dynams_kernels._device import INTERPRETED
from dynams_kernels._kinds import BIT

# Shared memory a block can have, less what reductions along a row take: bytes, by compute capability.
_SHARED_BYTES = {(8, 0): 160 << 10, (8, 7): 160 << 10}
_SHARED_BYTES_OF_MAJOR = {9: 224 << 10, 10: 224 << 10, 11: 224 << 10}
_SHARED_BYTES_OTHERS = 96 << 10

# Registers of a multiprocessor, and the most a thread can have.
_REGISTERS, _THREAD_REGISTERS = 65_536, 255

# Features of the row blocks in flight that may be read again from the second-level cache (50 MB on Hopper, 40 MB on A100).
_CACHED_BYTES = 36 << 20

# A multiprocessor's tensor cores do about this many operations in a microsecond (H100, bf16); starting a tile costs about
# _TILE_US (first loads, the reduction at its end), a program _PROGRAM_US, joining splits _MERGE_US;
# memory moves _BYTES_PER_US. They rank splits only.
_OPERATIONS_PER_US = 4e6
_TILE_US = 1.5
_PROGRAM_US = 1.0
_MERGE_US = 4.0
_BYTES_PER_US = 2.5e6

# Products without tensor cores are slower by half unfused, and Triton's default is to change.
OPTIONS = {"enable_fp_fusion": True}

# Widths that one sweep can serve; more take several sweeps.
MAX_WIDTHS = 8

# States that a program of the merge kernel holds at once, of so many splits, and its warps.
_MERGE_TILE = 1024
MERGE_SPLITS = (8, 128, 1024)
MERGE_WARPS = 4


@dataclass(frozen=True)
class Configuration:
    """A tile of logits and the way it is accumulated.

    Attributes:
        block_rows: rows of a tile.
        block_classes: classes of a tile.
        block_features: features of one step of the accumulation.
        num_warps: warps of a program.
        num_stages: steps whose loads are in flight or in use at once.
        programs: programs that a multiprocessor holds at once.
    """

    block_rows: int
    block_classes: int
    block_features: int
    num_warps: int
    num_stages: int
    programs: int = 1

    def shared_bytes(self, element_size: int) -> int:
        """Shared memory that the operands in flight take."""
        step = (self.block_rows + self.block_classes) * self.block_features * element_size
        return step * self.num_stages

    @property
    def registers(self) -> int:
        """Registers that `programs` programs leave to a thread; they are dealt in eights."""
        threads = 32 * self.num_warps * self.programs
        return min(_THREAD_REGISTERS, _REGISTERS // threads // 8 * 8)


# Of heads so small that tiles of the usual size would leave most multiprocessors without one.
_FEW_TILES = Configuration(64, 32, 128, 4, 4, programs=2)


@dataclass(frozen=True)
class Shares:
    """How the tiles of a call are dealt to programs: `splits` runs of `tiles_per_split` class tiles for each row block.

    The row blocks come in groups of `group_blocks`, which run together and share their features through the cache.
    """

    splits: int
    tiles_per_split: int
    group_blocks: int


def float32_precision() -> str:
    """How the user wants float32 products: "ieee" or "tf32", by torch's setting for CUDA matrix products."""
    # torch >= 2.9 refuses to answer by the older name once the newer one has been used.
    newer = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if newer is not None:
        return "tf32" if newer == "tf32" else "ieee"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def shared_limit(capability: tuple[int, int]) -> int:
    """Bytes of shared memory a program's operands may take."""
    of_major = _SHARED_BYTES_OF_MAJOR.get(capability[0], _SHARED_BYTES_OTHERS)
    return _SHARED_BYTES.get(capability, of_major)


class Burden(IntEnum):
    """What the reduction of a tile keeps beside the logits, which decides how many of them a thread can have."""

    TOP_TWO = 0
    SUMS = 1  # of exponentials; the label's logit too
    LABEL = 2  # the label's margin alone, or class numbers
    WIDTHS = 3  # states of several widths
    WIDTHS_SUMS = 4  # the same with sums
    DISTANCES = 5  # a matrix of class distances


def burden(kinds: int, pairs: bool, widths: int) -> Burden:
    """The burden of one sweep."""
    if kinds == BIT["distance"]:
        return Burden.DISTANCES
    kinds &= ~BIT["distance"]
    if widths > 1:
        return Burden.WIDTHS if kinds in (BIT["gap"], BIT["label"]) else Burden.WIDTHS_SUMS
    if pairs or kinds == BIT["label"]:
        return Burden.LABEL
    return Burden.TOP_TWO if kinds == BIT["gap"] else Burden.SUMS


def compiler_options(chosen: Configuration, load: Burden) -> dict[str, Any]:
    """The options of a sweep's launch, beside warps and stages.

    Left to itself the compiler may aim at more programs than there is room for, and spill to get there.
    """
    if load in (Burden.SUMS, Burden.WIDTHS, Burden.WIDTHS_SUMS):
        return {**OPTIONS, "maxnreg": chosen.registers}
    return OPTIONS


@lru_cache(maxsize=1024)
def configuration(
    rows: int,
    classes: int,
    width: int,
    element_size: int,
    precision: str,
    load: Burden,
    scattered: bool,
    capability: tuple[int, int],
) -> Configuration:
    """The tile for a head of that shape.

    Args:
        rows: of features; only whether they fill a tile matters.
        classes: of the head.
        width: features that take part.
        element_size: bytes of an input element, 2 or 4.
        precision: "ieee" or "tf32"; tells for 4 bytes whether the tensor cores are used.
        load: what the reduction of a tile keeps.
        scattered: whether operands must be loaded element by element (transposed, or rows at odd places).
        capability: compute capability of the device.
    """
    if capability == INTERPRETED:
        return Configuration(16, 16, 16, num_warps=4, num_stages=1)
    if element_size == 4 and precision == "ieee":
        chosen = _plain_tile(classes, load)
    else:
        chosen = _tensor_core_tile(rows, classes, load, capability)
        if scattered:
            # Single elements pass through registers on their way to shared memory: few of them a thread, and one program
            # where the states of several widths take registers too.
            programs = 1 if load >= Burden.WIDTHS else 2
            chosen = Configuration(64, min(64, chosen.block_classes), 32, 8, 2, programs)
        if element_size == 4:
            chosen = replace(chosen, block_features=chosen.block_features // 2)
    return _fitted(chosen, width, element_size, capability)


@lru_cache(maxsize=1024)
def descriptors_configuration(
    rows: int,
    classes: int,
    width: int,
    load: Burden,
    capability: tuple[int, int],
    multiprocessors: int,
) -> Configuration:
    """The tile where descriptors load it, of 2-byte elements; arguments as in `configuration`, the burden one of a single width.

    A head whose small tiles all run at once, two on a multiprocessor, is cut into those.
    """
    if capability == INTERPRETED:
        return Configuration(16, 16, 16, num_warps=4, num_stages=1)
    few = _FEW_TILES
    tiles = -(-rows // few.block_rows) * -(-classes // few.block_classes)
    if (
        capability[0] == 9
        and load in (Burden.TOP_TWO, Burden.SUMS)
        and tiles <= few.programs * multiprocessors
    ):
        # 256 x 2048 -> 1000 took 9.5 us in 128 of these on an H100, 23.9 in 16 of 128 x 128; 512 rows 11.5 and 24.2 us.
        return _fitted(few, width, 2, capability)
    if capability[0] != 9:
        # The sums are in tensor memory; with 4 warps, or 256 classes, too many logits come to a thread at once.
        chosen = Configuration(128, 128, 64, 8, 5)
    elif load == Burden.TOP_TWO and width >= 2048 and _suits_wide_tiles(classes):
        # What a reduction holds up is 1/30 of such a tile. The sums of exponentials, or class numbers, would spill.
        chosen = Configuration(128, 256, 64, 8, 4)
    else:
        # Two programs, a warpgroup each: one multiplies while the other reduces.
        chosen = Configuration(128, 128, 64, 4, 3, programs=2)
    # Their rows are of 128 bytes, which is what shared memory is swizzled in.
    return _fitted(chosen, width, 2, capability)


def _fitted(
    chosen: Configuration, width: int, element_size: int, capability: tuple[int, int]
) -> Configuration:
    """A tile with steps no longer than the width, that fits the shared memory of the device."""
    # 16 at least: a tensor-core step.
    while chosen.block_features >= 2 * max(width, 16):
        chosen = replace(chosen, block_features=chosen.block_features // 2)
    while chosen.shared_bytes(element_size) * chosen.programs > shared_limit(capability):
        chosen = _smaller(chosen)
    return chosen


def _suits_wide_tiles(classes: int) -> bool:
    """Whether little of the last tile of 256 is waste, compared with tiles of 128."""
    narrow, wide = (-(-classes // size) * size for size in (128, 256))
    return classes > 128 and narrow * 6 > wide * 5


def _plain_tile(classes: int, load: Burden) -> Configuration:
    """The tile for products without tensor cores: 8 to 32 sums a thread, so that what is read of shared memory serves several."""
    if classes <= 16:
        return Configuration(128, 16, 32, 8, 4, programs=2)
    # With sums, or the states of several widths, a thread takes more than the registers that three programs leave it.
    programs = 2 if load in (Burden.SUMS, Burden.WIDTHS, Burden.WIDTHS_SUMS) else 3
    narrow = classes <= 32 or load >= Burden.WIDTHS_SUMS
    return Configuration(64, 32 if narrow else 64, 16, 4, 4, programs)


def _tensor_core_tile(
    rows: int, classes: int, load: Burden, capability: tuple[int, int]
) -> Configuration:
    """The tile for 2-byte elements on a device whose shared memory holds it."""
    few_rows = rows <= 64
    if classes <= 32:
        # The features stream past once: deep, long steps, and two programs so that one's last step hides in the other's.
        return Configuration(64, 16 if classes <= 16 else 32, 128, 4, 4, programs=2)
    newer = capability[0] in (9, 10, 11)
    if load >= Burden.WIDTHS:
        # `distance` takes one sweep where a tile holds all classes; the second of two has more to keep.
        wide_tile = classes > 64 and (classes <= 128 if load == Burden.DISTANCES else newer)
        return Configuration(64, 128 if wide_tile else 64, 64, 8, 4)
    if classes <= 64:
        return Configuration(64 if few_rows else 128, 64, 64, 4, 4, programs=2)
    if few_rows:
        return Configuration(64, 128, 64, 4, 4, programs=2)
    # One program of these has the registers of a multiprocessor for itself.
    if load == Burden.LABEL:
        return Configuration(128, 128, 64, 8, 5)
    if load == Burden.SUMS and capability[0] != 9:
        return Configuration(128, 128, 64, 8, 5) if newer else Configuration(128, 128, 32, 8, 5)
    # 128 x 256 reads the fewest bytes for an operation (85 operations a byte; 128 x 128: 64), but is waste where most of
    # the last tile is no class. Older tensor cores take their operands from registers: no room for so many sums there.
    if not newer:
        return Configuration(128, 128, 64, 8, 4)
    if not _suits_wide_tiles(classes):
        if capability[0] == 9 and load == Burden.TOP_TWO:
            # With 4 warps (a warpgroup) two programs fit in the registers: one multiplies while the other reduces.
            return Configuration(128, 128, 64, 4, 3, programs=2)
        return Configuration(128, 128, 64, 8, 5)
    return Configuration(128, 256, 64, 8, 4)


def _smaller(chosen: Configuration) -> Configuration:
    """The next smaller need of shared memory: fewer programs, then fewer stages (two at least), then shorter steps."""
    if chosen.programs > 1 and chosen.num_stages <= 3:
        return replace(chosen, programs=chosen.programs - 1)
    if chosen.num_stages > 2:
        return replace(chosen, num_stages=chosen.num_stages - 1)
    return replace(chosen, block_features=chosen.block_features // 2)


@lru_cache(maxsize=1024)
def shares(
    row_blocks: int,
    class_tiles: int,
    chosen: Configuration,
    width: int,
    element_size: int,
    multiprocessors: int,
) -> Shares:
    """The split of classes with the shortest estimated time whose features in flight stay in the second-level cache.

    A group of row blocks that runs together reads the weight once: more splits, smaller groups, more weight to read.
    """
    slots = multiprocessors * chosen.programs
    operations = 2.0 * chosen.block_rows * chosen.block_classes * width * chosen.programs
    tile_us = operations / _OPERATIONS_PER_US + _TILE_US
    block_bytes = chosen.block_rows * width * element_size
    weight_bytes = class_tiles * chosen.block_classes * width * element_size
    best = None
    for splits in range(1, min(class_tiles, 2 * slots) + 1):
        tiles = -(-class_tiles // splits)
        if -(-class_tiles // tiles) != splits:
            continue  # the last program would have nothing to do
        group_blocks = min(row_blocks, -(-slots // splits))
        waves = -(-row_blocks * splits // slots)
        time = waves * (tiles * tile_us + _PROGRAM_US)
        if weight_bytes > _CACHED_BYTES:
            groups = -(-row_blocks // group_blocks)
            # Much of it hides behind the arithmetic, and not all.
            time += 0.3 * groups * weight_bytes / _BYTES_PER_US
        if splits > 1:
            states = 16 * splits * row_blocks * chosen.block_rows  # written and read, 8 bytes
            time += _MERGE_US + states / _BYTES_PER_US
        rank = (tiles > 1 and group_blocks * block_bytes > _CACHED_BYTES, time)
        if best is None or rank < best[0]:
            best = rank, Shares(splits, tiles, group_blocks)
    assert best is not None
    return best[1]


def slicing(width: int, block_features: int, element_size: int) -> dict[str, Any]:
    """How `linear_kernel` meets a width: whole steps, a mask on every step, or a ragged step of its own."""
    unit = unit_of(width)
    ragged = width % block_features != 0
    # A mask lets loads be as wide as the unit in which it begins.
    peeled = ragged and unit * element_size < 16 and width > block_features
    return {"MASKED": ragged and not peeled, "PEELED": peeled, "WIDTH_UNIT": unit}


def slicing_widths(widths: Sequence[int], block_features: int) -> dict[str, Any]:
    """How `widths_kernel` meets segments between widths."""
    segments = [end - begin for begin, end in zip((0, *widths), widths, strict=False)]
    return {
        "MASKED": any(segment % block_features for segment in segments),
        "WIDTH_UNIT": unit_of(*widths),
        "WIDTHS": len(widths),
        "BLOCK_WIDTHS": _power_of_two_from(len(widths)),
    }


def unit_of(*sizes: int) -> int:
    """The largest power of two, 16 at most, of which all sizes are multiples."""
    together = 16
    for size in sizes:
        together |= size
    return together & -together


def merge_tile(splits: int) -> tuple[int, int]:
    """Rows and splits of the merge kernel's tile: of few sizes, for few kernels to compile."""
    block_splits = next((size for size in MERGE_SPLITS if splits <= size), None)
    block_splits = block_splits or _power_of_two_from(splits)
    return max(1, _MERGE_TILE // block_splits), block_splits


def _power_of_two_from(count: int) -> int:
    return 1 << (count - 1).bit_length()
