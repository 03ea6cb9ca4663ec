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
    load_labels,
    program_place,
    row_starts,
)
from dynams_kernels._triton.linear_tiles import (
    empty_state,
    finished_score,
    merge_states,
    tile_state,
)


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


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "splits", "tiles_per_split", "group_blocks",
        "features_row", "weight_row", "labels_step",
        "width_0", "width_1", "width_2", "width_3", "width_4", "width_5", "width_6", "width_7",
    ]
)  # fmt: skip
def widths_kernel(
    features, weight, bias, labels, scores, state_floats,
    rows, classes, splits, tiles_per_split, group_blocks,
    width_0, width_1, width_2, width_3, width_4, width_5, width_6, width_7,
    features_row, features_step, weight_row, weight_step, labels_step,
    KIND: tl.constexpr, HAS_BIAS: tl.constexpr, SPLIT: tl.constexpr, MASKED: tl.constexpr,
    PIPELINED: tl.constexpr, PRECISION: tl.constexpr, WIDTH_UNIT: tl.constexpr,
    ROW_UNIT: tl.constexpr, WIDTHS: tl.constexpr, BLOCK_WIDTHS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CLASSES: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Scores (WIDTHS, rows); with SPLIT the states' floats (3, splits, WIDTHS, rows) instead.

    MASKED: not every segment is a whole number of BLOCK_FEATURES. Widths come in units of WIDTH_UNIT elements, see
    `linear_kernel`.
    """
    row_block, split = program_place(rows, splits, group_blocks, BLOCK_ROWS)
    row = row_block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    safe_row = tl.minimum(row, rows - 1)
    k = tl.arange(0, BLOCK_FEATURES).to(tl.int64)
    features_block = features + row_starts(safe_row, features_row, ROW_UNIT)[:, None]
    features_block += k[None, :] * features_step
    label = tl.zeros((BLOCK_ROWS,), tl.int32)
    if KIND == "label":
        label, label_inside = load_labels(labels, safe_row, labels_step, classes)

    number = tl.arange(0, BLOCK_WIDTHS)[:, None]
    first, second, total, first_class, second_class = empty_state(KIND, (BLOCK_WIDTHS, BLOCK_ROWS))
    end = tl.minimum((split + 1) * tiles_per_split, tl.cdiv(classes, BLOCK_CLASSES))
    tile = split * tiles_per_split
    while tile < end:
        column = tile * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)
        safe_column = tl.minimum(column, classes - 1).to(tl.int64)
        weight_block = weight + row_starts(safe_column, weight_row, ROW_UNIT)[None, :]
        weight_block += k[:, None] * weight_step
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
                MASKED, False, PIPELINED, PRECISION, BLOCK_FEATURES,
            )  # fmt: skip
            x = sums
            if HAS_BIAS:
                biases = tl.load(bias + column, mask=column < classes, other=0.0)
                x += biases.to(tl.float32)[None, :]
            if tile * BLOCK_CLASSES + BLOCK_CLASSES > classes:
                x = tl.where((column < classes)[None, :], x, float("-inf"))
            one, two, mass, one_class, two_class = tile_state(KIND, False, x, column, label)
            grown_first, grown_second, grown_total, _, _ = merge_states(
                KIND, False, first, second, total, first_class, second_class,
                one[None, :], two[None, :], mass[None, :], one_class[None, :], two_class[None, :],
            )  # fmt: skip
            here = number == segment
            first = tl.where(here, grown_first, first)
            second = tl.where(here, grown_second, second)
            total = tl.where(here, grown_total, total)
        tile += 1

    live = (row < rows)[None, :] & (number < WIDTHS)
    if KIND == "label":
        first = tl.where(label_inside[None, :], first, float("nan"))
    if SPLIT:
        place = (split.to(tl.int64) * WIDTHS + number) * rows + row[None, :]
        component = splits.to(tl.int64) * WIDTHS * rows
        tl.store(state_floats + place, first, mask=live)
        tl.store(state_floats + component + place, second, mask=live)
        if KIND == "probability":
            tl.store(state_floats + 2 * component + place, total, mask=live)
    else:
        place = number.to(tl.int64) * rows + row[None, :]
        tl.store(scores + place, finished_score(KIND, first, second, total), mask=live)
