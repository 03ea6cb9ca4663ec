"""What a row is reduced to, shared by the kernels of row scores: states of lanes, their merge, and the scores made of one.

A lane stands for the logits of a row at a fixed distance from each other. Its state is

    top, runner   the two largest of its logits; top is NaN where one of them is
    first         the lowest class that attains top
    rest, squares, shifted
                  the sums of e, e^2 and e * (z - top) over all its logits but ONE that attains top, e = exp(z - top)

The largest is left out of the sums because it contributes exactly 1: where a row is nearly certain, `rest` = total - 1 is
what the scores need, and a sum that held the 1 would have rounded it away. Of two logits the lesser (`minimum`) is the one
that joins the sums, so ties are counted as they should with no comparison.

A lane that has seen nothing has top -inf and sums that a merge multiplies by exp(-inf) = 0; in a row whose largest is -inf
itself every logit is the largest, and the sums are known without looking.

Only reductions that the interpreter runs as array operations are used: it is how these kernels are tested without a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The bits of dynams_kernels/_kinds.py, as jitted code sees them.
GAP = tl.constexpr(1)
PROBABILITY = tl.constexpr(2)
DISTANCE = tl.constexpr(4)
LABEL = tl.constexpr(8)
LOSS = tl.constexpr(16)
EL2N = tl.constexpr(32)
ENTROPY = tl.constexpr(64)
CONFIDENCE = tl.constexpr(128)
LOGSUMEXP = tl.constexpr(256)
SOFTMAX = tl.constexpr(2 + 16 + 32 + 64 + 128 + 256)
LABELLED = tl.constexpr(8 + 16 + 32)

# exp of it is 0 in both precisions; finite, so that 0 * it is 0 where 0 * -inf would be NaN.
_LEAST_EXPONENT = tl.constexpr(-10000.0)
# A lane with a NaN adds this to the count of lanes that attain the largest: one reduction finds both. Of the at most
# 16,384 lanes of a row none can pass it, and all of them together stay inside 31 bits.
_NAN_MARK = tl.constexpr(1 << 16)
_NO_CLASS = tl.constexpr(2**31 - 1)


@triton.jit
def difference(larger, smaller):
    """larger - smaller, 0 where they are equal: two equal infinities have no margin between them."""
    return tl.where(larger == smaller, 0.0, larger - smaller)


@triton.jit
def _exponent(value, top):
    return tl.maximum(difference(value, top), _LEAST_EXPONENT)


@triton.jit
def _log1p(x):
    # Kahan's: the rounding of 1 + x is divided out again.
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def _expm1_of_negative(x):
    # Kahan's, as above; where exp(x) is 0 or 1 its logarithm is of no use, and the result is known.
    u = tl.exp(x)
    inside = (u > 0.0) & (u < 1.0)
    ratio = x / tl.where(inside, tl.log(tl.where(inside, u, 0.5)), 1.0)
    return tl.where(inside, (u - 1.0) * ratio, tl.where(u >= 1.0, x, -1.0))


@triton.jit
def add_logits(
    state,
    logits,
    columns,
    FRESH: tl.constexpr,
    COUNT: tl.constexpr,
    KINDS: tl.constexpr,
):
    """The state of lanes (rows, lanes) after COUNT more logits each; FRESH: these are the first.

    `logits` and `columns` are tuples of COUNT; a missing logit is -inf.
    """
    top, runner, first, rest, squares, shifted = state
    # Of a fresh lane the first logit is the top already, and has nothing to lose to.
    start: tl.constexpr = 1 if FRESH else 0
    if FRESH:
        top = logits[0]
        if DISTANCE & KINDS:
            first = first + columns[0]
    before = top
    losers = ()
    for place in tl.static_range(start, COUNT):
        z = logits[place]
        if DISTANCE & KINDS:
            first = tl.where(z > top, columns[place], first)
        loser = tl.minimum(top, z)
        runner = tl.maximum(runner, loser)
        top = tl.maximum(top, z, propagate_nan=tl.PropagateNan.ALL)
        losers += (loser,)  # type: ignore[assignment]
    if SOFTMAX & KINDS:
        if not FRESH:
            d = _exponent(before, top)
            scale = tl.exp(d)
            if ENTROPY & KINDS:
                shifted = scale * (shifted + d * rest)
            if EL2N & KINDS:
                squares = scale * scale * squares
            rest = scale * rest
        for place in tl.static_range(start, COUNT):
            d = _exponent(losers[place - start], top)
            e = tl.exp(d)
            rest += e
            if EL2N & KINDS:
                squares += e * e
            if ENTROPY & KINDS:
                shifted += e * d
    return top, runner, first, rest, squares, shifted


@triton.jit
def merge_lanes(state, classes, KINDS: tl.constexpr):
    """The states (rows,) of whole rows from those of their lanes (rows, lanes).

    `classes` is how many logits the row has: what the sums count where all of them are -inf.
    """
    tops, runners, firsts, rests, squares_of, shifted_of = state
    top = tl.max(tops, 1)
    wins = tops == top[:, None]
    count = tl.sum(tl.where(tops != tops, _NAN_MARK, wins.to(tl.int32)), 1)
    has_nan = count >= _NAN_MARK
    others = tl.max(tl.maximum(runners, tl.where(wins, -float("inf"), tops)), 1)
    runner = tl.where(count > 1, top, others)
    first = count
    if DISTANCE & KINDS:
        first = tl.min(tl.where(wins, firsts, _NO_CLASS), 1)
        # No lane wins a row of NaN.
        first = tl.where(has_nan, 0, first)
    rest = top
    squares = top
    shifted = top
    if SOFTMAX & KINDS:
        # A lane's own top joins the sums, except that of one winner: the row's largest.
        ties = (count - 1).to(top.dtype)
        nothing = top == -float("inf")
        d = _exponent(tops, top[:, None])
        scale = tl.exp(d)
        joined = rests + 1.0
        rest = tl.sum(tl.where(wins, rests, scale * joined), 1) + ties
        rest = tl.where(nothing, classes - 1, rest)
        if EL2N & KINDS:
            squares = tl.sum(tl.where(wins, squares_of, scale * scale * (squares_of + 1.0)), 1)
            squares = tl.where(nothing, classes - 1, squares + ties)
        if ENTROPY & KINDS:
            moved = scale * (shifted_of + d * joined)
            shifted = tl.sum(tl.where(wins, shifted_of, moved), 1)
            shifted = tl.where(nothing, 0.0, shifted)
    top = tl.where(has_nan, float("nan"), top)
    return top, runner, first, rest, squares, shifted


@triton.jit
def own_logit(logits, row_stride, labels, rows, inside, classes, WIDE: tl.constexpr):
    """The logit of each row's label, and whether the label is a class; one that is not reads nothing."""
    label = tl.load(labels + rows, mask=inside, other=0)
    known = (label >= 0) & (label < classes)
    own = tl.load(logits + rows * row_stride + label, mask=inside & known, other=0.0)
    return own.to(WIDE), known


@triton.jit
def store_scores(
    state,
    own,
    known,
    nearest,
    scores,
    scores_stride,
    rows,
    inside,
    KINDS: tl.constexpr,
):
    """Writes every score of KINDS of rows (of any shape), in bit order, `scores_stride` elements apart.

    `own` is the label's logit, of meaning where it is `known`; `nearest` the distance margin, None to leave its place as it
    is; `inside` which rows exist.
    """
    top, runner, _, rest, squares, shifted = state
    nan = float("nan")
    has_nan = top != top
    unlabelled = has_nan | (known == 0)
    out = scores + rows
    own_is_top = own == top
    total = 1.0 + rest
    log_total = total
    if (LOSS | ENTROPY | LOGSUMEXP) & KINDS:
        log_total = _log1p(rest)
    if GAP & KINDS:
        tl.store(out, tl.where(has_nan, nan, difference(top, runner)), mask=inside)
        out += scores_stride
    if PROBABILITY & KINDS:
        # p1 - p2 = p1 (1 - exp(-gap)): no cancellation where the two are close.
        probability = -_expm1_of_negative(-difference(top, runner)) / total
        tl.store(out, tl.where(has_nan, nan, probability), mask=inside)
        out += scores_stride
    if DISTANCE & KINDS:
        if nearest is not None:
            tl.store(out, tl.where(has_nan, nan, nearest), mask=inside)
        out += scores_stride
    if LABEL & KINDS:
        label_margin = difference(own, tl.where(own_is_top, runner, top))
        tl.store(out, tl.where(unlabelled, nan, label_margin), mask=inside)
        out += scores_stride
    if LOSS & KINDS:
        loss = log_total - difference(own, top)
        tl.store(out, tl.where(unlabelled, nan, loss), mask=inside)
        out += scores_stride
    if EL2N & KINDS:
        # ||p - y||^2 = sum of p_c^2 over the others + (1 - p_y)^2, and 1 - p_y is the others' sum. Taking the label out
        # cancels nothing: either it is the largest, which the sums leave out, or the largest outweighs it.
        e = tl.exp(_exponent(own, top))
        others = tl.where(own_is_top, rest, 1.0 + (rest - e))
        others_squares = tl.where(own_is_top, squares, 1.0 + (squares - e * e))
        el2n = tl.sqrt(others_squares + others * others) / total
        tl.store(out, tl.where(unlabelled, nan, el2n), mask=inside)
        out += scores_stride
    if ENTROPY & KINDS:
        entropy = tl.maximum(log_total - shifted / total, 0.0)
        tl.store(out, tl.where(has_nan, nan, entropy), mask=inside)
        out += scores_stride
    if CONFIDENCE & KINDS:
        tl.store(out, tl.where(has_nan, nan, rest / total), mask=inside)
        out += scores_stride
    if LOGSUMEXP & KINDS:
        tl.store(out, tl.where(has_nan, nan, top + log_total), mask=inside)
