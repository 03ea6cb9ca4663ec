"""Joins the states that several programs left of the same rows (`linear_kernel` with SPLIT) and writes scores and class pairs, or,
of a shard of the classes, the states of its rows.

A program takes a few rows and all their splits at once, and reduces along the splits: no atomics, so the same bits at every
run. It reads 8 to 20 bytes a row and split.
"""

import triton
import triton.language as tl

from dynams_kernels._triton.linear_kernel import store_finished, store_pairs
from dynams_kernels._triton.linear_states import (
    LARGEST,
    RANKED,
    exponent,
    load_sums,
    relative_to_top,
    store_state,
)
from dynams_kernels._triton.linear_tiles import lowest, row_largest, row_smallest
from dynams_kernels._triton.row_states import DISTANCE, EL2N, ENTROPY, SOFTMAX


@triton.jit(do_not_specialize=["rows", "classes", "splits", "scores_step"])
def merge_kernel(
    state_floats, state_classes, scores, pairs,
    rows, classes, splits, scores_step,
    KINDS: tl.constexpr, PAIRS: tl.constexpr, IS_SHARD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
):  # fmt: skip
    """Floats (n, splits, rows) and classes (2, splits, rows) to scores (kinds, rows) and pairs (rows, 2).

    IS_SHARD: to the states (n, rows) of dynams_kernels/_backends/shard_states.py instead of scores; the second class of a shard of
    one is past every class.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    split = tl.arange(0, BLOCK_SPLITS)
    live = row < rows
    present = (split < splits)[None, :] & live[:, None]
    place = split.to(tl.int64)[None, :] * rows + row[:, None]
    component = splits.to(tl.int64) * rows
    nothing = float("inf") if KINDS == DISTANCE else float("-inf")
    firsts = tl.load(state_floats + place, mask=present, other=nothing)
    seconds = tl.load(state_floats + component + place, mask=present, other=float("-inf"))
    rests, squares_of, shifted_of, owns = load_sums(KINDS, state_floats + place, component, present)
    if PAIRS:
        first_classes = tl.load(state_classes + place, mask=present, other=2147483647)
        second_classes = tl.load(state_classes + component + place, mask=present, other=2147483647)

    first_class = tl.zeros((BLOCK_ROWS,), tl.int32)
    second_class = first_class
    own = tl.zeros((BLOCK_ROWS,), tl.float32)
    if KINDS == DISTANCE:
        first = row_smallest(firsts)
        second = first
        if PAIRS:
            first_class = lowest(present, first_classes)
            second_class = lowest(firsts == first[:, None], second_classes)
    elif KINDS == LARGEST:
        first = row_largest(firsts)
        second = first
        if PAIRS:
            first_class = lowest(firsts == first[:, None], first_classes)
    elif RANKED & KINDS:
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
        own = tl.sum(owns, 1)
    else:
        first = row_largest(firsts)
        second = row_largest(seconds)
        if PAIRS:
            first_class = lowest(present, first_classes)
            second_class = lowest(seconds == second[:, None], second_classes)
    rest = own
    squares = own
    shifted = own
    if SOFTMAX & KINDS:
        d = exponent(seconds, second[:, None])
        scale = tl.exp2(d)
        rest = tl.sum(scale * rests, 1)
        if EL2N & KINDS:
            squares = tl.sum(scale * scale * squares_of, 1)
        if ENTROPY & KINDS:
            shifted = tl.sum(scale * (shifted_of + d * rests), 1)
        # What the other splits left out is one of the others now; the first itself may be infinitely far above them.
        d = tl.where(holds_first, 0.0, exponent(firsts, second[:, None]))
        e = tl.where(holds_first, 0.0, tl.exp2(d))
        rest += tl.sum(e, 1)
        if EL2N & KINDS:
            squares += tl.sum(e * e, 1)
        if ENTROPY & KINDS:
            shifted += tl.sum(e * d, 1)

    state = first, second, rest, squares, shifted, own, first_class, second_class
    if IS_SHARD:
        relative, own = relative_to_top(KINDS, state, classes)
        top, runner_up, _, rest, squares, shifted = relative
        state = top, runner_up, rest, squares, shifted, own, first_class, second_class
        store_state(KINDS, state, scores + row, scores_step, live)
        if PAIRS:
            tl.store(pairs + row * 2, first_class.to(tl.int64), mask=live)
            tl.store(pairs + row * 2 + 1, second_class.to(tl.int64), mask=live)
    else:
        store_finished(KINDS, state, classes, scores, scores_step, row, live)
        if PAIRS:
            store_pairs(first_class, second_class, classes, pairs, row, live)
