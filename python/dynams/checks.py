"""Checks of values: each refuses one with its name, what came and what is wanted."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

# How a file or a command line calls what is of a type.
TYPE_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "keys with values",
}


# Words of other programs, and what they are called here, or the last part of it: letters only.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "arch": ("modelname",),
    "batch": ("batchsize",),
    "bs": ("batchsize",),
    "checkpoint": ("resume",),
    "ckpt": ("resume",),
    "data": ("dataname", "datapath"),
    "dataset": ("dataname",),
    "datadir": ("datapath",),
    "dataroot": ("datapath",),
    "device": ("accelerator",),
    "gpu": ("cuda", "accelerator"),
    "gpus": ("devices",),
    "initiallr": ("lr",),
    "learningrate": ("lr",),
    "logdir": ("out", "dir"),
    "lrscheduler": (),
    "maxepochs": ("epochs",),
    "maxlr": ("lr",),
    "model": ("modelname",),
    "nepochs": ("epochs",),
    "numepochs": ("epochs",),
    "numworkers": ("workers",),
    "out": ("dir",),
    "outdir": ("out", "dir"),
    "output": ("out", "dir"),
    "outputdir": ("out", "dir"),
    "savedir": ("out", "dir"),
    "scheduler": (),
    "wd": ("weightdecay",),
}


def plain(value: Any) -> Any:
    """Return what a NumPy number, or an array or a tensor of one, holds, as Python has it; anything else as it is."""
    scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if scalar else value


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Make the end of a message about an unknown word, such as " (did you mean train?)"; it may be empty."""
    if not isinstance(word, str):
        return ""  # a number that is no other number is not mistyped
    near = _meant(word, dict.fromkeys(map(str, known)))
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _meant(word: str, known: Iterable[str]) -> list[str]:
    """What ``word`` may stand for, the surest kind only: other spelling, place, name, typing, or a part of it."""
    names = {name: _Name(name) for name in known}
    asked = _Name(word)

    def those(fits: Callable[[_Name], bool], most: int) -> list[str]:
        found = [name for name, parts in names.items() if fits(parts)]
        return found if len(found) <= most else []

    if near := those(lambda name: name.whole == asked.whole, 3):
        return near
    if asked.whole in _ELSEWHERE:
        return those(lambda name: not name.words.isdisjoint(_ELSEWHERE[asked.whole]), 3)
    # A word that is told with its section, and known in many others, is a word like `name`.
    if near := those(lambda name: name.last == asked.last, 2 if asked.section else 3):
        return near
    if asked.last in _ELSEWHERE:
        return those(lambda name: not name.words.isdisjoint(_ELSEWHERE[asked.last]), 3)
    if any(map(asked.begins, names.values())):
        return those(asked.begins, 2)
    slips = {name: slips for name, parts in names.items() if (slips := asked.slips(parts))}
    return [min(slips, key=lambda name: slips[name])] if slips else []


class _Name:
    """A name such as --optim.batch_size in letters and digits only: section, last part, and both as one."""

    def __init__(self, name: str) -> None:
        *section, last = (
            re.sub(r"[^a-z0-9]", "", part) for part in name.lower().strip("-").split(".")
        )
        self.section, self.last = "".join(section), last
        self.whole = self.section + last
        self.words = {self.whole, last}

    def slips(self, meant: _Name) -> tuple[int, int] | None:
        """How many slips of typing made it of the other, then how far a number is off; None: none did."""
        section = _slips(self.section, meant.section) if self.section else (0, 0)
        last = _slips(self.last, meant.last)
        return None if section is None or last is None else (section[0] + last[0], last[1])

    def begins(self, meant: _Name) -> bool:
        """Whether one is the beginning of the other, such as folder of fold and bench of benchmark."""
        if self.section and self.section != meant.section:
            return False
        rest = self.last[len(meant.last) :]
        longer = len(meant.last) > 3 and self.last.startswith(meant.last) and rest.isalpha()
        return longer or (len(self.last) > 2 and meant.last.startswith(self.last))


def _slips(word: str, meant: str) -> tuple[int, int] | None:
    """Count letters left out, added, changed or exchanged with the next; None: too many for the word's length."""
    digits, others = (re.findall(r"\d+", each) for each in (word, meant))
    if digits and others and digits != others:  # another number is meant, if one of as many digits
        stems = {re.sub(r"\d+", "#", each) for each in (word, meant)}
        if len(stems) > 1 or [*map(len, digits)] != [*map(len, others)]:
            return None
        pairs = list(zip("".join(digits), "".join(others), strict=True))
        apart = sum(abs(int(a) - int(b)) for a, b in zip(digits, others, strict=True))
        return sum(a != b for a, b in pairs), apart
    length = len(word)
    if length < 5 and word[:1] != meant[:1]:  # tpu is not cpu
        return None
    before: list[int] = []
    row = list(range(len(meant) + 1))
    for i, letter in enumerate(word, start=1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(meant, start=1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == meant[j - 2] and word[i - 2] == other:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    allowed = 0 if length < 3 else 1 if length < 6 else 2 if length < 10 else 3
    return (row[-1], 0) if row[-1] <= allowed else None


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
    value = plain(value)
    kinds: tuple[type, ...] = {float: (float, int), dict: (Mapping,)}.get(kind, (kind,))
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
