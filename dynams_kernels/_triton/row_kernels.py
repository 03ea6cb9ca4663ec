"""The kernels of row scores: one program reduces whole rows, or a part of one row where rows are few and long.

Logits are read from device memory once, `GROUP` chunks of `LANES` columns in flight at a time, 16 bytes a thread and chunk.
Lane l sees columns l, l + LANES, ...: its state (row_states.py) needs no other thread until the row is through. The
`distance` margin needs the row's largest first and reads the row again, from cache, beside the class distances.

Sizes that decide how wide an access may be come divided by VECTOR: the compiler can then prove that every row starts, and
every mask changes, at a multiple of VECTOR elements. Triton finds that only where a number is a multiple of 16, which 1000
classes are not.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dynams_kernels._triton.row_states import (
    DISTANCE,
    EL2N,
    ENTROPY,
    LABELLED,
    SOFTMAX,
    add_logits,
    difference,
    merge_lanes,
    own_logit,
    store_scores,
)


@triton.jit
def _empty_lanes(ROWS: tl.constexpr, LANES: tl.constexpr, WIDE: tl.constexpr):
    nothing = tl.full([ROWS, LANES], -float("inf"), WIDE)
    zero = tl.zeros([ROWS, LANES], WIDE)
    return nothing, nothing, tl.zeros([ROWS, LANES], tl.int32), zero, zero, zero


@triton.jit
def _load_group(
    row_starts, start, classes, inside, LANES: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr
):
    # All loads before the first use, so that they are in flight together.
    raw = ()
    columns = ()
    for place in tl.static_range(GROUP):
        column = start + place * LANES + tl.arange(0, LANES)[None, :]
        mask = inside & (column < classes)
        raw += (tl.load(row_starts + column, mask=mask, other=-float("inf")),)  # type: ignore[assignment]
        columns += (column.to(tl.int32),)  # type: ignore[assignment]
    logits = ()
    for place in tl.static_range(GROUP):
        logits += (raw[place].to(WIDE),)  # type: ignore[assignment]
    return logits, columns


@triton.jit
def _read_lanes(
    row_starts,
    begin,
    end,
    classes,
    inside,
    KINDS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    LOOP: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The lanes' states after the groups of columns from number `begin` to column `end` of rows (ROWS, 1) of pointers."""
    state = _empty_lanes(ROWS, LANES, WIDE)
    if LOOP:
        # The interpreter of some Triton versions cannot take a range of run-time bounds under NumPy 2.4; this it can.
        group = 0
        while (begin + group) * (GROUP * LANES) < end:
            start = (begin + group) * (GROUP * LANES)
            logits, columns = _load_group(row_starts, start, classes, inside, LANES, GROUP, WIDE)
            state = add_logits(state, logits, columns, False, GROUP, KINDS)
            group += 1
    else:
        logits, columns = _load_group(row_starts, 0, classes, inside, LANES, GROUP, WIDE)
        state = add_logits(state, logits, columns, True, GROUP, KINDS)
    return state


@triton.jit
def _quotient(numerator, distance):
    # A plain fp32 division is approximate on the GPU; that of float64 is not.
    if numerator.dtype == tl.float32:
        return tl.div_rn(numerator, distance)
    else:  # noqa: RET505 - the compiler wants both branches closed
        return numerator / distance


@triton.jit
def _nearest_boundary(
    row_starts,
    distance_starts,
    top,
    first,
    classes,
    inside,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    WIDE: tl.constexpr,
):
    """min over c != first of (top - z_c) / distance(first, c), rows (ROWS, 1); NaN where a quotient is."""
    least = tl.full([ROWS, LANES], float("inf"), WIDE)
    group = 0
    while group * (GROUP * LANES) < classes:
        start = group * (GROUP * LANES)
        logits, columns = _load_group(row_starts, start, classes, inside, LANES, GROUP, WIDE)
        for place in tl.static_range(GROUP):
            column = start + place * LANES + tl.arange(0, LANES)[None, :]
            mask = inside & (column < classes)
            distance = tl.load(distance_starts + column, mask=mask, other=1.0).to(WIDE)
            numerator = difference(top, logits[place])
            # Classes that agree on this sample are at distance 0, also where their weights coincide (0 / 0).
            quotient = tl.where(numerator == 0.0, 0.0, _quotient(numerator, distance))
            quotient = tl.where((columns[place] == first) | (mask == 0), float("inf"), quotient)
            least = tl.minimum(least, quotient, propagate_nan=tl.PropagateNan.ALL)
        group += 1
    has_nan = tl.max((least != least).to(tl.int32), 1) > 0
    return tl.where(has_nan, float("nan"), tl.min(least, 1))


# No integer is specialised on: a batch or a stride that happens to be 1 or a multiple of 16 is no reason to compile again.
@triton.jit(
    do_not_specialize=[
        "rows",
        "class_vectors",
        "stride_vectors",
        "distance_vectors",
        "scores_stride",
    ]
)
def row_scores_kernel(
    logits,
    labels,
    class_distances,
    scores,
    rows,
    class_vectors,
    stride_vectors,
    distance_vectors,
    scores_stride,
    KINDS: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    LOOP: tl.constexpr,
):
    """The scores KINDS of ROWS whole rows a program."""
    wide: tl.constexpr = scores.dtype.element_ty
    classes = class_vectors * VECTOR
    row_stride = stride_vectors.to(tl.int64) * VECTOR
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row_starts = logits + (row * row_stride)[:, None]
    lanes = _read_lanes(
        row_starts, 0, classes, classes, inside[:, None], KINDS, ROWS, LANES, GROUP, LOOP, wide
    )
    state = merge_lanes(lanes, classes, KINDS)
    nearest = state[0]
    if DISTANCE & KINDS:
        distance_stride = distance_vectors.to(tl.int64) * VECTOR
        nearest = _nearest_boundary(
            row_starts,
            class_distances + (state[2].to(tl.int64) * distance_stride)[:, None],
            state[0][:, None],
            state[2][:, None],
            classes,
            inside[:, None],
            ROWS,
            LANES,
            GROUP,
            wide,
        )
    own = state[0]
    known = inside
    if LABELLED & KINDS:
        own, known = own_logit(logits, row_stride, labels, row, inside, classes, wide)
    store_scores(state, own, known, nearest, scores, scores_stride, row, inside, KINDS)


@triton.jit(do_not_specialize=["rows", "class_vectors", "stride_vectors", "span"])
def row_parts_kernel(
    logits,
    parts,
    rows,
    class_vectors,
    stride_vectors,
    span,
    KINDS: tl.constexpr,
    VECTOR: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Program (row, part): the state of `span` groups of a row's columns, to parts[field, row, part]."""
    wide: tl.constexpr = parts.dtype.element_ty
    classes = class_vectors * VECTOR
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    begin = part * span
    end = tl.minimum((begin + span) * (GROUP * LANES), classes)
    rows_of = row + tl.arange(0, 1)
    row_starts = logits + (rows_of * (stride_vectors.to(tl.int64) * VECTOR))[:, None]
    inside = (rows_of < rows)[:, None]
    lanes = _read_lanes(row_starts, begin, end, classes, inside, KINDS, 1, LANES, GROUP, True, wide)
    top, runner, _, rest, squares, shifted = merge_lanes(lanes, classes, KINDS)
    field = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    out = parts + rows_of * tl.num_programs(1) + part
    tl.store(out, top)
    tl.store(out + field, runner)
    if SOFTMAX & KINDS:
        tl.store(out + 2 * field, rest)
    if EL2N & KINDS:
        tl.store(out + 3 * field, squares)
    if ENTROPY & KINDS:
        tl.store(out + 4 * field, shifted)


@triton.jit(do_not_specialize=["rows", "classes", "row_stride", "scores_stride", "count"])
def merge_parts_kernel(
    parts,
    logits,
    labels,
    scores,
    rows,
    classes,
    row_stride,
    scores_stride,
    count,
    KINDS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The scores of one row a program from the states of its `count` parts, merged in an order that depends on nothing."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    part = tl.arange(0, PARTS)[None, :]
    mask = part < count
    field = tl.num_programs(0).to(tl.int64) * count
    source = parts + (row * count)[:, None] + part
    top = tl.load(source, mask=mask, other=-float("inf"))
    runner = tl.load(source + field, mask=mask, other=-float("inf"))
    rest = top
    squares = top
    shifted = top
    if SOFTMAX & KINDS:
        rest = tl.load(source + 2 * field, mask=mask, other=0.0)
    if EL2N & KINDS:
        squares = tl.load(source + 3 * field, mask=mask, other=0.0)
    if ENTROPY & KINDS:
        shifted = tl.load(source + 4 * field, mask=mask, other=0.0)
    state = merge_lanes((top, runner, top, rest, squares, shifted), classes, KINDS)
    own = state[0]
    known = row < rows
    if LABELLED & KINDS:
        wide: tl.constexpr = scores.dtype.element_ty
        stride = row_stride.to(tl.int64)
        own, known = own_logit(logits, stride, labels, row, row < rows, classes, wide)
    store_scores(state, own, known, None, scores, scores_stride, row, row < rows, KINDS)
