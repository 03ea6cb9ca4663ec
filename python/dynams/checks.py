"""Checks of values: each refuses one with its name, what came and what is wanted."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from dynams.suggestions import did_you_mean

# How a file or a command line calls what is of a type.
TYPE_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "keys with values",
}


def plain(value: Any) -> Any:
    """Return what a NumPy number, or an array or a tensor of one, holds, as Python has it; anything else as it is."""
    scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if scalar else value


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Refuse what is not known, naming the nearest that is."""
    known = tuple(known)
    if value not in known:
        listed = f"one of {', '.join(map(str, known))}" if known else "none"
        near = did_you_mean(value, known)
        raise ValueError(f"{name}: got {value!r}, want {listed}{near}")


def of_type(name: str, value: object, kind: type) -> None:
    """Refuse what is not of one of the types of `TYPE_WORDS`; a whole number is a number, too."""
    value = plain(value)
    kinds: tuple[type, ...] = {float: (float, int), dict: (Mapping,), tuple: (list, tuple)}.get(
        kind, (kind,)
    )
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name}: got {value!r}, want {TYPE_WORDS[kind]}")


def whole(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number of any kind, NumPy's or torch's too, as an int from ``least`` to ``most``."""
    value = plain(value)
    try:
        # An array or a tensor of one dimension is none, though it may hold one number.
        if isinstance(value, bool) or hasattr(value, "shape"):
            raise TypeError
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, want a whole number") from None
    if least is not None:
        at_least(name, count, least)
    if most is not None and count > most:
        raise ValueError(f"{name}: got {count}, want at most {most}")
    return count


def number(name: str, value: object, bounds: str) -> float:
    """Return a real number of any kind, NumPy's too, as a float in ``bounds``; see `interval`."""
    interval(name, value, bounds)  # type: ignore[arg-type]
    return float(value)  # type: ignore[arg-type]


def at_least(name: str, value: int | None, smallest: int) -> None:
    """Refuse what is neither None nor a whole number of at least ``smallest``."""
    if value is None:
        return
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
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
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {value!r}, want a number in {bounds}")
    low, high = (float(bound) for bound in bounds[1:-1].split(","))
    above = value >= low if bounds[0] == "[" else value > low
    below = value <= high if bounds[-1] == "]" else value < high
    if not (above and below and math.isfinite(value)):
        raise ValueError(f"{name}: got {value}, want a number in {bounds}")
