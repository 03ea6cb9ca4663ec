"""Checks of values: each refuses one with its name, what came and what is wanted."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real

# How a file or a command line calls what is of a type.
TYPE_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "keys with values",
}


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Make the end of a message about an unknown word, such as " (did you mean train?)"; it may be empty."""
    if not isinstance(word, str):
        return ""  # a number that is no other number is not mistyped
    near = difflib.get_close_matches(word, [str(each) for each in known], n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def unknown(kind: str, word: object, known: Iterable[object]) -> str:
    """Tell of an unknown word where those that are known are too many to list."""
    return f"unknown {kind} {word}{did_you_mean(word, known)}"


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Refuse what is not known, naming the nearest that is."""
    known = tuple(known)
    if value not in known:
        listed = f"one of {', '.join(map(str, known))}" if known else "none"
        near = did_you_mean(value, known)
        raise ValueError(f"{name}: got {value!r}, want {listed}{near}")


def of_type(name: str, value: object, kind: type) -> None:
    """Refuse what is not of one of the types of `TYPE_WORDS`; a whole number is a number, too."""
    kinds: tuple[type, ...] = {float: (float, int), dict: (Mapping,)}.get(kind, (kind,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name}: got {value!r}, want {TYPE_WORDS[kind]}")


def whole(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number of any kind, NumPy's or torch's too, as an int from ``least`` to ``most``."""
    try:
        if isinstance(value, bool):
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
