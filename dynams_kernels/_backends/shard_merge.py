"""How the states that several shards of a linear head's classes left of the same rows become scores. Plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from dynams_kernels._backends.eager import difference, lowest_index
from dynams_kernels._backends.shard_states import LEAST_EXPONENT, NO_CLASS, state_parts
from dynams_kernels._kinds import LABELLED_KINDS, LOGSUMEXP, kinds_of

# Rows merged at a time: 8 ranks' states of so many are at most 24 MiB in float64.
_MERGED_ROWS = 1 << 16


def merged_scores(
    states: Tensor, numbers: Tensor | None, named: Tensor | None, total: int, kinds: int
) -> tuple[Tensor, Tensor | None]:
    """Scores of rows all of whose classes are in the states of one shard or another.

    Computed in float64 in the order of the shards, so that whoever merges the same states gets the same bits.

    Args:
        states: (R, n, B) of the shards, in the order of their classes.
        numbers: (R, 2, B) int64, the classes of their two largest, numbered over all shards; or None.
        named: (B,) whether the label names a class, where there are labels.
        total: how many classes there are.
        kinds: request mask, without `distance`.

    Returns:
        The scores (kinds, B) in the states' dtype and, of numbers, the classes (B, 2) of the two largest logits.
    """
    batch = states.shape[2]
    scores = states.new_empty((kinds.bit_count(), batch))
    pairs = None if numbers is None else numbers.new_empty((batch, 2))
    for begin in range(0, batch, _MERGED_ROWS):
        rows = slice(begin, begin + _MERGED_ROWS)
        known = None if named is None else named[rows]
        merged, holder = _merged(states[:, :, rows].to(torch.float64), kinds)
        scores[:, rows] = _finished(merged, known, kinds).to(states.dtype)
        if pairs is not None and numbers is not None:
            found = _merged_classes(states[:, :2, rows], numbers[:, :, rows], holder)
            # A row without a margin still needs two classes that exist: its gradient is NaN whichever they are.
            pairs[rows] = found.clamp(max=total - 1)
    return scores, pairs


def _merged(states: Tensor, kinds: int) -> tuple[dict[str, Tensor], Tensor]:
    """The state of whole rows, and (R, B) which shard holds the first: the one whose largest the sums leave out."""
    of = dict(zip(state_parts(kinds), states.unbind(1), strict=True))
    firsts = of["first"]
    first = firsts.amax(0)  # NaN if one is
    place = lowest_index((firsts == first).T)
    holder = torch.arange(len(firsts), device=place.device).unsqueeze(1) == place
    merged = {"first": first, "second": torch.where(holder, of["second"], firsts).amax(0)}
    if "own" in of:
        merged["own"] = of["own"].sum(0)
    if "rest" in of:
        d = difference(firsts, first.expand_as(firsts)).clamp(min=LEAST_EXPONENT)
        scale = d.exp()
        # What the other shards left out is one of the others now.
        left_out = (~holder).to(scale.dtype)
        rest = of["rest"] + left_out
        merged["rest"] = (scale * rest).sum(0)
        if "squares" in of:
            merged["squares"] = (scale.square() * (of["squares"] + left_out)).sum(0)
        if "shifted" in of:
            merged["shifted"] = (scale * (of["shifted"] + d * rest)).sum(0)
    return merged, holder


def _merged_classes(tops: Tensor, numbers: Tensor, holder: Tensor) -> Tensor:
    """The classes (B, 2) of the two largest over all shards, the lowest of equals first."""
    firsts, seconds = tops[:, 0], tops[:, 1]
    rivals = torch.where(holder, seconds, firsts)
    rival_numbers = torch.where(holder, numbers[:, 1], numbers[:, 0])
    of_first = torch.where(holder, numbers[:, 0], NO_CLASS).amin(0)
    second = torch.where(rivals == rivals.amax(0), rival_numbers, NO_CLASS).amin(0)
    return torch.stack((of_first, second), 1)


def _finished(merged: dict[str, Tensor], named: Tensor | None, kinds: int) -> Tensor:
    """The scores (kinds, B) of whole rows."""
    first, second = merged["first"], merged["second"]
    gap = difference(first, second)
    out = {"gap": gap}
    if "own" in merged:
        own = merged["own"]
        out["label"] = difference(own, torch.where(own == first, second, first))
    if "rest" in merged:
        rest = merged["rest"]
        total, log_total = rest + 1, rest.log1p()
        # p1 - p2 = p1 (1 - exp(-gap)): no cancellation where the two are close.
        out["probability"] = -torch.expm1(-gap) / total
        out["confidence"] = rest / total
        out[LOGSUMEXP] = first + log_total
        if "shifted" in merged:
            out["entropy"] = (log_total - merged["shifted"] / total).clamp(min=0)
        if "own" in merged:
            below = difference(own, first)
            out["loss"] = log_total - below
            if "squares" in merged:
                out["el2n"] = _error_norm(rest, merged["squares"], below)
    nan = torch.full_like(gap, torch.nan)
    scores = []
    for kind in kinds_of(kinds):
        score = torch.where(first.isnan(), nan, out[kind])
        if kind in LABELLED_KINDS and named is not None:
            score = torch.where(named, score, nan)
        scores.append(score)
    return torch.stack(scores)


def _error_norm(rest: Tensor, squares: Tensor, below: Tensor) -> Tensor:
    """||p - y||: the root of the sum of p_c^2 over the others and (1 - p_y)^2, 1 - p_y being the others' sum.

    Taking the label out cancels nothing: either it is the largest, which the sums leave out, or the largest outweighs it.
    """
    own = below.exp()
    is_largest = below == 0
    others = torch.where(is_largest, rest, rest + 1 - own)
    squares = torch.where(is_largest, squares, squares + 1 - own.square())
    return (squares + others.square()).sqrt() / (rest + 1)
