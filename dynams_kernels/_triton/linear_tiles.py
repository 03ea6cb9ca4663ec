"""How the linear kernels reduce a tile of logits to the states of its rows (see `linear_states`).

The cost of a logit decides the cost of a kernel: three instructions find the two largest, and the sums take an exponential,
a multiply-add for its argument, an addition, and one more operation for each further sum. Only a tile that holds an infinity
or a NaN is summed with more care, in a branch of its own.
"""

import triton
import triton.language as tl

from dynams_kernels._triton.linear_states import (
    LARGEST,
    LOG2E,
    RANKED,
    exponent,
    larger,
    merge_top_two,
    smaller,
)
from dynams_kernels._triton.row_states import EL2N, ENTROPY, LABELLED, SOFTMAX


@triton.jit
def row_top_two(x):
    """The two largest of each row, NaN first where it has one: three instructions an element."""
    # Pairing x with -inf is free: larger(second, -inf) is known to be `second` when compiled.
    nothing = tl.full(x.shape, float("-inf"), tl.float32)
    return tl.reduce((x, nothing), 1, merge_top_two)


@triton.jit
def row_largest(x):
    """The largest of each row, NaN where it has one."""
    return tl.reduce(x, 1, larger)


@triton.jit
def row_smallest(x):
    """The smallest of each row, NaN where it has one."""
    return tl.reduce(x, 1, smaller)


@triton.jit
def lowest(mask, classes):
    """The lowest of `classes`, (1 or rows, columns), where the mask holds in each row; past every class where it never does."""
    return tl.min(tl.where(mask, classes, 2147483647), 1)


@triton.jit
def add_up(KINDS: tl.constexpr, d):
    """The sums of e = exp2(d), e^2 and e * d along rows, as far as the kinds need them."""
    e = tl.exp2(d)
    rest = tl.sum(e, 1)
    squares = rest
    shifted = rest
    if EL2N & KINDS:
        squares = tl.sum(e * e, 1)
    if ENTROPY & KINDS:
        shifted = tl.sum(e * d, 1)
    return rest, squares, shifted


@triton.jit
def tile_sums(KINDS: tl.constexpr, others, largest):
    """rest, squares and shifted of logits whose largest (rows,) is known."""
    # z * log2(e) - base is one instruction, and exact but for the last rounding; that the base is rounded shifts all of a
    # row's exponents by the same, which is taken out of the sums. An infinite base makes NaN of a row's sums.
    base = largest * LOG2E
    base = tl.where(tl.abs(base) == float("inf"), float("nan"), base)
    excess = tl.fma(largest, LOG2E, -base)
    rest, squares, shifted = add_up(KINDS, tl.fma(others, LOG2E, -base[:, None]))
    odd = rest != rest
    if ENTROPY & KINDS:
        # Where a logit is -inf.
        odd = odd | (shifted != shifted)
    scale = tl.exp2(-excess)
    shifted = scale * (shifted - excess * rest)
    rest = scale * rest
    squares = scale * scale * squares
    if tl.max(odd.to(tl.int32), 0) > 0:
        # For these rows alone: what a row scores must not depend on the rows beside it.
        careful_rest, careful_squares, careful_shifted = add_up(
            KINDS, exponent(others, largest[:, None])
        )
        rest = tl.where(odd, careful_rest, rest)
        squares = tl.where(odd, careful_squares, squares)
        shifted = tl.where(odd, careful_shifted, shifted)
    return rest, squares, shifted


@triton.jit
def holds_a_label(KINDS: tl.constexpr, label, start, BLOCK_CLASSES: tl.constexpr):
    """Whether one of the labels (rows,) is among the classes of a tile: of many classes, most tiles have none to look for."""
    found = True
    if LABELLED & KINDS and RANKED & KINDS:
        inside = (label >= start) & (label < start + BLOCK_CLASSES)
        found = tl.max(inside.to(tl.int32), 0) > 0
    return found


@triton.jit
def tile_state(KINDS: tl.constexpr, PAIRS: tl.constexpr, x, columns, label, has_label):
    """The state of the rows of one tile of logits x, whose columns are the classes `columns`; not for DISTANCE alone.

    Where not `has_label` (see `holds_a_label`), none of the columns is a label.
    """
    classes = columns[None, :]
    zero = tl.zeros((x.shape[0],), tl.float32)
    second = zero
    rest = zero
    squares = zero
    shifted = zero
    own = zero
    first_class = tl.zeros((x.shape[0],), tl.int32)
    second_class = first_class
    if KINDS == LARGEST:
        first = row_largest(x)
        first_class = lowest(x == first[:, None], classes)
    elif RANKED & KINDS:
        if LABELLED & KINDS:  # noqa: SIM102 - this is known to the compiler, the next is not
            # Before the rest, while the least is kept in registers beside the logits.
            if has_label:
                own = tl.sum(tl.where(classes == label[:, None], x, 0.0), 1)
        if PAIRS:
            first = row_largest(x)
            first_class = lowest(x == first[:, None], classes)
            is_first = classes == first_class[:, None]
            others = tl.where(is_first, float("-inf"), x)
            second = row_largest(others)
            second_class = lowest(
                (others == second[:, None]) & (classes != first_class[:, None]), classes
            )
        else:
            first, second = row_top_two(x)
        if SOFTMAX & KINDS:
            # The largest is left out as a second `second`, which is cheaper than to look for one of those that attain it,
            # and is then taken off the sums: 1 of the 2 or more that they hold.
            lesser = tl.minimum(x, second[:, None])
            rest, squares, shifted = tile_sums(KINDS, lesser, second)
            rest -= 1.0
            squares -= 1.0
    else:
        is_own = classes == label[:, None]
        first = row_largest(tl.where(is_own, x, float("-inf")))
        others = tl.where(is_own, float("-inf"), x)
        second = row_largest(others)
        if PAIRS:
            second_class = lowest(
                (others == second[:, None]) & (classes != label[:, None]), classes
            )
    return first, second, rest, squares, shifted, own, first_class, second_class
