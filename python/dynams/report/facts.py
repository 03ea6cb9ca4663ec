"""What the sections need to know of a run as a whole, worked out from its records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dynams.report.records import EpochRecord, Run
from dynams.report.text import total_of


def setting(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a nested configuration; None where there is none."""
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def failure_of(run: Run) -> str:
    """The error that ended the run, as its log tells it; "" if none did."""
    return "" if run.summary is None else run.summary.failure or ""


def is_given(run: Run, what: str) -> bool:
    """Whether the run's "model" or "data" were the user's own, and not those of the configuration."""
    return str(run.environment.get(what, "")).startswith("given")


def last_evaluation(run: Run) -> EpochRecord | None:
    """The last epoch whose test accuracy was measured."""
    return next((r for r in reversed(run.epochs) if r.accuracy is not None), None)


def cost_of(run: Run) -> tuple[dict[str, float], float, str]:
    """Seconds by purpose, seconds in total, and a remark on where they come from."""
    if run.summary is not None:
        parts = dict(run.summary.seconds)
        return parts, max(run.summary.total_seconds, total_of(parts)), ""
    parts = {}
    for record in run.epochs:
        for purpose, seconds in record.seconds.items():
            if math.isfinite(seconds):
                parts[purpose] = parts.get(purpose, 0.0) + seconds
    return parts, total_of(parts), "Sum of the finished epochs: the run did not record its end."


def described(
    name: str,
    values: Iterable[tuple[int, float | None]],
    show: Callable[[float | None], str],
) -> str:
    """A curve in words: where it starts and where it ends."""
    finite = [(epoch, v) for epoch, v in values if v is not None and math.isfinite(v)]
    if not finite:
        return f"{name}: no values."
    (first, start), (last, end) = finite[0], finite[-1]
    if first == last:
        return f"{name}: {show(start)} in epoch {first + 1}."
    return f"{name}: {show(start)} in epoch {first + 1}, {show(end)} in epoch {last + 1}."
