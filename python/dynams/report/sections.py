"""The sections on a run as a whole: headline, cost, curves, configuration.

Each function takes a run and gives one section's HTML, or "" when there is nothing to show. What is
missing from a run (no proxy, no end, losses that are not finite) is said in words where a reader
would look for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dynams.report import figures, markup
from dynams.report.facts import cost_of, described, is_given, last_evaluation, setting
from dynams.report.markup import Key, text, tone
from dynams.report.records import Run
from dynams.report.selecting import Selecting
from dynams.report.style import purpose_colour
from dynams.report.text import (
    MISSING,
    CostShare,
    costs,
    count,
    duration,
    number,
    percent,
    short_count,
    total_of,
    width_name,
)


def headline(run: Run, size: int | None) -> str:
    """The four numbers that matter, as tiles.

    Args:
        run: the run.
        size: samples in the training set; None: not known.
    """
    summary, last = run.summary, last_evaluation(run)
    accuracy = summary.accuracy if summary else last.accuracy if last else None
    proxy = summary.proxy_accuracy if summary else last.proxy_accuracy if last else None
    width = summary.proxy_width if summary else setting(run.config, "proxy.width")
    when = f"after epoch {last.epoch + 1}" if last else "never evaluated"
    name = "Test accuracy" if proxy is None else "Test accuracy, full width"
    tiles = [_tile(name, percent(accuracy, 2), when, "full")]
    if proxy is not None:
        name = width_name(width if isinstance(width, (int, float)) else None)
        tiles.append(
            _tile(f"Test accuracy, {name}", percent(proxy, 2), "the proxy on its own", "proxy")
        )
    tiles.append(_work_tile(run, size))
    seconds, total, _ = cost_of(run)
    training = seconds.get("training", 0.0)
    share = f"{percent(training / total)} of it training" if total > 0 else ""
    known = summary is not None or bool(run.epochs)
    tiles.append(_tile("Wall time", duration(total if known else None), share, "scoring"))
    left = "" if run.epochs else markup.note("No epoch was finished.")
    return '<dl class="tiles">\n' + "\n".join(tiles) + f"\n</dl>\n{left}"


def _work_tile(run: Run, size: int | None) -> str:
    """Samples trained on, beside those of as many epochs of full data."""
    finished = sum(record.samples for record in run.epochs)
    samples, steps = finished, sum(record.steps for record in run.epochs)
    if run.summary is not None:
        samples, steps = run.summary.samples, run.summary.steps
    elif not run.epochs:
        return _tile("Samples trained on", MISSING, "not recorded", "selection")
    aside = f"in {count(steps)} {'step' if steps == 1 else 'steps'}"
    if size and run.epochs:
        whole = size * len(run.epochs)
        of = "" if finished == samples else "finished epochs: "
        aside = f"{of}{percent(finished / whole)} of the {short_count(whole)} of full data; {aside}"
    return _tile("Samples trained on", short_count(samples), aside, "selection")


def cost(run: Run, how: Selecting) -> str:
    """Where the time went: a stacked bar, a table, and the same by epoch."""
    seconds, total, remark = cost_of(run)
    rows = costs(seconds, total)
    whole = sum(row.seconds for row in rows)
    if whole <= 0:
        return ""
    colours = [purpose_colour(row.purpose, index) for index, row in enumerate(rows)]
    spoken = ", ".join(f"{row.purpose} {percent(row.share)}" for row in rows)
    bar = "".join(
        _bar_part(row, colour) for row, colour in zip(rows, colours, strict=True) if row.share > 0
    )
    label = text("Cost by purpose: " + spoken)
    stack = f'<div class="stack" role="img" aria-label="{label}">{bar}</div>'
    listing = markup.table(
        ("Purpose", "Seconds", "Share"),
        [(row.purpose, f"{row.seconds:,.2f}", percent(row.share)) for row in rows],
        caption="Wall-clock seconds by purpose",
        tones=colours,
        total=("Wall time", f"{whole:,.2f}", percent(1.0)),
    )
    by_epoch = markup.figure(
        figures.seconds_by_epoch(
            run.epochs,
            {row.purpose: colour for row, colour in zip(rows, colours, strict=True)},
            description="Seconds of each epoch, stacked by purpose.",
        ),
        "Seconds of each epoch",
        remark="Colours as in the table." + _scoring_remark(run, how),
    )
    return markup.section(
        "cost",
        "Where the time went",
        "Wall-clock time by purpose: everything counts, not training alone.",
        stack,
        f'<div class="side">\n<div>{listing}{markup.note(remark)}</div>\n{by_epoch}\n</div>',
    )


def _scoring_remark(run: Run, how: Selecting) -> str:
    """Where the scoring passes are among the seconds, if there were any."""
    begins = {record.epoch for record in run.refreshes}
    scored = any(r.seconds.get("scoring", 0.0) > 0 for r in run.epochs if r.epoch in begins)
    return (
        " Epochs that begin with a selection include its scoring." if how.passes and scored else ""
    )


def curves(run: Run, how: Selecting, size: int | None) -> str:
    """Loss, accuracy, budget and learning rate over the epochs; of one epoch, its numbers."""
    epochs = run.epochs
    if len(epochs) < 2:
        return markup.section("curves", "How training went", "", _epoch_table(run, how))
    at = [record.epoch for record in epochs]
    full, proxy = Key("full", "full width"), Key("proxy", "proxy")
    has_proxy_loss = any(record.proxy_loss is not None for record in epochs)
    has_proxy = any(record.proxy_accuracy is not None for record in epochs)
    broken = [record.epoch for record in epochs if not math.isfinite(record.loss)]
    loss = figures.lines(
        "loss",
        at,
        [
            ("full", [record.loss for record in epochs]),
            ("proxy", [record.proxy_loss for record in epochs]),
        ],
        wide=True,
        description=described("Training loss", [(r.epoch, r.loss) for r in epochs], number),
    )
    accuracy = figures.lines(
        "accuracy",
        at,
        [
            ("full", [record.accuracy for record in epochs]),
            ("proxy", [record.proxy_accuracy for record in epochs]),
        ],
        percent=True,
        description=described("Test accuracy", [(r.epoch, r.accuracy) for r in epochs], percent),
    )
    rate = figures.lines(
        "rate",
        at,
        [("full", [record.lr for record in epochs])],
        description=described("Learning rate", [(r.epoch, r.lr) for r in epochs], number),
    )
    unseen = f"No finite loss in {_epoch_ranges(broken)}." if broken else ""
    body = markup.figures(
        markup.figure(loss, "Training loss", [full, proxy] if has_proxy_loss else [], unseen),
        markup.figure(accuracy, "Test accuracy", [full, proxy] if has_proxy else []),
        _budget_figure(run, how, size),
        markup.figure(rate, "Learning rate", [Key("full", "at the end of the epoch")]),
    )
    lost = markup.note(unseen) if loss is None else ""
    return markup.section("curves", "How training went", "", body, lost, _epoch_table(run, how))


def _budget_figure(run: Run, how: Selecting, size: int | None) -> str:
    """The budget beside the samples used; where there is no budget, the samples alone."""
    epochs = run.epochs
    used = Key("full", "samples used, right axis", "faint")
    if how.budgeted:
        words = described("Budget", [(r.epoch, r.budget) for r in epochs], percent)
        title, keys = "Budget and samples used", [Key("full", "budget"), *([used] if size else [])]
    elif size:
        words = described("Samples used", [(r.epoch, r.samples / size) for r in epochs], percent)
        title, keys = "Samples used", [used]
    else:
        return ""
    drawing = figures.budget(epochs, size, asked=how.budgeted, description=words)
    return markup.figure(drawing, title, keys)


def settings(run: Run) -> str:
    """The configuration and the environment, complete."""
    general = {k: v for k, v in run.config.items() if not isinstance(v, Mapping)}
    groups = {"general": markup.dotted(general)} if general else {}
    for key, value in run.config.items():
        if isinstance(value, Mapping) and value:
            groups[key] = markup.dotted(value)
    if run.environment:
        groups["environment"] = markup.dotted(run.environment)
    return markup.section(
        "settings",
        "Configuration and environment",
        "",
        *map(markup.note, _unused(run)),
        markup.settings(groups),
    )


def _unused(run: Run) -> list[str]:
    """What of the configuration was not used, because something of the user's own was."""
    words = []
    if is_given(run, "model"):
        words.append("The network was given: model.* was not used.")
    if is_given(run, "data"):
        words.append("The data were given: data.name and data.path were not used.")
    return words


def _tile(name: str, value: str, aside: str, colour: str) -> str:
    figure, _, unit = value.partition("\N{NO-BREAK SPACE}")
    simple = unit and "\N{NO-BREAK SPACE}" not in unit and " " not in unit
    shown = f"{text(figure)}<small> {text(unit)}</small>" if simple else text(value)
    return (
        f'<div class="tile"{tone(colour)}><dt>{text(name)}</dt>'
        f'<dd class="value">{shown}</dd><dd class="aside">{text(aside)}</dd></div>'
    )


def _bar_part(row: CostShare, colour: str) -> str:
    """One part of the stacked bar; the style sheet hides a name that has no room."""
    tip = text(f"{row.purpose}: {duration(row.seconds)}, {percent(row.share)}")
    style = f"--tone: var(--{colour}); flex: {row.share:.5f} 0 0"
    return f'<span style="{style}" title="{tip}"><b>{text(row.purpose)}</b></span>'


def _epoch_table(run: Run, how: Selecting) -> str:
    """The epochs as numbers, without the columns that this run has none for."""
    if not run.epochs:
        return ""
    epochs = run.epochs
    columns = {
        "Loss": [number(r.loss) for r in epochs],
        "Proxy loss": [number(r.proxy_loss) for r in epochs],
        "Accuracy": [percent(r.accuracy, 2) for r in epochs],
        "Proxy accuracy": [percent(r.proxy_accuracy, 2) for r in epochs],
        "Budget": [percent(r.budget) for r in epochs] if how.budgeted else [],
        "Samples": [count(r.samples) for r in epochs],
        "Steps": [count(r.steps) for r in epochs],
        "Learning rate": [number(r.lr, 3) for r in epochs],
        "Seconds": [f"{total_of(r.seconds):,.2f}" for r in epochs],
    }
    shown = {name: cells for name, cells in columns.items() if any(c != MISSING for c in cells)}
    at = [str(record.epoch + 1) for record in epochs]
    rows = list(zip(at, *shown.values(), strict=True))
    listing = markup.table(("Epoch", *shown), rows, caption="Epochs")
    if len(rows) == 1:
        return listing
    return f"<details>\n<summary>All {len(rows)} epochs as numbers</summary>\n{listing}\n</details>"


def _epoch_ranges(epochs: Sequence[int]) -> str:
    """Epochs, from 0 and ascending, as people write them: "epochs 3, 5 to 8"."""
    ranges: list[list[int]] = []
    for epoch in epochs:
        if ranges and epoch == ranges[-1][1] + 1:
            ranges[-1][1] = epoch
        else:
            ranges.append([epoch, epoch])
    parts = [f"{a + 1}" if a == b else f"{a + 1} to {b + 1}" for a, b in ranges]
    return ("epoch " if len(epochs) == 1 else "epochs ") + ", ".join(parts)
