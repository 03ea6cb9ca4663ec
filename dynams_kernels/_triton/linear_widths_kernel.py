"""Scores of a slim head at several widths from one sweep: as the sum over the features passes a width, its logits are complete.

The widths ascend, so the logits of one are the running sums of the next: features and weight are read once for all widths. A
program owns a block of rows, walks the classes tile by tile, and within a tile the segments between widths; each segment's
end reduces the accumulator into that width's row of the states (see `linear_tiles`).

The states have a row a width, and are dealt out evenly. With a column a width the compiler would lay them out as the logits,
whose rows are spread over many threads: each of these would hold a copy of all its rows' states (of 8 rows and 8 widths, 64
registers for each of three floats).
"""

import triton
import triton.language as tl

from dynams_kernels._triton.linear_kernel import (
    add_products,
    complete_logits,
    load_labels,
    program_place,
    row_starts,
    store_finished,
)
from dynams_kernels._triton.linear_states import (
    RANKED,
    empty_state,
    merge_states,
    store_state,
)
from dynams_kernels._triton.linear_tiles import holds_a_label, tile_state
from dynams_kernels._triton.row_states import LABELLED


@triton.jit
def chosen_width(number, width_0, width_1, width_2, width_3, width_4, width_5, width_6, width_7):
    """The width of that number; 0 for number -1."""
    low = tl.where(
        number == 0,
        width_0,
        tl.where(number == 1, width_1, tl.where(number == 2, width_2, width_3)),
    )
    high = tl.where(
        number == 4,
        width_4,
        tl.where(number == 5, width_5, tl.where(number == 6, width_6, width_7)),
    )
    return tl.where(number < 0, 0, tl.where(number < 4, low, high))


@triton.jit
def chosen_state(here, grown, before):
    """The floats of `grown` where `here` holds, of `before` elsewhere. Class numbers are not kept."""
    first, second, rest, squares, shifted, own, _, _ = grown
    old_first, old_second, old_rest, old_squares, old_shifted, old_own, no_class, _ = before
    return (
        tl.where(here, first, old_first), tl.where(here, second, old_second),
        tl.where(here, rest, old_rest), tl.where(here, squares, old_squares),
        tl.where(here, shifted, old_shifted), tl.where(here, own, old_own), no_class, no_class,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "splits", "tiles_per_split", "group_blocks",
        "features_row", "weight_row", "labels_step", "scores_step",
        "width_0", "width_1", "width_2", "width_3", "width_4", "width_5", "width_6", "width_7",
    ]
)  # fmt: skip
def widths_kernel(
    features, weight, bias, labels, scores, state_floats,
    rows, classes, splits, tiles_per_split, group_blocks,
    width_0, width_1, width_2, width_3, width_4, width_5, width_6, width_7,
    features_row, features_step, weight_row, weight_step, labels_step, scores_step,
    KINDS: tl.constexpr, HAS_BIAS: tl.constexpr, SPLIT: tl.constexpr, MASKED: tl.constexpr,
    PIPELINED: tl.constexpr, PRECISION: tl.constexpr, WEIGHT_ROUNDED: tl.constexpr,
    WIDTH_UNIT: tl.constexpr, ROW_UNIT: tl.constexpr, WIDTHS: tl.constexpr, BLOCK_WIDTHS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CLASSES: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Scores (kinds, WIDTHS, rows); with SPLIT the states' floats (n, splits, WIDTHS, rows) instead.

    MASKED: not every segment is a whole number of BLOCK_FEATURES. Widths come in units of WIDTH_UNIT elements, see
    `linear_kernel`; kinds lie `scores_step` elements apart.
    """
    row_block, split = program_place(rows, splits, group_blocks, BLOCK_ROWS)
    row = row_block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    safe_row = tl.minimum(row, rows - 1)
    k = tl.arange(0, BLOCK_FEATURES).to(tl.int64)
    features_block = features + row_starts(safe_row, features_row, ROW_UNIT)[:, None]
    features_block += k[None, :] * features_step
    label, label_inside = load_labels(KINDS, labels, safe_row, labels_step, classes)

    number = tl.arange(0, BLOCK_WIDTHS)[:, None]
    state = empty_state(KINDS, (BLOCK_WIDTHS, BLOCK_ROWS))
    end = tl.minimum((split + 1) * tiles_per_split, tl.cdiv(classes, BLOCK_CLASSES))
    tile = split * tiles_per_split
    while tile < end:
        start = tile * BLOCK_CLASSES
        column = start + tl.arange(0, BLOCK_CLASSES)
        safe_column = tl.minimum(column, classes - 1).to(tl.int64)
        weight_block = weight + row_starts(safe_column, weight_row, ROW_UNIT)[None, :]
        weight_block += k[:, None] * weight_step
        has_label = holds_a_label(KINDS, label, start, BLOCK_CLASSES)
        sums = tl.zeros((BLOCK_ROWS, BLOCK_CLASSES), tl.float32)
        for segment in range(WIDTHS):
            begin = WIDTH_UNIT * chosen_width(
                segment - 1,
                width_0, width_1, width_2, width_3, width_4, width_5, width_6, width_7,
            )  # fmt: skip
            width = WIDTH_UNIT * chosen_width(
                segment,
                width_0, width_1, width_2, width_3, width_4, width_5, width_6, width_7,
            )  # fmt: skip
            sums = add_products(
                sums,
                features_block + begin.to(tl.int64) * features_step, features_step,
                weight_block + begin.to(tl.int64) * weight_step, weight_step, width - begin,
                MASKED, False, PIPELINED, PRECISION, WEIGHT_ROUNDED, BLOCK_FEATURES,
            )  # fmt: skip
            x = complete_logits(sums, bias, column, start, classes, HAS_BIAS, BLOCK_CLASSES)
            first, second, rest, squares, shifted, own, first_class, second_class = tile_state(
                KINDS, False, x, column, label, has_label
            )
            found = (
                first[None, :], second[None, :], rest[None, :], squares[None, :],
                shifted[None, :], own[None, :], first_class[None, :], second_class[None, :],
            )  # fmt: skip
            state = chosen_state(number == segment, merge_states(KINDS, False, state, found), state)
        tile += 1

    live = (row < rows)[None, :] & (number < WIDTHS)
    first, second, rest, squares, shifted, own, first_class, second_class = state
    if LABELLED & KINDS:
        if RANKED & KINDS:
            own = tl.where(label_inside[None, :], own, float("nan"))
        else:
            first = tl.where(label_inside[None, :], first, float("nan"))
    state = first, second, rest, squares, shifted, own, first_class, second_class
    if SPLIT:
        place = (split.to(tl.int64) * WIDTHS + number) * rows + row[None, :]
        component = splits.to(tl.int64) * WIDTHS * rows
        store_state(KINDS, state, state_floats + place, component, live)
    else:
        place = number.to(tl.int64) * rows + row[None, :]
        store_finished(KINDS, state, classes, scores, scores_step, place, live)
