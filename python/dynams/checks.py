"""Checks of values: each refuses one with its name, what came and what is wanted."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from numbers import Real


def one_of(name: str, value: object, known: Iterable[str]) -> None:
    """Refuse what is not known, naming the nearest that is."""
    known = tuple(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.6)
        meant = f" (did you mean {near[0]}?)" if near else ""
        wanted = f"one of {', '.join(known)}" if known else "none"
        raise ValueError(f"{name}: got {value!r}, want {wanted}{meant}")


def whole(name: str, value: object, least: int | None = None) -> int:
    """Return a whole number of any kind, NumPy's or torch's too, as an int of at least ``least``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, want a whole number") from None
    if least is not None:
        at_least(name, count, least)
    return count


def number(name: str, value: object, bounds: str) -> float:
    """Return a real number of any kind, NumPy's too, as a float in ``bounds``; see `interval`."""
    if isinstance(value, Real) and not isinstance(value, bool):
        value = float(value)
    interval(name, value, bounds)  # type: ignore[arg-type]
    assert isinstance(value, float)
    return value


def at_least(name: str, value: int | None, smallest: int) -> None:
    """Refuse what is neither None nor a whole number of at least ``smallest``."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {value!r}, want a whole number")
    if value < smallest:
        raise ValueError(f"{name}: got {value}, want at least {smallest}")


def positive(name: str, value: float) -> None:
    """Refuse what is no positive, finite number."""
    interval(name, value, "(0, inf)")


def fraction(name: str, value: float) -> None:
    """Refuse what is no number in (0, 1]."""
    interval(name, value, "(0, 1]")


def interval(name: str, value: float, bounds: str) -> None:
    """Refuse what is no number in ``bounds``, written as in "(0, 1]"; NaN lies in none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got {value!r}, want a number in {bounds}")
    low, high = (float(bound) for bound in bounds[1:-1].split(","))
    above = value >= low if bounds[0] == "[" else value > low
    below = value <= high if bounds[-1] == "]" else value < high
    if not (above and below and math.isfinite(value)):
        raise ValueError(f"{name}: got {value}, want a number in {bounds}")
