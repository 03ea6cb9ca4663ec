"""Budget schedules: which fraction of the samples to keep, as training goes on.

A schedule is a pure function of the progress p in [0, 1] through the scheduled epochs. All of these
are one curve, budget(p) = start + (end - start) s(p), with a shape s that rises from s(0) = 0 to
s(1) = 1: p for linear, (1 - cos(pi p)) / 2 for cosine, p^exponent for power.

That budgets follow a power schedule and that the default budget is 0.6 is the DynaMS authors'; their
formula is not published. Writing power as p^exponent between two budgets is ours, and so are the
linear and cosine schedules and every default for `start` and `exponent`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from dynams.checks import interval, number, one_of

Kind = Literal["constant", "linear", "cosine", "power"]
SCHEDULE_KINDS: tuple[str, ...] = get_args(Kind)


@runtime_checkable
class Schedule(Protocol):
    """Anything that gives a budget in (0, 1] for a progress in [0, 1]."""

    def __call__(self, progress: float, /) -> float:
        """Return the budget at `progress`."""
        ...


@dataclass(frozen=True, repr=False)
class BudgetCurve:
    """A monotone budget from `start` to `end`; made by the functions below, and shown as their call.

    Attributes:
        kind: the shape of the curve.
        start: budget at progress 0, exactly.
        end: budget at progress 1, exactly.
        exponent: of "power".

    Raises:
        ValueError: an unknown kind, a budget outside (0, 1], a constant with two budgets, or an
            exponent that is not positive and finite.
    """

    kind: Kind
    start: float
    end: float
    exponent: float = 1.0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, SCHEDULE_KINDS)
        for name, bounds in (("start", "(0, 1]"), ("end", "(0, 1]"), ("exponent", "(0, inf)")):
            object.__setattr__(self, name, number(name, getattr(self, name), bounds))
        if self.kind == "constant" and self.start != self.end:
            raise ValueError(
                f"start: got {self.start!r}, want {self.end!r}: a constant has one budget"
            )

    def __call__(self, progress: float, /) -> float:
        """Return the budget at `progress`.

        Raises:
            ValueError: `progress` is outside [0, 1].
        """
        interval("progress", progress, "[0, 1]")
        if progress == 1.0:
            return self.end
        budget = self.start + (self.end - self.start) * self._shape(progress)
        # A shape that rounds to 1 may step past the end by one unit in the last place.
        return min(max(budget, min(self.start, self.end)), max(self.start, self.end))

    def __repr__(self) -> str:
        if self.kind == "constant":
            return f"constant({self.end})"
        exponent = f", exponent={self.exponent}" if self.kind == "power" else ""
        return f"{self.kind}(start={self.start}, end={self.end}{exponent})"

    def _shape(self, progress: float) -> float:
        if self.kind == "cosine":
            return (1.0 - math.cos(math.pi * progress)) / 2.0
        if self.kind == "power":
            return float(progress**self.exponent)
        return progress


def constant(budget: float) -> BudgetCurve:
    """Keep `budget` throughout.

    Raises:
        ValueError: `budget` is outside (0, 1].
    """
    budget = number("budget", budget, "(0, 1]")
    return BudgetCurve("constant", budget, budget)


def linear(start: float, end: float) -> BudgetCurve:
    """Move from `start` to `end` at an even pace: start + (end - start) p.

    Raises:
        ValueError: a budget is outside (0, 1].
    """
    return BudgetCurve("linear", start, end)


def cosine(start: float, end: float) -> BudgetCurve:
    """Move from `start` to `end`, slowly at both ends: start + (end - start) (1 - cos(pi p)) / 2.

    Raises:
        ValueError: a budget is outside (0, 1].
    """
    return BudgetCurve("cosine", start, end)


def power(start: float, end: float, exponent: float) -> BudgetCurve:
    """Move from `start` to `end` as a power of the progress: start + (end - start) p^exponent.

    An exponent above 1 stays near `start` for long, one below 1 nears `end` early; 1 is linear.

    Raises:
        ValueError: a budget is outside (0, 1], or `exponent` is not positive and finite.
    """
    return BudgetCurve("power", start, end, exponent)


def build_schedule(
    kind: str, budget: float, *, start: float = 1.0, exponent: float = 1.0
) -> BudgetCurve:
    """Build a schedule from a configuration.

    Args:
        kind: one of `SCHEDULE_KINDS`.
        budget: the budget at the end (throughout, for "constant").
        start: the budget at the beginning; "constant" has no use for it.
        exponent: for "power" only.

    Raises:
        ValueError: an unknown `kind` (the message lists the known ones) or a value out of range.
    """
    makers: dict[str, Callable[[], BudgetCurve]] = {
        "constant": lambda: constant(budget),
        "linear": lambda: linear(start, budget),
        "cosine": lambda: cosine(start, budget),
        "power": lambda: power(start, budget, exponent),
    }
    one_of("kind", kind, makers)
    budget = number("budget", budget, "(0, 1]")
    return makers[kind]()
