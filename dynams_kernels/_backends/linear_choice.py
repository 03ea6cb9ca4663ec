"""Which kernel scores a linear head on a GPU: the one table, by shape of head.

`bench/gpu.sh` times every candidate on every target shape and says where this table is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from dynams_kernels._kinds import BIT

Candidate = Literal[
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
    "hopper 128x144": 0,
    "hopper 128x192": 1,
    "hopper 128x256": 2,
}
# Rows that are taken together (a pair of tiles by the Hopper kernel), and classes of a tile: all of a tile is computed, whether
# it holds logits or not.
_TILE: Mapping[Candidate, tuple[int, int]] = {
    "hopper 128x144": (256, 144),
    "hopper 128x192": (256, 192),
    "hopper 128x256": (256, 256),
    "triton descriptors": (128, 128),
    "triton pointers": (128, 128),
    "eager": (128, 128),
}


@dataclass(frozen=True)
class HeadClass:
    """Heads of at least these sizes, and what a column of a tile costs in each candidate, relative to the cheapest.

    Attributes:
        logits: rows times classes; too few leave multiprocessors without a tile.
        rows: of the features.
        classes: of the head.
        width: features that take part.
        costs: by candidate; one that is not named is never chosen.
    """

    logits: int
    rows: int
    classes: int
    width: int
    costs: Mapping[Candidate, float]


# The first class that a head belongs to decides. Costs are times of an H100, over the columns that its busiest multiprocessor
# computed (bench/results, "Candidates of a linear head"); what was not measured is put beside its nearest relative.
# All that is left in the end is bound by reading the features or the weight once.
_STREAMED = HeadClass(0, 0, 0, 0, {"triton pointers": 1.0, "triton descriptors": 1.2})
_GAP = (
    HeadClass(8 << 20, 256, 256, 2048, {
        "hopper 128x256": 1.0,
        "triton descriptors": 1.02,
        "hopper 128x192": 1.03,
        "triton pointers": 1.18,
        "hopper 128x144": 1.25,
    }),
    HeadClass(8 << 20, 256, 256, 464, {
        "hopper 128x256": 1.0,
        "hopper 128x192": 1.17,
        "triton descriptors": 1.19,
        "hopper 128x144": 1.3,
        "triton pointers": 1.4,
    }),
    # Of one tile, or with fewer tiles than pay for a second launch.
    HeadClass(0, 0, 65, 0, {"triton descriptors": 1.0, "triton pointers": 1.05}),
    _STREAMED,
)  # fmt: skip
_SUMS = (
    HeadClass(8 << 20, 256, 256, 2048, {
        "hopper 128x256": 1.0,
        "hopper 128x192": 1.02,
        "hopper 128x144": 1.08,
        "triton pointers": 1.27,
        "triton descriptors": 1.33,
    }),
    HeadClass(8 << 20, 256, 256, 376, {
        "hopper 128x192": 1.0,
        "hopper 128x144": 1.0,
        "hopper 128x256": 1.16,
        "triton descriptors": 1.32,
        "triton pointers": 1.57,
    }),
    # One or two tiles a multiprocessor: the last one's reduction has nothing to hide behind.
    HeadClass(2 << 20, 256, 256, 376, {
        "hopper 128x192": 1.0,
        "hopper 128x256": 1.05,
        "hopper 128x144": 1.11,
        "triton descriptors": 1.18,
        "triton pointers": 1.31,
    }),
    HeadClass(0, 0, 65, 0, {"triton descriptors": 1.0, "triton pointers": 1.19}),
    _STREAMED,
)  # fmt: skip
# `distance` of more classes than Triton's tile holds sweeps the product twice. Torch's product by blocks of rows, in float32, and
# Triton's scores of rows took 0.26 (4096 x 4096 -> 20000) to 0.81 of the time (65536 x 1024 -> 129), 690 us of 1714 at 65536 x 1024 -> 1000;
# of few logits below 1000 classes they took 1.2 (4096 x 2048 -> 257).
_DISTANCES = (
    HeadClass(4 << 20, 0, 129, 0, {"eager": 1.0}),
    HeadClass(0, 0, 1000, 0, {"eager": 1.0}),
    _STREAMED,
)
# Products without tensor cores: torch's, some rows at a time, are 1.1 (256 x 256 -> 10) to 4.4 times as fast as Triton's at all
# shapes measured, and what is stored of logits between is little beside them.
_PLAIN = (HeadClass(0, 0, 0, 0, {"eager": 1.0}),)


def choose(
    rows: int,
    classes: int,
    width: int,
    kinds: int,
    multiprocessors: int,
    candidates: Collection[Candidate],
    *,
    tensor_cores: bool = True,
) -> Candidate:
    """The cheapest of the candidates that can serve a head; plain torch where the table names none of them.

    Args:
        rows: of the features.
        classes: of the head.
        width: features that take part.
        kinds: request mask.
        multiprocessors: of the device.
        candidates: those that can serve these operands there.
        tensor_cores: whether products are theirs; float32 is not, unless torch is told to allow tf32.
    """
    for heads in _table(kinds) if tensor_cores else _PLAIN:
        if (
            rows * classes < heads.logits
            or rows < heads.rows
            or classes < heads.classes
            or width < heads.width
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


def _table(kinds: int) -> tuple[HeadClass, ...]:
    """The classes of heads whose scores are these, on tensor cores."""
    if kinds & BIT["distance"]:
        return _DISTANCES
    return _GAP if kinds == BIT["gap"] else _SUMS


def _columns(candidate: Candidate, rows: int, classes: int, multiprocessors: int) -> int:
    """Columns of logits, 128 rows high, that the busiest multiprocessor computes."""
    together, columns = _TILE[candidate]
    tiles = -(-rows // together) * (together // 128) * -(-classes // columns)
    return -(-tiles // multiprocessors) * columns
