"""What the linear kernels share: how a tile of logits becomes a row's state, how states merge, and how one becomes a score.

A state is three floats and two class numbers for each row. By kind:

- ``gap``: the two largest logits, and their classes.
- ``probability``: the same, and the sum of exp(z - largest).
- ``label``: the label's logit and the largest of the other classes, with the class of the latter second.
- ``largest``: the largest logit and its class (the first sweep of ``distance`` over many classes).
- ``distance``: the smallest quotient, with its class second.

NaN is carried by the first or second float, never skipped. Class numbers are kept only where they are asked for; among
equal logits the lowest class comes first. Columns past the last class hold -inf and numbers past every class, so they lose
to every class.
"""

import triton
import triton.language as tl


@triton.jit
def larger(a, b):
    """The larger of two, NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):
    """The smaller of two, NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def merge_top_two(first_a, second_a, first_b, second_b):
    """The two largest of two pairs, each largest first."""
    second = larger(smaller(first_a, first_b), larger(second_a, second_b))
    return larger(first_a, first_b), second


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
def difference(a, b):
    """a - b, 0 where they are equal: two equal infinities have no margin between them."""
    return tl.where(a == b, 0.0, a - b)


@triton.jit
def exponent_base(largest):
    """What to subtract before exp. An infinite largest logit would make NaN of itself; its row's sum is not used."""
    return tl.where(tl.abs(largest) == float("inf"), 0.0, largest)


@triton.jit
def comes_first(value_a, class_a, value_b, class_b):
    """Whether a stands before b in the order of descending logits, lowest class first."""
    return (value_a > value_b) | ((value_a == value_b) & (class_a < class_b))


@triton.jit
def empty_state(KIND: tl.constexpr, shape: tl.constexpr):
    """The state of rows of which no class has been seen."""
    nothing = tl.full(shape, float("-inf"), tl.float32)
    start = tl.full(shape, float("inf") if KIND == "distance" else float("-inf"), tl.float32)
    no_class = tl.full(shape, 2147483647, tl.int32)
    return start, nothing, tl.zeros(shape, tl.float32), no_class, no_class


@triton.jit
def tile_state(KIND: tl.constexpr, PAIRS: tl.constexpr, x, columns, label):
    """The state of the rows of one tile of logits x, whose columns are the classes `columns`; not for `distance`."""
    classes = columns[None, :]
    first_class = tl.zeros((x.shape[0],), tl.int32)
    second_class = first_class
    total = tl.zeros((x.shape[0],), tl.float32)
    if KIND == "label":
        is_own = classes == label[:, None]
        first = row_largest(tl.where(is_own, x, float("-inf")))
        others = tl.where(is_own, float("-inf"), x)
        second = row_largest(others)
        if PAIRS:
            second_class = lowest(
                (others == second[:, None]) & (classes != label[:, None]), classes
            )
    elif PAIRS:
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
    if KIND == "probability":
        total = tl.sum(tl.exp(x - exponent_base(first)[:, None]), 1)
    return first, second, total, first_class, second_class


@triton.jit
def merge_states(
    KIND: tl.constexpr,
    PAIRS: tl.constexpr,
    first_a, second_a, total_a, first_class_a, second_class_a,
    first_b, second_b, total_b, first_class_b, second_class_b,
):  # fmt: skip
    """The state of rows after the classes of both; elementwise, any shape."""
    first_class = first_class_a
    second_class = second_class_a
    total = total_a
    if KIND == "label":
        if PAIRS:
            a_leads = comes_first(second_a, second_class_a, second_b, second_class_b)
            second_class = tl.where(a_leads, second_class_a, second_class_b)
        first = larger(first_a, first_b)
        second = larger(second_a, second_b)
    elif KIND == "distance":
        if PAIRS:
            a_leads = comes_first(-first_a, second_class_a, -first_b, second_class_b)
            second_class = tl.where(a_leads, second_class_a, second_class_b)
        first = smaller(first_a, first_b)
        second = second_a
    else:
        if PAIRS:
            a_leads = comes_first(first_a, first_class_a, first_b, first_class_b)
            first_class = tl.where(a_leads, first_class_a, first_class_b)
            # The second is the loser of that, or the second of the winner's own pair.
            loser = tl.where(a_leads, first_b, first_a)
            loser_class = tl.where(a_leads, first_class_b, first_class_a)
            runner_up = tl.where(a_leads, second_a, second_b)
            runner_up_class = tl.where(a_leads, second_class_a, second_class_b)
            loser_leads = comes_first(loser, loser_class, runner_up, runner_up_class)
            second_class = tl.where(loser_leads, loser_class, runner_up_class)
        first, second = merge_top_two(first_a, second_a, first_b, second_b)
        if KIND == "probability":
            base = exponent_base(first)
            total = total_a * tl.exp(first_a - base) + total_b * tl.exp(first_b - base)
    return first, second, total, first_class, second_class


@triton.jit
def one_minus_exp(gap):
    """1 - exp(-gap) for gap >= 0, without cancellation: below 1/2 the series, whose first term left out is under 2^-26 of it."""
    series = 1.0 - gap / 8.0
    series = 1.0 - gap / 7.0 * series
    series = 1.0 - gap / 6.0 * series
    series = 1.0 - gap / 5.0 * series
    series = 1.0 - gap / 4.0 * series
    series = 1.0 - gap / 3.0 * series
    series = 1.0 - gap / 2.0 * series
    return tl.where(gap < 0.5, gap * series, 1.0 - tl.exp(-gap))


@triton.jit
def finished_score(KIND: tl.constexpr, first, second, total):
    """The score of a complete state."""
    score = first
    if KIND == "gap" or KIND == "label":
        score = difference(first, second)
    elif KIND == "probability":
        gap = difference(first, second)
        # An infinite gap leaves the whole probability to one class, whatever the sum made of the infinities.
        score = tl.where(gap == float("inf"), 1.0, one_minus_exp(gap) / total)
        score = tl.where(gap == 0.0, 0.0, score)
    return score
