"""The console and the table that ends a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams.packages import needs
from dynams.report.records import Summary
from dynams.report.text import (
    MISSING,
    costs,
    count,
    duration,
    encodable,
    filled,
    percent,
    plain,
    width_name,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WIDTH = 60


def make_console() -> Console:
    """A rich console on standard error, so that standard output stays free for results.

    Raises ImportError without rich.
    """
    with needs("rich"):
        from rich.console import Console
    return Console(stderr=True, highlight=False)


def summary_table(summary: Summary, encoding: str = "utf-8") -> Text:
    """A run's end as rich text: accuracies, samples, steps, and seconds by purpose, and its directory.

    All of it fits 60 columns but a longer directory, which stays in one piece, to be copied: print it
    with ``soft_wrap``. Shares are of the run's wall-clock time.

    Args:
        summary: the end of the run.
        encoding: of the console; what it cannot show is put in other words.

    Raises:
        ImportError: rich is missing.
    """
    with needs("rich"):
        from rich.text import Text

    rows = _rows(summary)
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    table = Text()

    def add(value: str, style: str = "") -> None:
        table.append(encodable(plain(value), encoding), style)

    add(f"{_title(summary)}\n", "italic")
    if summary.failure:
        add(f"{filled(summary.failure.split(), _WIDTH, ' ')}\n")
    for what, value, share in rows:
        add(f"{what:<{names}}  ", "dim" if share else "")
        add(f"{value:>{values}}", "" if share else "bold")
        add(f"  {share:>8}\n" if share else "\n")
    add(summary.run_dir, "dim italic")
    return table


def _title(summary: Summary) -> str:
    state = "finished" if summary.completed else "interrupted"
    if summary.failure:
        state = "failed"
    return f"Run {state} after {summary.epochs} {'epoch' if summary.epochs == 1 else 'epochs'}"


def _rows(summary: Summary) -> list[tuple[str, str, str]]:
    """What, its value, and its share of the wall time ("" where it has none)."""
    rows = []
    if summary.proxy_width is None and summary.proxy_accuracy is None:
        rows.append(("Test accuracy", percent(summary.accuracy, 2), ""))
    else:
        rows.append(("Test accuracy, full width", percent(summary.accuracy, 2), ""))
        name = width_name(summary.proxy_width)
        rows.append((f"Test accuracy, {name}", percent(summary.proxy_accuracy, 2), ""))
    rows.append(("Samples trained on", count(summary.samples), ""))
    rows.append(("Optimiser steps", count(summary.steps), ""))
    rows.append(("Wall time", duration(summary.total_seconds), ""))
    for cost in costs(summary.seconds, summary.total_seconds):
        share = percent(cost.share) if summary.total_seconds > 0 else MISSING
        rows.append((f"  {cost.purpose}", duration(cost.seconds), share))
    return rows
