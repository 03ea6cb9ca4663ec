"""The sweep of `linear_kernel` with tensor descriptors: whole tiles are fetched by the copy engine (TMA), one loop runs over all.

The loop is flat over (class tile x step along the features). The loads of a step are issued `num_stages` - 1 steps ahead, so
those of the next class tile are under way while this one is reduced; loops one in the other would drain the pipeline at the
end of every tile and fill it again. Nothing is masked: what lies past a row, class or width arrives as zero.

Served is what gains by it: one width, any kinds but `distance`, no class pairs. The rest stays with pointers.

The descriptors are made by the host and passed by value, 1.3 us each. Made in the kernel (`tl.make_tensor_descriptor`) the loop
is the same, but behind 160 to 200 instructions more in which a program writes its own and waits for them, 256 bytes of scratch
memory a program, whose allocator can only be set for the whole process (`triton.set_allocator`).
"""

import triton
import triton.language as tl

from dynams_kernels._triton.linear_kernel import (
    complete_logits,
    load_labels,
    program_place,
    store_rows,
)
from dynams_kernels._triton.linear_states import empty_state, merge_states
from dynams_kernels._triton.linear_tiles import holds_a_label, tile_state


@triton.jit
def reduce_sums(
    KINDS: tl.constexpr, HAS_BIAS: tl.constexpr, PIPELINED: tl.constexpr, BLOCK_CLASSES: tl.constexpr,
    sums, state, tile, bias, classes, label,
):  # fmt: skip
    """The states of the rows after one more class tile, of which these are the finished sums."""
    if PIPELINED:
        # No instruction is left of it. The compiler waits for a product in flight where an operation reads it, but not where
        # a branch merely hands it on, as `complete_logits` may.
        sums = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [sums], tl.float32, True, 1)
    start = tile * BLOCK_CLASSES
    column = start + tl.arange(0, BLOCK_CLASSES)
    x = complete_logits(sums, bias, column, start, classes, HAS_BIAS, BLOCK_CLASSES)
    has_label = holds_a_label(KINDS, label, start, BLOCK_CLASSES)
    found = tile_state(KINDS, False, x, column, label, has_label)
    return merge_states(KINDS, False, state, found)


@triton.jit
def sweep_step(
    KINDS: tl.constexpr, HAS_BIAS: tl.constexpr, PIPELINED: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
    features, weight, bias, classes, label, first_row, steps, sums, state, tile, step,
):  # fmt: skip
    """Sums, states, class tile and step after one more step along the features, the last of which reduces the tile."""
    a = features.load([first_row, step * BLOCK_FEATURES])
    b = weight.load([tile * BLOCK_CLASSES, step * BLOCK_FEATURES])
    sums = tl.dot(a, b.T, sums)
    last = step + 1 == steps
    if last:
        state = reduce_sums(
            KINDS, HAS_BIAS, PIPELINED, BLOCK_CLASSES, sums, state, tile, bias, classes, label
        )
        sums = tl.zeros_like(sums)
    # Chosen, not set in the branch: loads of later steps are issued before the branch is taken.
    return sums, state, tl.where(last, tile + 1, tile), tl.where(last, 0, step + 1)


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "steps", "splits", "tiles_per_split", "group_blocks",
        "labels_step", "scores_step",
    ]
)  # fmt: skip
def descriptors_kernel(
    features, weight, bias, labels, scores, state_floats,
    rows, classes, steps, splits, tiles_per_split, group_blocks, labels_step, scores_step,
    KINDS: tl.constexpr, HAS_BIAS: tl.constexpr, SPLIT: tl.constexpr, PIPELINED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CLASSES: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Scores (kinds, rows); with SPLIT the states' floats (n, splits, rows) instead.

    `features` and `weight` are descriptors of blocks (BLOCK_ROWS or BLOCK_CLASSES, BLOCK_FEATURES); `steps` blocks cover the
    width. Kinds lie `scores_step` elements apart. PIPELINED: not interpreted.
    """
    row_block, split = program_place(rows, splits, group_blocks, BLOCK_ROWS)
    first_row = row_block * BLOCK_ROWS
    row = row_block.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    safe_row = tl.minimum(row, rows - 1)
    label, label_inside = load_labels(KINDS, labels, safe_row, labels_step, classes)

    state = empty_state(KINDS, (BLOCK_ROWS,))
    sums = tl.zeros((BLOCK_ROWS, BLOCK_CLASSES), tl.float32)
    tile = split * tiles_per_split
    end = tl.minimum(tile + tiles_per_split, tl.cdiv(classes, BLOCK_CLASSES))
    step = 0
    if PIPELINED:
        for _ in tl.range(0, (end - tile) * steps):
            sums, state, tile, step = sweep_step(
                KINDS, HAS_BIAS, PIPELINED, BLOCK_CLASSES, BLOCK_FEATURES,
                features, weight, bias, classes, label, first_row, steps, sums, state, tile, step,
            )  # fmt: skip
    else:
        while tile < end:
            sums, state, tile, step = sweep_step(
                KINDS, HAS_BIAS, PIPELINED, BLOCK_CLASSES, BLOCK_FEATURES,
                features, weight, bias, classes, label, first_row, steps, sums, state, tile, step,
            )  # fmt: skip
    store_rows(
        KINDS, False, SPLIT, state, label, label_inside, classes,
        scores, scores_step, None, state_floats, None, row, rows, split, splits,
    )  # fmt: skip
