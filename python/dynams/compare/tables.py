"""The comparison's tables, as plain text that the page and the Markdown file both show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynams.compare.groups import Group, machines, reached_in
from dynams.compare.plan import Plan
from dynams.compare.results import Cell, Refreshed
from dynams.compare.statistics import Difference, Spread, paired, spread
from dynams.report.text import MISSING, costs, count, percent

_MINUS = "\N{MINUS SIGN}"
_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass(frozen=True)
class Table:
    """A table: the first column names the row.

    Attributes:
        name: anchor on the page.
        title: heading.
        lede: what it shows, and how it is to be read.
        head: names of the columns.
        rows: their cells.
        notes: remarks below it.
    """

    name: str
    title: str
    lede: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def results(groups: Sequence[Group], machine: str | None) -> Table:
    """Accuracy, samples and seconds of every recipe."""
    whole = _reference_seconds(groups, machine)
    rows = []
    for group in groups:
        cells = group.cells.values()
        seconds = group.on(machine).seconds() if machine else spread([])
        share = seconds.mean / whole if whole else math.nan
        rows.append(
            (
                group.title,
                _of(group),
                str(group.epochs or MISSING),
                shown_accuracy(spread(group.accuracy.values())),
                percent(spread(cell.best for cell in cells).mean),
                count(spread(cell.samples for cell in cells).mean),
                _seconds(seconds),
                f"{share:.2f}" if math.isfinite(share) else MISSING,
            )
        )
    failed = sum(group.failed for group in groups)
    notes = []
    if failed:
        notes.append(
            "1 cell failed: its loss diverged. It is not in the means."
            if failed == 1
            else f"{failed} cells failed: their loss diverged. They are not in the means."
        )
    if len(machines(groups)) > 1:
        notes.append("Seconds are those of environment 1.")
    return Table(
        "results",
        "Results",
        f"Test accuracy at the end of training: mean {_PLUS_MINUS} standard deviation over n seeds. "
        "Seconds are wall-clock of all purposes but evaluation.",
        ("Recipe", "n", "Epochs", "Accuracy", "Best on the way", "Samples", "Seconds",
         "Of the reference"),
        rows,
        notes,
    )  # fmt: skip


def equal_epochs(plan: Plan, groups: Sequence[Group]) -> Table:
    """Differences from the reference, of recipes with as many epochs."""
    reference = groups[0]
    rows = []
    for group in groups[1:]:
        if group.is_reference or not group.cells or group.epochs != reference.epochs:
            continue
        difference = paired(group.accuracy, reference.accuracy)
        rows.append((group.title, *shown_difference(difference)))
    title = plan.recipes[plan.reference].title
    return Table(
        "epochs",
        "At equal epochs",
        f"Accuracy minus that of {title} after as many epochs, in percentage points, paired by seed.",
        ("Recipe", "Difference", "Standard error", "n", "At 95 %"),
        rows,
    )


def equal_time(plan: Plan, groups: Sequence[Group], machine: str, number: int | None) -> Table:
    """Differences from what the reference reaches in the same wall-clock time."""
    here = [group.on(machine) for group in groups]
    references = [group for group in here if group.is_reference]
    rows = []
    for group in here:
        if group.is_reference or not group.cells:
            continue
        seconds = group.seconds()
        reached = reached_in(seconds.mean, references)
        if reached is None:
            how = "every run takes longer"
            unknown = [MISSING] * 4
            rows.append(
                (group.title, _seconds(seconds), percent(_mean(group.accuracy)), MISSING, *unknown,
                 how)
            )  # fmt: skip
            continue
        difference = paired(group.accuracy, reached.accuracy)
        rows.append(
            (
                group.title,
                _seconds(seconds),
                percent(_mean(group.accuracy)),
                percent(_mean(reached.accuracy)),
                *shown_difference(difference),
                reached.kind,
            )
        )
    title = plan.recipes[plan.reference].title
    return Table(
        _numbered("time", number),
        f"At equal wall-clock time{in_environment(number)}",
        f"Accuracy minus what {title} reaches in the same seconds, trained with a schedule of that "
        "length: only whole runs count, and what is interpolated between two of them says so.",
        ("Recipe", "Seconds", "Accuracy", "Reference", "Difference", "Standard error", "n", "At 95 %",
         "Reference from"),
        rows,
    )  # fmt: skip


def verdict(plan: Plan, groups: Sequence[Group], machine: str) -> list[str]:
    """Say in words what the table at equal time shows, a sentence a recipe."""
    here = [group.on(machine) for group in groups]
    references = [group for group in here if group.is_reference]
    title = plan.recipes[plan.reference].title
    sentences = []
    for group in here:
        reached = reached_in(group.seconds().mean, references) if group.cells else None
        if group.is_reference or reached is None:
            continue
        difference = paired(group.accuracy, reached.accuracy)
        if difference.n == 0:
            continue
        found: str = difference.verdict
        if found in ("higher", "lower"):
            found += " than"
        elif found == "one seed":
            found = "one seed cannot be told apart from"
        else:
            found += " from"
        error = "" if difference.error is None else f", standard error {100 * difference.error:.2f}"
        sentences.append(
            f"{group.title}: {found} {title} in the same time ({_points(difference.mean)} points"
            f"{error}, n = {difference.n}; {title}: {reached.kind}, {reached.runs})."
        )
    return sentences


def pairs(groups: Sequence[Group], budget: float | None) -> Table:
    """Differences between all recipes at one budget, with those that depend on none."""
    present = [g for g in groups if g.cells and (g.budget == budget or g.budget is None)]
    rows = []
    for row in present:
        line = [row.title]
        for column in present:
            if row is column:
                line.append(MISSING)
                continue
            difference = paired(row.accuracy, column.accuracy)
            mark = "*" if difference.verdict in ("higher", "lower") else ""
            line.append(_points(difference.mean) + mark)
        rows.append(line)
    if len(present) < 2:
        rows = []
    name = "" if budget is None else f"-{budget:g}".replace(".", "-")
    title = "Every pair" if budget is None else f"Every pair at budget {budget:g}"
    return Table(
        f"pairs{name}",
        title,
        "Accuracy of the row minus accuracy of the column at the end of training, in percentage "
        "points, paired by seed. A star: distinguishable at 95 %, not corrected for the number of "
        "comparisons.",
        ("Recipe", *(group.recipe.name for group in present)),
        rows,
    )


def cost(groups: Sequence[Group], machine: str, number: int | None) -> Table:
    """Mean seconds by purpose."""
    here = [group.on(machine) for group in groups]
    here = [group for group in here if group.cells]
    parts = []
    for group in here:
        cells = list(group.cells.values())
        purposes = dict.fromkeys(name for cell in cells for name in cell.seconds)
        mean = {
            name: spread(cell.seconds.get(name, 0.0) for cell in cells).mean for name in purposes
        }
        total = spread(cell.total_seconds for cell in cells).mean
        parts.append({row.purpose: row.seconds for row in costs(mean, total)})
    names = list(dict.fromkeys(name for part in parts for name in part if name != "other"))
    rows = [
        (group.title, *(_seconds(spread([part.get(name, 0.0)])) for name in [*names, "other"]))
        for group, part in zip(here, parts, strict=True)
    ]
    pieces = sum(cell.pieces > 1 for group in here for cell in group.cells.values())
    notes = [
        "Other: what no purpose accounts for, such as building the network, logs and checkpoints. "
        "It and evaluation are left out of the seconds that are compared."
    ]
    if pieces:
        notes.append(
            f"{_cells(pieces)} ran in several pieces; what a process needs to warm up counts each time."
        )
    return Table(
        _numbered("cost", number),
        f"Seconds by purpose{in_environment(number)}",
        "Mean wall-clock seconds over seeds.",
        ("Recipe", *names, "other"),
        rows,
        notes,
    )


def handled(groups: Sequence[Group]) -> Table:
    """Mean samples by purpose."""
    present = [group for group in groups if group.cells]
    cells = [cell for group in present for cell in group.cells.values()]
    names = [
        name
        for name in dict.fromkeys(name for cell in cells for name in cell.samples_by_purpose)
        if any(cell.samples_by_purpose.get(name) for cell in cells)
    ]
    rows = [
        (
            group.title,
            *(
                count(spread(c.samples_by_purpose.get(name, 0) for c in group.cells.values()).mean)
                for name in names
            ),
        )
        for group in present
    ]
    return Table(
        "samples",
        "Samples by purpose",
        "Mean number of samples handled, over seeds.",
        ("Recipe", *names),
        rows if names else [],
    )


def overlaps(groups: Sequence[Group]) -> Table:
    """How much of a selection the one before it held too."""
    rows = []
    for group in groups:
        runs = [
            [each.overlap for each in _selections(cell) if each.overlap is not None]
            for cell in group.cells.values()
        ]
        runs = [run for run in runs if run]
        if runs:
            mean = spread(value for run in runs for value in run)
            rows.append(
                (
                    group.title,
                    percent(spread(run[0] for run in runs).mean),
                    percent(mean.mean),
                    percent(spread(run[-1] for run in runs).mean),
                    str(round(spread(float(len(run)) for run in runs).mean)),
                )
            )
    return Table(
        "overlap",
        "Overlap of selections",
        "Share of a selection that the one before it held too, mean over seeds.",
        ("Recipe", "First", "Mean", "Last", "Pairs of selections"),
        rows,
    )


def environments(where: Mapping[str, int], moved: int) -> Table:
    """What the cells ran on."""
    known = [json.loads(machine) for machine in where]
    rows = [("cells", *map(str, where.values()))]
    for key in known[0] if known else ():
        values = [what.get(key) for what in known]
        if not all(value is None or isinstance(value, dict) for value in values):
            rows.append((key, *(MISSING if value is None else str(value) for value in values)))
    numbers = map(str, range(1, len(known) + 1))
    notes = []
    if len(where) > 1:
        notes.append(
            "Cells ran in different environments. Accuracies are put together; seconds are compared "
            "within one environment only."
        )
    if moved:
        notes.append(
            f"{_cells(moved)} moved to another environment while unfinished; seconds of such cells are "
            "compared with nothing."
        )
    return Table("environments", "Environments", "", ("", *numbers), rows if known else [], notes)


def shown_accuracy(value: Spread) -> str:
    """Return a mean of accuracies in per cent, with its standard deviation where there is one."""
    shown = percent(value.mean, 2)
    if value.deviation is None:
        return shown
    return f"{100 * value.mean:.2f} {_PLUS_MINUS} {100 * value.deviation:.2f}\N{NO-BREAK SPACE}%"


def shown_difference(value: Difference) -> tuple[str, str, str, str]:
    """Return a difference in percentage points, its standard error, n, and the verdict at 95 %."""
    error = MISSING if value.error is None else f"{100 * value.error:.2f}"
    return _points(value.mean), error, str(value.n), value.verdict


def _reference_seconds(groups: Sequence[Group], machine: str | None) -> float | None:
    if machine is None or not groups:
        return None
    seconds = groups[0].on(machine).seconds().mean
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _numbered(name: str, number: int | None) -> str:
    """Anchor of a table that each environment has; that of the first has no number."""
    return name if number in (None, 1) else f"{name}-{number}"


def in_environment(number: int | None) -> str:
    """What a title adds where there are several environments."""
    return "" if number is None else f", environment {number}"


def _selections(cell: Cell) -> list[Refreshed]:
    """The cell's selections, without the change to all samples that begins a tail."""
    epochs, tail = cell.options.get("optim.epochs"), cell.options.get("selection.tail")
    if not isinstance(epochs, int) or not isinstance(tail, float) or not tail:
        return list(cell.refreshes)
    begins = epochs - int(tail * epochs + 0.5)
    return [each for each in cell.refreshes if each.epoch < begins]


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _of(group: Group) -> str:
    done = len(group.cells)
    return str(done) if done == group.planned else f"{done} of {group.planned}"


def _mean(values: Mapping[int, float]) -> float:
    return spread(values.values()).mean


def _seconds(value: Spread) -> str:
    if not math.isfinite(value.mean):
        return MISSING
    places = 2 if value.mean < 9.995 else 1 if value.mean < 999.95 else 0
    shown = f"{value.mean:,.{places}f}"
    if value.deviation is None:
        return shown
    return f"{shown} {_PLUS_MINUS} {value.deviation:,.{places}f}"


def _points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    if not math.isfinite(value):
        return MISSING
    shown = f"{100 * abs(value):.2f}"
    if float(shown) == 0:
        return shown
    return ("+" if value > 0 else _MINUS) + shown
