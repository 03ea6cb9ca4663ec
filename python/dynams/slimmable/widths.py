"""Widths: fractions of the channels that a slimmable network runs at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from dynams.checks import number, one_of, plain, whole

# Widths nearer to each other than this are the same.
_SAME = 1e-6


def slim_channels(channels: int, width: float) -> int:
    """Count the channels that a layer of `channels` keeps at `width`: max(1, floor(c w + 1/2)).

    Raises:
        ValueError: `channels` is not positive, or `width` is outside (0, 1].
    """
    channels = whole("channels", channels, 1)
    width = number("width", width, "(0, 1]")
    return max(1, math.floor(channels * width + 0.5))


def check_widths(widths: Sequence[float]) -> tuple[float, ...]:
    """Return `widths` as a tuple of floats.

    Raises:
        ValueError: `widths` is empty, not strictly ascending, outside (0, 1], or does not end in 1.
        TypeError: one is no number.
    """
    given = [plain(width) for width in widths]
    for width in given:
        if isinstance(width, bool) or not isinstance(width, (int, float)):
            raise TypeError(f"widths: got {width!r} among them, want fractions in (0, 1]")
    checked = tuple(map(float, given))
    ascending = all(low < high for low, high in pairwise(checked))
    if not checked or not ascending or not checked[0] > 0.0 or checked[-1] != 1.0:
        raise ValueError(
            f"widths: got {tuple(widths)}, want fractions in (0, 1], strictly ascending, the last 1.0"
        )
    return checked


def check_width(width: float, widths: Iterable[float]) -> float:
    """Return `width`, which must be one of `widths`.

    Raises:
        ValueError: it is not; the message lists those that are known.
    """
    known = tuple(widths)
    # A compiler asks no more of a float than that it is one.
    value = width if isinstance(width, (int, float)) else plain(width)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for each in known:
            if abs(each - value) < _SAME:  # NumPy's float32 of 0.6 is another number
                return each
    one_of("width", value, known)
    return width
