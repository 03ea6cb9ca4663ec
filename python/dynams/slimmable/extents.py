"""Sizes that remember where they come from, so that what is computed of them stays variable."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

Guarded = Callable[[str, int, int, bool], None]
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

    def __deepcopy__(self, memo: object) -> Extent:
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _computed(name: str, swapped: bool) -> Callable[[Extent, Any], Any]:
    function = getattr(operator, name)
    plain = getattr(int, f"__{'r' if swapped else ''}{name}__")

    def compute(self: Extent, other: Any) -> Any:
        value = plain(self, other)
        if value is NotImplemented or not isinstance(other, int) or isinstance(value, float):
            return value
        pair = (other, self) if swapped else (self, other)
        value = function(*map(int.__int__, pair))
        return Extent.of(value, Expression(name, tuple(map(_expressed, pair))), self.guard)

    return compute


def _compared(name: str) -> Callable[[Extent, Any], Any]:
    plain = getattr(int, f"__{name}__")

    def compare(self: Extent, other: Any) -> Any:
        outcome = plain(self, other)
        if isinstance(other, int) and isinstance(outcome, bool):
            self.guard(name, self, other, outcome)
        return outcome

    return compare


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Extent, f"__{_name}__", _computed(_name, False))
    setattr(Extent, f"__r{_name}__", _computed(_name, True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Extent, f"__{_name}__", _compared(_name))
setattr(Extent, "__hash__", int.__hash__)  # noqa: B010
setattr(Extent, "__divmod__", lambda self, other: (self // other, self % other))  # noqa: B010
setattr(Extent, "__neg__", lambda self: 0 - self)  # noqa: B010


def _expressed(value: Any) -> Any:
    return value.expression if isinstance(value, Extent) else value
