"""Widths: fractions of the channels that a slimmable network runs at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from dynams.checks import number, one_of, whole


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
    """
    checked = tuple(float(width) for width in widths)
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
    one_of("width", width, widths)
    return width
