"""Joins the states that several programs left of the same rows (`linear_kernel` with SPLIT) and writes scores and class pairs.

A program takes a few rows and all their splits at once, and reduces along the splits: no atomics, so the same bits at every
run. It reads 8 to 20 bytes a row and split.
"""

import triton
import triton.language as tl

from dynams_kernels._triton.linear_tiles import (
    exponent_base,
    finished_score,
    lowest,
    row_largest,
    row_smallest,
)


@triton.jit(do_not_specialize=["rows", "classes", "splits"])
def merge_kernel(
    state_floats, state_classes, scores, pairs,
    rows, classes, splits,
    KIND: tl.constexpr, PAIRS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
):  # fmt: skip
    """Floats (3, splits, rows) and classes (2, splits, rows) to scores (rows,) and pairs (rows, 2)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    split = tl.arange(0, BLOCK_SPLITS)
    live = row < rows
    present = (split < splits)[None, :] & live[:, None]
    place = split.to(tl.int64)[None, :] * rows + row[:, None]
    component = splits.to(tl.int64) * rows
    nothing = float("inf") if KIND == "distance" else float("-inf")
    firsts = tl.load(state_floats + place, mask=present, other=nothing)
    seconds = tl.load(state_floats + component + place, mask=present, other=float("-inf"))
    if PAIRS:
        first_classes = tl.load(state_classes + place, mask=present, other=2147483647)
        second_classes = tl.load(state_classes + component + place, mask=present, other=2147483647)

    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    if KIND == "distance":
        first = row_smallest(firsts)
        second = first
        if PAIRS:
            first_class = lowest(present, first_classes)
            second_class = lowest(firsts == first[:, None], second_classes)
    elif KIND == "label":
        first = row_largest(firsts)
        second = row_largest(seconds)
        if PAIRS:
            first_class = lowest(present, first_classes)
            second_class = lowest(seconds == second[:, None], second_classes)
    else:
        first = row_largest(firsts)
        # Which split holds the first: its second, and the other splits' firsts, compete for the second place.
        if PAIRS:
            first_class = lowest(firsts == first[:, None], first_classes)
            holds_first = first_classes == first_class[:, None]
        else:
            holder = lowest(firsts == first[:, None], split[None, :])
            holds_first = split[None, :] == holder[:, None]
        rivals = tl.where(holds_first, seconds, firsts)
        second = row_largest(rivals)
        if PAIRS:
            rival_classes = tl.where(holds_first, second_classes, first_classes)
            second_class = lowest(rivals == second[:, None], rival_classes)
        if KIND == "probability":
            masses = tl.load(state_floats + 2 * component + place, mask=present, other=0.0)
            total = tl.sum(masses * tl.exp(firsts - exponent_base(first)[:, None]), 1)

    tl.store(scores + row, finished_score(KIND, first, second, total), mask=live)
    if PAIRS:
        last = classes - 1
        tl.store(pairs + row * 2, tl.minimum(first_class, last).to(tl.int64), mask=live)
        tl.store(pairs + row * 2 + 1, tl.minimum(second_class, last).to(tl.int64), mask=live)
