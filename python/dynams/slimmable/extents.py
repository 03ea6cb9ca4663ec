"""Sizes that remember where they come from, so that what is computed of them stays variable."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

Guarded = Callable[[str, int, float, bool], None]
"""Is told of a comparison: its name, what was compared, and what came of it."""


class Expression(NamedTuple):
    """How a size is computed.

    Attributes:
        name: "size", or of a function in `operator`.
        args: a tensor and the number of its axis; or numbers and expressions.
    """

    name: str
    args: tuple[Any, ...]


class Extent(int):
    """A size that remembers how it came about."""

    expression: Expression
    guard: Guarded

    @classmethod
    def of(cls, value: int, expression: Expression, guard: Guarded) -> Extent:
        """Make one of a value."""
        length = cls(value)
        length.expression, length.guard = expression, guard
        return length

    def escape(self) -> None:
        """Tell that it becomes an ordinary number, of which nothing is known any more."""
        value = int.__int__(self)
        self.guard("eq", self, value, True)

    def __bool__(self) -> bool:
        outcome = int.__bool__(self)
        self.guard("ne", self, 0, outcome)
        return outcome

    def __hash__(self) -> int:
        # einops keeps what it found for a shape, and would give the sizes of one forward to another. As for
        # other symbols it keeps nothing where there is no hash.
        if sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] == "einops":
            raise TypeError("unhashable type: 'Extent'")
        return int.__hash__(self)

    def __deepcopy__(self, memo: object) -> Extent:
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _computed(name: str, swapped: bool) -> Callable[[Extent, Any], Any]:
    function = getattr(operator, name)
    plain = getattr(int, f"__{'r' if swapped else ''}{name}__")

    def compute(self: Extent, other: Any) -> Any:
        if not isinstance(other, int):
            if isinstance(other, float):
                self.escape()
            return plain(self, other)
        pair = (other, self) if swapped else (self, other)
        value = function(*map(int.__int__, pair))
        return Extent.of(value, Expression(name, tuple(map(_expressed, pair))), self.guard)

    return compute


def _compared(name: str) -> Callable[[Extent, Any], Any]:
    plain = getattr(int, f"__{name}__")

    def compare(self: Extent, other: Any) -> Any:
        outcome = plain(self, other)
        if isinstance(other, (int, float)):
            # Of two extents both are told of once: the other one would be asked too.
            number = int.__int__(other) if isinstance(other, int) else other
            outcome = getattr(operator, name)(int.__int__(self), number)
            self.guard(name, self, other, outcome)
        return outcome

    return compare


def _escaping(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def become(self: Extent, *args: Any) -> Any:
        self.escape()
        return plain(self, *args)

    return become


def _same(self: Extent) -> Extent:
    return self


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Extent, f"__{_name}__", _computed(_name, False))
    setattr(Extent, f"__r{_name}__", _computed(_name, True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Extent, f"__{_name}__", _compared(_name))
# Where a float stands first, Python asks the float alone: nothing is told of that.
for _name in (
    *"__int__ __float__ __abs__ __invert__ __round__ bit_length".split(),
    *(
        f"__{swapped}{name}__"
        for name in ("truediv", "pow", "lshift", "rshift", "and", "or", "xor")
        for swapped in ("", "r")
    ),
):
    setattr(Extent, _name, _escaping(_name))
for _name in ("__pos__", "__trunc__", "__floor__", "__ceil__"):
    setattr(Extent, _name, _same)
setattr(Extent, "__divmod__", lambda self, other: (self // other, self % other))  # noqa: B010
setattr(Extent, "__neg__", lambda self: 0 - self)  # noqa: B010


def _expressed(value: Any) -> Any:
    return value.expression if isinstance(value, Extent) else value
