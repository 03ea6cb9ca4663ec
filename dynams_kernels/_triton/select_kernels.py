"""The kernels of the radix selection: the k smallest of N numbers, exactly, in index order.

Keys are signed integers in the contract's order (-inf first, every NaN the same and last, the two zeros the same). Pass by
pass, one digit of 8 bits from the top: `digit_kernel` counts the digits of the keys that agree with the digits chosen so far,
and the next kernel chooses the bin that holds the k-th smallest; every program does so for itself, from the same 256 numbers,
which costs less than a launch of its own. Once all digits are chosen the k-th key is known, and how many keys equal to it are
taken: the quota. `count_kernel` counts, for each program's own range, the keys below and the ties; `write_kernel` adds up those
of the programs before it and writes its part, ties while the quota lasts. Nothing depends on the order in which programs run.

Memory: each pass reads N elements, and so do the last two kernels: 6 reads for float32, 4 for 16 bits, 10 for float64.

Digits are of 8 bits, not the 11 that a shared-memory histogram would favour: `tl.histogram` counts by ballots, a population count
for every 32 bins and every 32 elements. 2048 bins would cost 8 times the arithmetic for a pass less, but know no contention:
where most keys share a bin, as margins do in their top digit, atomic additions would queue.
"""

from __future__ import annotations

import triton
import triton.language as tl

BINS = tl.constexpr(256)


@triton.jit
def _keys(raw, INFINITY: tl.constexpr, WIDTH: tl.constexpr):
    """Integers ordered as the numbers of WIDTH bits that `raw` holds; 16 bits are widened to 32."""
    bits = raw
    if WIDTH == 16:
        bits = raw.to(tl.int32)
    largest: tl.constexpr = (1 << (WIDTH - 1)) - 1
    magnitude = bits & largest
    # Of negatives the larger magnitude is the smaller number.
    key = tl.where(bits < 0, bits ^ largest, bits)
    key = tl.where(magnitude == 0, 0, key)
    return tl.where(magnitude > INFINITY, largest, key)


@triton.jit
def _load(values, tile, count, MASKED: tl.constexpr, TILE: tl.constexpr):
    """A tile's bits, and which of them exist. Only the last tile is masked: a mask that may change at any element would make
    every access one element wide. What is 64 bits wide is a scalar: offsets in a tile take half the registers.
    """
    place = tl.arange(0, TILE)
    exists = place < tl.minimum(count - tile * TILE, TILE).to(tl.int32)
    if MASKED:
        return tl.load(values + tile * TILE + place, mask=exists, other=0), exists
    else:  # noqa: RET505 - the compiler wants both branches closed
        return tl.load(values + tile * TILE + place), exists


@triton.jit
def _range(count, TILE: tl.constexpr):
    """The tiles [begin, end) of the calling program, and how many tiles of all are whole."""
    programs = tl.num_programs(0).to(tl.int64)
    program = tl.program_id(0).to(tl.int64)
    tiles = (count + (TILE - 1)) // TILE
    return program * tiles // programs, (program + 1) * tiles // programs, count // TILE


@triton.jit
def _choose(histograms, state, step, shift):
    """The prefix of the k-th smallest key with the digit of pass `step` - 1, at `shift`, and its rank among the keys that share it.

    state[step] = (prefix, rank) after `step` passes: the first program writes it for the kernel after this one.
    """
    prefix = tl.load(state + 2 * (step - 1))
    rank = tl.load(state + 2 * (step - 1) + 1)
    counts = tl.load(histograms + (step - 1) * BINS + tl.arange(0, BINS))
    below = tl.cumsum(counts, 0) < rank
    digit = tl.sum(below.to(tl.int64), 0)
    rank -= tl.sum(tl.where(below, counts, 0), 0)
    # The top digit holds the sign: its first bin is that of the most negative keys.
    digit -= tl.where(step == 1, BINS // 2, 0)
    prefix = prefix + (digit << shift)
    if tl.program_id(0) == 0:
        tl.store(state + 2 * step, prefix)
        tl.store(state + 2 * step + 1, rank)
    return prefix, rank


@triton.jit
def _count_digits(
    totals,
    strangers,
    values,
    tile,
    count,
    prefix,
    shift,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
    INFINITY: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Adds a tile's digits to `totals`; the elements that do not count go to bin 0, and are counted in `strangers`."""
    raw, exists = _load(values, tile, count, MASKED, TILE)
    keys = _keys(raw, INFINITY, WIDTH)
    digits = (keys >> shift).to(tl.int32)
    if FIRST:
        alike = exists
        digits += BINS // 2
    else:
        alike = ((keys ^ prefix.to(keys.dtype)) >> (shift + 8)) == 0
        digits &= BINS - 1
        if MASKED:
            alike = alike & exists
    if FIRST and not MASKED:
        totals += tl.histogram(digits, BINS)
    else:
        number = tl.sum(alike.to(tl.int32), 0)
        # After the first digits most tiles hold no such key, and a sum costs less than a histogram.
        if number > 0:
            strangers += TILE - number
            totals += tl.histogram(tl.where(alike, digits, 0), BINS)
    return totals, strangers


@triton.jit(do_not_specialize=["count", "k", "step", "shift"])
def digit_kernel(
    values,
    histograms,
    state,
    count,
    k,
    step,
    shift,
    FIRST: tl.constexpr,
    INFINITY: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Pass `step`: histograms[step] of the digit at `shift` of the keys that share the digits above it with the k-th smallest."""
    count = count.to(tl.int64)
    prefix = count * 0
    if FIRST:
        if tl.program_id(0) == 0:
            tl.store(state, prefix)
            tl.store(state + 1, k.to(tl.int64))
    else:
        prefix, _ = _choose(histograms, state, step, shift + 8)
    tile, end, whole = _range(count, TILE)
    totals = tl.zeros([BINS], tl.int32)
    strangers = count * 0
    while tile < tl.minimum(end, whole):
        totals, strangers = _count_digits(
            totals,
            strangers,
            values,
            tile,
            count,
            prefix,
            shift,
            False,
            FIRST,
            INFINITY,
            WIDTH,
            TILE,
        )
        tile += 1
    if tile < end:
        totals, strangers = _count_digits(
            totals,
            strangers,
            values,
            tile,
            count,
            prefix,
            shift,
            True,
            FIRST,
            INFINITY,
            WIDTH,
            TILE,
        )
    bins = tl.arange(0, BINS)
    totals -= tl.where(bins == 0, strangers.to(tl.int32), 0)
    out = histograms + step * BINS + bins
    tl.atomic_add(out, totals.to(tl.int64), mask=totals > 0, sem="relaxed")


@triton.jit
def _below_and_ties(keys, last, exists, MASKED: tl.constexpr):
    """1 for a key below `last`, 2^16 for one equal to it: sums and scans of a tile, which is below 2^16, keep both counts."""
    both = tl.where(keys < last, 1, tl.where(keys == last, 1 << 16, 0))
    if MASKED:
        both = tl.where(exists, both, 0)
    return both


@triton.jit
def _count_ends(
    below,
    ties,
    values,
    tile,
    count,
    last,
    MASKED: tl.constexpr,
    INFINITY: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    raw, exists = _load(values, tile, count, MASKED, TILE)
    both = _below_and_ties(_keys(raw, INFINITY, WIDTH), last, exists, MASKED)
    total = tl.sum(both, 0)
    return below + (total & 0xFFFF), ties + (total >> 16)


@triton.jit(do_not_specialize=["count", "step"])
def count_kernel(
    values,
    histograms,
    state,
    counts,
    count,
    step,
    INFINITY: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """counts[0, program] of this program's keys below the k-th smallest, counts[1, program] of those equal to it."""
    count = count.to(tl.int64)
    last, _ = _choose(histograms, state, step, 0)
    if WIDTH < 64:
        last = last.to(tl.int32)
    tile, end, whole = _range(count, TILE)
    below = count * 0
    ties = count * 0
    while tile < tl.minimum(end, whole):
        below, ties = _count_ends(
            below, ties, values, tile, count, last, False, INFINITY, WIDTH, TILE
        )
        tile += 1
    if tile < end:
        below, ties = _count_ends(
            below, ties, values, tile, count, last, True, INFINITY, WIDTH, TILE
        )
    out = counts + tl.program_id(0)
    tl.store(out, below)
    tl.store(out + tl.num_programs(0), ties)


@triton.jit
def _write_tile(
    below,
    ties,
    values,
    out_values,
    out_indices,
    tile,
    count,
    last,
    quota,
    MASKED: tl.constexpr,
    INFINITY: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes what is selected of a tile that `below` smaller keys and `ties` ties precede; returns those that precede the next."""
    raw, exists = _load(values, tile, count, MASKED, TILE)
    both = _below_and_ties(_keys(raw, INFINITY, WIDTH), last, exists, MASKED)
    before = tl.cumsum(both, 0) - both
    equal = before >> 16
    start = below + tl.minimum(ties, quota)
    left = tl.minimum(quota - tl.minimum(ties, quota), TILE).to(tl.int32)
    taken = (both == 1) | ((both > 1) & (equal < left))
    target = (before & 0xFFFF) + tl.minimum(equal, left)
    tl.store(out_values + start + target, raw, mask=taken)
    tl.store(out_indices + start + target, tile * TILE + tl.arange(0, TILE), mask=taken)
    total = tl.sum(both, 0)
    return below + (total & 0xFFFF), ties + (total >> 16)


@triton.jit(do_not_specialize=["count", "step"])
def write_kernel(
    values,
    state,
    counts,
    out_values,
    out_indices,
    count,
    step,
    INFINITY: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """The selected bits and indices of this program's tiles, after those of the programs before it (at most PROGRAMS)."""
    count = count.to(tl.int64)
    last = tl.load(state + 2 * step)
    quota = tl.load(state + 2 * step + 1)
    if WIDTH < 64:
        last = last.to(tl.int32)
    others = tl.arange(0, PROGRAMS)
    earlier = others < tl.program_id(0)
    below = tl.sum(tl.load(counts + others, mask=earlier, other=0), 0)
    ties = tl.sum(tl.load(counts + tl.num_programs(0) + others, mask=earlier, other=0), 0)
    tile, end, whole = _range(count, TILE)
    while tile < tl.minimum(end, whole):
        below, ties = _write_tile(
            below,
            ties,
            values,
            out_values,
            out_indices,
            tile,
            count,
            last,
            quota,
            False,
            INFINITY,
            WIDTH,
            TILE,
        )
        tile += 1
    if tile < end:
        _write_tile(
            below,
            ties,
            values,
            out_values,
            out_indices,
            tile,
            count,
            last,
            quota,
            True,
            INFINITY,
            WIDTH,
            TILE,
        )
