"""What the linear kernels reduce a row to, how two such states of a row join, and the largest logit that the scores start from.

A state is six floats and two class numbers for each row:

    first, second
                  the two largest logits; for `label` alone the label's logit and the largest of the others, which takes fewer
                  instructions a logit than to find three
    rest, squares, shifted
                  the sums of e, e^2 and e * log2(e) over all logits but ONE that attains `first`, e = exp(z - second)
    own           the label's logit; 0 while it has not been seen

The largest is left out of the sums because it weighs most where a row is nearly certain: there `rest` is what the scores need,
and a sum that held it would have rounded it away. Sums relative to `second` are 1 at least, and finite also where `first` is
+inf.

Two sweeps of their own serve the `distance` margin: LARGEST finds `first`, the largest logit, and its class; DISTANCE alone
keeps the smallest quotient in `first`, with its class second. DISTANCE among other kinds is a row that is left for it.

NaN is carried by `first` or `second`, never skipped. Class numbers are kept only where they are asked for (PAIRS); among equal
logits the lowest class comes first. Columns past the last class hold -inf and numbers past every class, so they lose to every
class; rows in which nothing else is in the sums (`second` is -inf) have sums of no meaning, but finite ones.
"""

import triton
import triton.language as tl

from dynams_kernels._triton.row_states import (
    DISTANCE,
    EL2N,
    ENTROPY,
    LABELLED,
    SOFTMAX,
    difference,
)

# The first sweep of `distance` over many classes; past the bits of dynams_kernels/_kinds.py.
LARGEST = tl.constexpr(512)
# The kinds that are made of the two largest; the label's logit is then a float of its own.
RANKED = tl.constexpr(1 + 2 + 16 + 32 + 64 + 128 + 256)

LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
# exp2 of it is 0; finite, so that 0 * it is 0 where 0 * -inf would be NaN.
_LEAST_EXPONENT = tl.constexpr(-10000.0)


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
def comes_first(value_a, class_a, value_b, class_b):
    """Whether a stands before b in the order of descending logits, lowest class first."""
    return (value_a > value_b) | ((value_a == value_b) & (class_a < class_b))


@triton.jit
def exponent(z, top):
    """log2 of exp(z - top) for z <= top: 0 for two equal infinities."""
    return tl.maximum(difference(z, top) * LOG2E, _LEAST_EXPONENT)


@triton.jit
def empty_state(KINDS: tl.constexpr, shape: tl.constexpr):
    """The state of rows of which no class has been seen."""
    nothing = tl.full(shape, float("-inf"), tl.float32)
    start = tl.full(shape, float("inf") if KINDS == DISTANCE else float("-inf"), tl.float32)
    zero = tl.zeros(shape, tl.float32)
    no_class = tl.full(shape, 2147483647, tl.int32)
    return start, nothing, zero, zero, zero, zero, no_class, no_class


@triton.jit
def merge_states(KINDS: tl.constexpr, PAIRS: tl.constexpr, a, b):
    """The state of rows after the classes of both; elementwise, any shapes that go together."""
    first_a, second_a, rest_a, squares_a, shifted_a, own_a, first_class_a, second_class_a = a
    first_b, second_b, rest_b, squares_b, shifted_b, own_b, first_class_b, second_class_b = b
    second = second_a
    rest = rest_a
    squares = squares_a
    shifted = shifted_a
    own = own_a
    first_class = first_class_a
    second_class = second_class_a
    if KINDS == DISTANCE:
        if PAIRS:
            a_leads = comes_first(-first_a, second_class_a, -first_b, second_class_b)
            second_class = tl.where(a_leads, second_class_a, second_class_b)
            first_class = first_class_b
        first = smaller(first_a, first_b)
    elif KINDS == LARGEST:
        a_leads = comes_first(first_a, first_class_a, first_b, first_class_b)
        first_class = tl.where(a_leads, first_class_a, first_class_b)
        first = larger(first_a, first_b)
    elif RANKED & KINDS:
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
        if LABELLED & KINDS:
            own = own_a + own_b
    else:
        if PAIRS:
            a_leads = comes_first(second_a, second_class_a, second_b, second_class_b)
            second_class = tl.where(a_leads, second_class_a, second_class_b)
        first = larger(first_a, first_b)
        second = larger(second_a, second_b)
    if SOFTMAX & KINDS:
        d_a = exponent(second_a, second)
        d_b = exponent(second_b, second)
        scale_a = tl.exp2(d_a)
        scale_b = tl.exp2(d_b)
        rest = scale_a * rest_a + scale_b * rest_b
        if EL2N & KINDS:
            squares = scale_a * scale_a * squares_a + scale_b * scale_b * squares_b
        if ENTROPY & KINDS:
            shifted = scale_a * (shifted_a + d_a * rest_a) + scale_b * (shifted_b + d_b * rest_b)
        # Of the two that were left out the lesser is one of the others now.
        d = exponent(tl.minimum(first_a, first_b), second)
        e = tl.exp2(d)
        rest += e
        if EL2N & KINDS:
            squares += e * e
        if ENTROPY & KINDS:
            shifted += e * d
    return first, second, rest, squares, shifted, own, first_class, second_class


@triton.jit
def relative_to_top(KINDS: tl.constexpr, state, classes):
    """A whole row's state and its label's logit as `row_states` has them: sums relative to the largest, natural logarithms."""
    first, second, rest, squares, shifted, own, _, _ = state
    top = first
    if (RANKED & KINDS) == 0:
        own = first
        top = larger(first, second)
    if SOFTMAX & KINDS:
        d = exponent(second, top)
        scale = tl.exp2(d)
        # In a row of nothing but -inf every logit is the largest.
        nothing = top == float("-inf")
        shifted = tl.where(nothing, 0.0, scale * (shifted + d * rest) * _LN2)
        rest = tl.where(nothing, classes - 1.0, scale * rest)
        squares = tl.where(nothing, classes - 1.0, scale * scale * squares)
    return (top, second, top, rest, squares, shifted), own


@triton.jit
def store_state(KINDS: tl.constexpr, state, out, component, live):
    """Writes a state's floats that these kinds have, `component` elements apart (as many as `state_floats` says)."""
    first, second, rest, squares, shifted, own, _, _ = state
    tl.store(out, first, mask=live)
    out += component
    tl.store(out, second, mask=live)
    if SOFTMAX & KINDS:
        out += component
        tl.store(out, rest, mask=live)
    if EL2N & KINDS:
        out += component
        tl.store(out, squares, mask=live)
    if ENTROPY & KINDS:
        out += component
        tl.store(out, shifted, mask=live)
    if LABELLED & KINDS and RANKED & KINDS:
        out += component
        tl.store(out, own, mask=live)


@triton.jit
def load_sums(KINDS: tl.constexpr, source, component, present):
    """What `store_state` wrote after the first and the second: rest, squares, shifted, own; 0 where absent."""
    zero = tl.zeros(present.shape, tl.float32)
    rest = zero
    squares = zero
    shifted = zero
    own = zero
    source += component
    if SOFTMAX & KINDS:
        source += component
        rest = tl.load(source, mask=present, other=0.0)
    if EL2N & KINDS:
        source += component
        squares = tl.load(source, mask=present, other=0.0)
    if ENTROPY & KINDS:
        source += component
        shifted = tl.load(source, mask=present, other=0.0)
    if LABELLED & KINDS and RANKED & KINDS:
        source += component
        own = tl.load(source, mask=present, other=0.0)
    return rest, squares, shifted, own
