"""The kinds of score a row of logits can be given, and the bit each one has in the kernels' request mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

MarginKind = Literal["gap", "probability", "distance", "label"]
ScoreKind = Literal[
    "gap", "probability", "distance", "label", "loss", "el2n", "entropy", "confidence"
]
Order = Literal["index", "value"]

MARGIN_KINDS: tuple[str, ...] = get_args(MarginKind)
SCORE_KINDS: tuple[str, ...] = get_args(ScoreKind)
LABELLED_KINDS = frozenset({"label", "loss", "el2n"})
# No score of a sample, but what the gradients of some are made of.
LOGSUMEXP = "logsumexp"

# The bit of a kind is its place in this tuple; csrc/common/kinds.h holds the same order.
KINDS = (*SCORE_KINDS, LOGSUMEXP)

BIT = {kind: 1 << place for place, kind in enumerate(KINDS)}


def mask_of(kinds: Iterable[str]) -> int:
    """The request mask of `kinds`: one bit each."""
    mask = 0
    for kind in kinds:
        mask |= BIT[kind]
    return mask


def kinds_of(mask: int) -> tuple[str, ...]:
    """The kinds in a request mask, in bit order: the order of the rows that `row_scores` returns."""
    return tuple(kind for kind in KINDS if mask & BIT[kind])


def row_of(kind: str, mask: int) -> int:
    """The row of a kind among those of a request mask: the number of kinds before it."""
    return (mask & (BIT[kind] - 1)).bit_count()


def check_kind(kind: object, known: Sequence[str]) -> str:
    """`kind` itself if it is one of `known`, else a ValueError that lists them."""
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"kind: got {kind!r}, want one of {', '.join(known)}")
    return kind


def check_kinds(kinds: object) -> int:
    """The request mask of a sequence of kinds of score, each at most once."""
    if isinstance(kinds, str) or not isinstance(kinds, Sequence):
        raise TypeError(f"kinds: got {kinds!r}, want a sequence of {', '.join(SCORE_KINDS)}")
    mask = 0
    for kind in kinds:
        mask |= BIT[check_kind(kind, SCORE_KINDS)]
    if mask.bit_count() != len(kinds):
        raise ValueError(f"kinds: got {list(kinds)!r}, want each kind at most once")
    return mask
