"""Scores of `features @ weight.T + bias` in one sweep: a program owns a block of rows and walks the classes tile by tile.

A tile of logits is accumulated on the tensor cores over the features, reduced along the classes into the rows' states (see
`linear_tiles`) and dropped: device memory sees the features once for every class tile (through L2), the weight once for every
row block in flight, and a score a row. Where there are fewer row blocks than multiprocessors, or the features in flight would
not stay in L2, the classes are split among programs too; their states go to scratch memory and `linear_merge` joins them in a
fixed order.
"""

import triton
import triton.language as tl

from dynams_kernels._triton.linear_states import (
    RANKED,
    empty_state,
    merge_states,
    relative_to_top,
    store_state,
)
from dynams_kernels._triton.linear_tiles import (
    holds_a_label,
    lowest,
    row_largest,
    row_smallest,
    tile_state,
)
from dynams_kernels._triton.row_states import DISTANCE, LABEL, LABELLED, difference, store_scores


@triton.jit
def program_place(rows, splits, group_blocks, BLOCK_ROWS: tl.constexpr):
    """The row block and split of this program: `group_blocks` row blocks with all their splits come one after the other."""
    program = tl.program_id(0)
    group = program // (group_blocks * splits)
    inside = program % (group_blocks * splits)
    first_block = group * group_blocks
    blocks = tl.minimum(tl.cdiv(rows, BLOCK_ROWS) - first_block, group_blocks)
    return first_block + inside % blocks, inside // blocks


@triton.jit
def row_starts(numbers, row_units, ROW_UNIT: tl.constexpr):
    """Where rows of these (64-bit) numbers start, in elements. That they are multiples of ROW_UNIT must be seen by the compiler."""
    return numbers * row_units * ROW_UNIT


@triton.jit
def load_labels(KINDS: tl.constexpr, labels, row_numbers, labels_step, classes):
    """Labels as class numbers, and whether they name a class; those that do not are clamped. Zeros where no kind has a label."""
    number = tl.zeros(row_numbers.shape, tl.int32)
    inside = number == 0
    if LABELLED & KINDS:
        label = tl.load(labels + row_numbers * labels_step)
        inside = (label >= 0) & (label < classes)
        number = tl.minimum(tl.maximum(label, 0), classes - 1).to(tl.int32)
    return number, inside


@triton.jit
def complete_logits(
    x, bias, column, start, classes, HAS_BIAS: tl.constexpr, BLOCK_CLASSES: tl.constexpr
):
    """The logits of a tile from its sums: with their bias, and -inf past the last class."""
    if HAS_BIAS:
        x += tl.load(bias + column, mask=column < classes, other=0.0).to(tl.float32)[None, :]
    # Replaced, not added to: an infinite feature may have made NaN of a column that is no class.
    if start + BLOCK_CLASSES > classes:
        x = tl.where((column < classes)[None, :], x, float("-inf"))
    return x


@triton.jit
def distance_state(
    PAIRS: tl.constexpr,
    x, columns, classes, largest, first_class, distances, distances_row, distances_step,
):  # fmt: skip
    """The smallest (z_p - z_c) / ||w_p - w_c|| over a tile's classes c, and its class; +inf at c = p and past the last class."""
    p = tl.minimum(first_class, classes - 1)
    rows_of_p = distances + p.to(tl.int64)[:, None] * distances_row
    c = tl.minimum(columns, classes - 1).to(tl.int64)[None, :]
    apart = tl.load(rows_of_p + c * distances_step)
    rise = difference(largest[:, None], x)
    # Classes that agree on this sample are at distance 0, also where their weights coincide (0 / 0).
    quotient = tl.where(rise == 0.0, 0.0, tl.div_rn(rise, apart))
    counts = (columns[None, :] < classes) & (columns[None, :] != p[:, None])
    quotient = tl.where(counts, quotient, float("inf"))
    nearest = row_smallest(quotient)
    nearest_class = first_class
    if PAIRS:
        nearest_class = lowest(quotient == nearest[:, None], columns[None, :])
    return nearest, nearest_class


@triton.jit
def store_finished(KINDS: tl.constexpr, state, classes, scores, scores_step, place, live):
    """Writes the scores of whole rows' states."""
    if (RANKED | LABEL) & KINDS:
        relative, own = relative_to_top(KINDS, state, classes)
        store_scores(relative, own, own == own, None, scores, scores_step, place, live, KINDS)
    else:
        tl.store(scores + place, state[0], mask=live)


@triton.jit
def store_pairs(first_class, second_class, classes, pairs, row, live):
    """Writes class pairs. Rows with NaN have no largest class: any number inside the range will do."""
    last = classes - 1
    tl.store(pairs + row * 2, tl.minimum(first_class, last).to(tl.int64), mask=live)
    tl.store(pairs + row * 2 + 1, tl.minimum(second_class, last).to(tl.int64), mask=live)


@triton.jit
def store_rows(
    KINDS: tl.constexpr, PAIRS: tl.constexpr, SPLIT: tl.constexpr,
    state, label, label_inside, classes, scores, scores_step, pairs, state_floats, state_classes,
    row, rows, split, splits,
):  # fmt: skip
    """Writes the scores and pairs of rows all of whose classes have been seen; with SPLIT the states of those of this split."""
    live = row < rows
    first, second, rest, squares, shifted, own, first_class, second_class = state
    if LABELLED & KINDS:
        if RANKED & KINDS:
            own = tl.where(label_inside, own, float("nan"))
        else:
            first = tl.where(label_inside, first, float("nan"))
            first_class = label
    state = first, second, rest, squares, shifted, own, first_class, second_class
    if SPLIT:
        place = split.to(tl.int64) * rows + row
        component = splits.to(tl.int64) * rows
        store_state(KINDS, state, state_floats + place, component, live)
        if PAIRS:
            tl.store(state_classes + place, first_class, mask=live)
            tl.store(state_classes + component + place, second_class, mask=live)
    else:
        store_finished(KINDS, state, classes, scores, scores_step, row, live)
        if PAIRS:
            store_pairs(first_class, second_class, classes, pairs, row, live)


@triton.jit
def rounded(x, PRECISION: tl.constexpr, PIPELINED: tl.constexpr):
    """An operand as the tensor cores are to see it: they cut float32 off after ten bits, where torch's products round."""
    if PIPELINED and PRECISION == "tf32" and x.dtype == tl.float32:
        x = tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return x


@triton.jit
def multiply_step(
    acc, features_block, weight_block, left, MASKED: tl.constexpr, PIPELINED: tl.constexpr,
    PRECISION: tl.constexpr, WEIGHT_ROUNDED: tl.constexpr,
):  # fmt: skip
    """Adds one step of features x weight to the sums; with MASKED only the `left` features that remain."""
    if MASKED:
        inside = tl.arange(0, features_block.shape[1]) < left
        a = tl.load(features_block, mask=inside[None, :], other=0.0)
        b = tl.load(weight_block, mask=inside[:, None], other=0.0)
    else:
        a = tl.load(features_block)
        b = tl.load(weight_block)
    a = rounded(a, PRECISION, PIPELINED)
    if not WEIGHT_ROUNDED:
        b = rounded(b, PRECISION, PIPELINED)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def add_products(
    acc, features_block, features_step, weight_block, weight_step, width,
    MASKED: tl.constexpr, PEELED: tl.constexpr, PIPELINED: tl.constexpr, PRECISION: tl.constexpr,
    WEIGHT_ROUNDED: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Adds features x weight over `width` features to a tile's sums, from pointers (rows, BLOCK) and (BLOCK, classes)."""
    # 64 bits: a block of a transposed operand can be billions of elements from the next.
    features_hop = tl.full((), BLOCK_FEATURES, tl.int64) * features_step
    weight_hop = tl.full((), BLOCK_FEATURES, tl.int64) * weight_step
    blocks = width // BLOCK_FEATURES if PEELED else tl.cdiv(width, BLOCK_FEATURES)
    if PIPELINED:
        for block in range(blocks):
            acc = multiply_step(
                acc, features_block + block * features_hop, weight_block + block * weight_hop,
                width - block * BLOCK_FEATURES, MASKED, PIPELINED, PRECISION, WEIGHT_ROUNDED,
            )  # fmt: skip
    else:
        # The interpreter of some Triton versions cannot take a range of run-time bounds under NumPy 2.4; this it can.
        counted = 0
        while counted < blocks:
            acc = multiply_step(
                acc, features_block + counted * features_hop, weight_block + counted * weight_hop,
                width - counted * BLOCK_FEATURES, MASKED, PIPELINED, PRECISION, WEIGHT_ROUNDED,
            )  # fmt: skip
            counted += 1
    if PEELED:
        acc = multiply_step(
            acc, features_block + blocks * features_hop, weight_block + blocks * weight_hop,
            width - blocks * BLOCK_FEATURES, True, PIPELINED, PRECISION, WEIGHT_ROUNDED,
        )  # fmt: skip
    return acc


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "width_units", "splits", "tiles_per_split", "group_blocks",
        "features_row", "weight_row", "labels_step", "scores_step",
    ]
)  # fmt: skip
def linear_kernel(
    features, weight, bias, labels, distances, known_largest, known_class,
    scores, pairs, state_floats, state_classes,
    rows, classes, width_units, splits, tiles_per_split, group_blocks,
    features_row, features_step, weight_row, weight_step, labels_step, scores_step,
    distances_row, distances_step,
    KINDS: tl.constexpr, PAIRS: tl.constexpr, HAS_BIAS: tl.constexpr, SPLIT: tl.constexpr,
    ONE_TILE: tl.constexpr, MASKED: tl.constexpr, PEELED: tl.constexpr, PIPELINED: tl.constexpr,
    PRECISION: tl.constexpr, WEIGHT_ROUNDED: tl.constexpr, WIDTH_UNIT: tl.constexpr,
    ROW_UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CLASSES: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Scores (kinds, rows) and pairs (rows, 2); with SPLIT the states instead: floats (n, splits, rows), classes (2, splits, rows).

    KINDS: see `linear_states`. DISTANCE knows each row's largest logit and its class from a sweep of LARGEST, unless ONE_TILE
    holds all classes. Kinds lie `scores_step` elements apart. MASKED: the width is no multiple of BLOCK_FEATURES; PEELED: the
    ragged rest is a step of its own, for widths whose mask would forbid wide loads in all steps. PIPELINED: not interpreted.
    WEIGHT_ROUNDED: it needs no rounding in the tile, see `linear_rounding`.
    The width comes in units of WIDTH_UNIT elements, rows of features and weight are as many ROW_UNITs apart: that is what
    makes loads wide.
    """
    row_block, split = program_place(rows, splits, group_blocks, BLOCK_ROWS)
    row = row_block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    # Rows and classes past the end read the last one again: no mask on the loads, and their results are dropped.
    safe_row = tl.minimum(row, rows - 1)
    k = tl.arange(0, BLOCK_FEATURES).to(tl.int64)
    features_block = features + row_starts(safe_row, features_row, ROW_UNIT)[:, None]
    features_block += k[None, :] * features_step

    label, label_inside = load_labels(KINDS, labels, safe_row, labels_step, classes)
    if KINDS == DISTANCE and not ONE_TILE:
        largest = tl.load(known_largest + safe_row)
        largest_class = tl.load(known_class + safe_row * 2).to(tl.int32)

    state = empty_state(KINDS, (BLOCK_ROWS,))
    end = tl.minimum((split + 1) * tiles_per_split, tl.cdiv(classes, BLOCK_CLASSES))
    tile = split * tiles_per_split
    while tile < end:
        start = tile * BLOCK_CLASSES
        column = start + tl.arange(0, BLOCK_CLASSES)
        safe_column = tl.minimum(column, classes - 1).to(tl.int64)
        weight_block = weight + row_starts(safe_column, weight_row, ROW_UNIT)[None, :]
        weight_block += k[:, None] * weight_step
        x = add_products(
            tl.zeros((BLOCK_ROWS, BLOCK_CLASSES), tl.float32),
            features_block, features_step, weight_block, weight_step, width_units * WIDTH_UNIT,
            MASKED, PEELED, PIPELINED, PRECISION, WEIGHT_ROUNDED, BLOCK_FEATURES,
        )  # fmt: skip
        x = complete_logits(x, bias, column, start, classes, HAS_BIAS, BLOCK_CLASSES)
        if KINDS == DISTANCE:
            if ONE_TILE:
                largest = row_largest(x)
                largest_class = lowest(x == largest[:, None], column[None, :])
            nearest, nearest_class = distance_state(
                PAIRS, x, column, classes, largest, largest_class,
                distances, distances_row, distances_step,
            )  # fmt: skip
            unused = nearest
            found = (
                nearest, unused, unused, unused, unused, unused, largest_class, nearest_class,
            )  # fmt: skip
        else:
            has_label = holds_a_label(KINDS, label, start, BLOCK_CLASSES)
            found = tile_state(KINDS, PAIRS, x, column, label, has_label)
        state = merge_states(KINDS, PAIRS, state, found)
        tile += 1

    store_rows(
        KINDS, PAIRS, SPLIT, state, label, label_inside, classes,
        scores, scores_step, pairs, state_floats, state_classes, row, rows, split, splits,
    )  # fmt: skip
