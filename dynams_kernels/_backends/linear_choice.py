"""Which kernel scores a linear head on a GPU: the one table, by shape of head.

Its costs are predictions until a GPU has measured them: `bench/gpu.sh` times every candidate on every target shape and says
where this table is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from dynams_kernels._kinds import BIT

Candidate = Literal[
    "hopper 128x128",
    "hopper 128x144",
    "hopper 128x192",
    "hopper 128x256",
    "triton descriptors",
    "triton pointers",
    "eager",
]
CANDIDATES: tuple[Candidate, ...] = get_args(Candidate)

# The compiled Hopper kernel's tilings, as csrc/cuda/hopper/linear_head.h numbers them.
HOPPER_TILES: Mapping[Candidate, int] = {
    "hopper 128x128": 0,
    "hopper 128x144": 1,
    "hopper 128x192": 2,
    "hopper 128x256": 3,
}
# Rows that are taken together (a pair of tiles by the Hopper kernel), and classes of a tile: all of a tile is computed, whether
# it holds logits or not.
_TILE: Mapping[Candidate, tuple[int, int]] = {
    "hopper 128x128": (256, 128),
    "hopper 128x144": (256, 144),
    "hopper 128x192": (256, 192),
    "hopper 128x256": (256, 256),
    "triton descriptors": (128, 128),
    "triton pointers": (128, 128),
}


@dataclass(frozen=True)
class HeadClass:
    """Heads of at least these sizes, and what a column of a tile costs in each candidate, relative to the cheapest.

    Attributes:
        logits: rows times classes; too few leave multiprocessors without a tile.
        rows: of the features.
        classes: of the head.
        gap_width: features that take part, for the gap alone: the Hopper kernel hides its reduction behind so long a product.
        sums_width: the same for all other kinds.
        costs: by candidate; one that is not named is never chosen.
    """

    logits: int
    rows: int
    classes: int
    gap_width: int
    sums_width: int
    costs: Mapping[Candidate, float]


# The first class that a head belongs to decides. Predicted from instruction counts and from bytes a cycle and multiprocessor:
# of shared memory 128 can be had, and 128x128 wants 160, 128x144 153, 128x192 139, 128x256 128; of the second-level cache about
# 30, and they want 48, 44, 37, 32. The reduction of 128x256 is not hidden: 2,200 cycles after every 16 a feature. In ping-pong
# the other warpgroup's 8 cycles a feature hide 1,550 cycles and 2,200 of waiting for atomics (the gap), or 2,960 (all else).
_TABLE = (
    HeadClass(2 << 20, 256, 256, 2048, 2048, {
        "hopper 128x192": 1.0,
        "hopper 128x256": 1.03,
        "hopper 128x144": 1.12,
        "hopper 128x128": 1.18,
        "triton descriptors": 1.2,
        "triton pointers": 1.35,
    }),
    HeadClass(2 << 20, 256, 256, 464, 376, {
        "hopper 128x192": 1.0,
        "hopper 128x144": 1.1,
        "hopper 128x128": 1.14,
        "hopper 128x256": 1.14,
        "triton descriptors": 1.2,
        "triton pointers": 1.35,
    }),
    # Too short a product to hide a tile's reduction behind, or bound by reading the features or the weight once.
    HeadClass(0, 0, 0, 0, 0, {"triton pointers": 1.0, "triton descriptors": 1.05}),
)  # fmt: skip


def choose(
    rows: int,
    classes: int,
    width: int,
    kinds: int,
    multiprocessors: int,
    candidates: Collection[Candidate],
) -> Candidate:
    """The cheapest of the candidates that can serve a head; plain torch where the table names none of them.

    Args:
        rows: of the features.
        classes: of the head.
        width: features that take part.
        kinds: request mask.
        multiprocessors: of the device.
        candidates: those that can serve these operands there.
    """
    for heads in _TABLE:
        least_width = heads.gap_width if kinds == BIT["gap"] else heads.sums_width
        if (
            rows * classes < heads.logits
            or rows < heads.rows
            or classes < heads.classes
            or width < least_width
        ):
            continue
        costs = {
            candidate: cost * _columns(candidate, rows, classes, multiprocessors)
            for candidate, cost in heads.costs.items()
            if candidate in candidates
        }
        if costs:
            return min(costs, key=lambda candidate: costs[candidate])
    return "eager"


def _columns(candidate: Candidate, rows: int, classes: int, multiprocessors: int) -> int:
    """Columns of logits, 128 rows high, that the busiest multiprocessor computes."""
    together, columns = _TILE[candidate]
    tiles = -(-rows // together) * (together // 128) * -(-classes // columns)
    return -(-tiles // multiprocessors) * columns
