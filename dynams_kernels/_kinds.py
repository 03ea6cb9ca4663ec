"""The kinds of score a row of logits can be given, and the bit each one has in the kernels' request mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# The bit of a kind is its place in this tuple; csrc/common/kinds.h holds the same order.
KINDS = (
    "gap",
    "probability",
    "distance",
    "label",
    "loss",
    "el2n",
    "entropy",
    "confidence",
)
MARGIN_KINDS = KINDS[:4]
SCORE_KINDS = tuple(kind for kind in KINDS if kind != "distance")
LABELLED_KINDS = frozenset({"label", "loss", "el2n"})

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


def check_kind(kind: object, known: Sequence[str]) -> str:
    """`kind` itself if it is one of `known`, else a ValueError that lists them."""
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"kind: got {kind!r}, want one of {', '.join(known)}")
    return kind
