"""The console and the table that ends a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams.report.optional import needs
from dynams.report.records import Summary
from dynams.report.text import MISSING, costs, count, duration, percent, width_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def make_console(quiet: bool = False) -> Console:
    """A rich console on standard error, so that standard output stays free for results.

    ``quiet`` silences it. Raises ImportError without rich.
    """
    with needs("rich"):
        from rich.console import Console
    return Console(stderr=True, quiet=quiet, highlight=False)


def summary_table(summary: Summary) -> Table:
    """A run's end as a rich table: accuracies, samples, steps, and seconds by purpose.

    Shares are of the run's wall-clock time. Raises ImportError without rich.
    """
    with needs("rich"):
        from rich.table import Table
        from rich.text import Text

    state = "finished" if summary.completed else "interrupted"
    unit = "epoch" if summary.epochs == 1 else "epochs"
    table = Table(
        title=Text(f"Run {state} after {summary.epochs} {unit}"),
        title_justify="left",
        caption=Text(summary.run_dir) if summary.run_dir else None,
        caption_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column("what")
    table.add_column("value", justify="right", style="bold")
    table.add_column("share", justify="right")
    table.add_row("Test accuracy, full width", percent(summary.accuracy, 2))
    if summary.proxy_width is not None or summary.proxy_accuracy is not None:
        name = width_name(summary.proxy_width)
        table.add_row(f"Test accuracy, {name}", percent(summary.proxy_accuracy, 2))
    table.add_row("Samples trained on", count(summary.samples))
    table.add_row("Optimiser steps", count(summary.steps))
    table.add_row("Wall time", duration(summary.total_seconds), end_section=True)
    for cost in costs(summary.seconds, summary.total_seconds):
        share = percent(cost.share) if summary.total_seconds > 0 else MISSING
        table.add_row(
            Text("  " + cost.purpose, style="dim"), Text(duration(cost.seconds), "none"), share
        )
    return table
