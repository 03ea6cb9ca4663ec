"""Writes Markdown tables of `dynams compare` folders: verdicts at equal time, or ablations at equal epochs.

python bench/comparison.py verdict FOLDER ... [--plan PLAN] [--tables time] [--into PAGE.md ... --mark NAME]
python bench/comparison.py ablation FOLDER ... [--plan PLAN] [--recipes margin q1 q5] [--into PAGE.md ... --mark NAME]

Several folders are parts of one plan, that of the first unless --plan names another; of one cell in several the first
counts. With --into the tables go between each page's NAME:begin and NAME:end marks (the kind, without --mark).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dynams.compare import Folder, Plan, Queue, load_plan, tables
from dynams.compare.groups import Group, group_cells, machines
from dynams.compare.page import markdown_rows
from dynams.compare.statistics import paired, spread
from dynams.compare.store import merge
from dynams.compare.tables import Table
from dynams.report.text import count
from marks import insert


def read(folders: Sequence[Path], plan_name: str | Path | None = None) -> tuple[Plan, list[Group]]:
    """The plan, the first folder's if none is named, and the cells of all folders by recipe and budget.

    They are merged in a folder of their own, by the queue that would train them: it refuses cells of other options
    or images, and the folders stay as they are. The plan of a folder is what was last run there, maybe a part of the
    whole; cells that it leaves out are told on standard error.

    Raises:
        ValueError: there is no plan, a folder has no cells, or cells do not belong together.
    """
    plan = load_plan(folders[0] if plan_name is None else plan_name)
    with tempfile.TemporaryDirectory() as empty:
        queue = Queue(plan, Folder(empty))
        queue.add(merge(queue.folder, folders))
    if queue.strangers:
        print(f"{queue.strangers} cells are not of the plan and left out", file=sys.stderr)
    return plan, group_cells(plan, queue.cells)


def verdict(plan: Plan, groups: Sequence[Group]) -> list[Table]:
    """Accuracy and cost of each recipe, seconds by purpose, and the differences at equal time.

    Seconds are of one environment, that with most cells, which a note names: others' do not compare with them.

    Raises:
        ValueError: no finished cell has comparable seconds.
    """
    machine = next(iter(machines(groups)), None)
    if machine is None:
        raise ValueError("no finished cells of one environment")
    where = json.loads(machine)
    processor = f"{where['device']}, {where['cpu']}, threads: {where['threads']}"
    note = f"Seconds on {processor}, torch {where['torch']}."
    time = tables.equal_time(plan, groups, machine, None)
    return [
        tables.results(groups, machine),
        tables.cost(groups, machine, None),
        Table(time.name, time.title, time.lede, time.head, time.rows, (*time.notes, note)),
    ]


def ablation(groups: Sequence[Group], budget: float | None, names: Sequence[str] = ()) -> Table:
    """Accuracy and samples of recipes at one budget, and the difference from the first of them, paired by seed.

    Recipes that depend on no budget are in it. Those of other epochs are left out and named, for their difference
    would be one of training length too.

    Args:
        groups: finished cells.
        budget: which; None: the recipes depend on none.
        names: of the recipes, the first first; none: all, as `groups` has them.

    Raises:
        ValueError: a recipe of `names`, or all of them, have no finished cells at the budget.
    """
    present = {g.recipe.name: g for g in groups if g.cells and g.budget in (None, budget)}
    chosen = list(names or present)
    if missing := [name for name in chosen if name not in present]:
        raise ValueError(f"recipes: no finished cells of {', '.join(missing)}")
    if not chosen:
        raise ValueError("no finished cells")
    first = present[chosen[0]]
    rows, others = [], []
    for group in map(present.__getitem__, chosen):
        if group.epochs != first.epochs:
            others.append(f"{group.recipe.title} ({group.epochs} epochs)")
            continue
        cells = group.cells.values()
        difference = tables.shown_difference(paired(group.accuracy, first.accuracy))
        rows.append(
            (
                group.recipe.title,
                str(len(cells)),
                tables.shown_accuracy(spread(group.accuracy.values())),
                count(spread(cell.samples for cell in cells).mean),
                count(spread(cell.samples_by_purpose.get("scoring", 0) for cell in cells).mean),
                *(("",) * len(difference) if group is first else difference),
            )
        )
    notes = [f"Left out, having other epochs: {', '.join(others)}."] if others else []
    if failed := sum(present[name].failed for name in chosen):
        notes.append(f"{failed} cells failed: their loss diverged. They are not in the means.")
    at = "" if budget is None else f", budget {budget:g}"
    return Table(
        "ablation",
        f"Against {first.recipe.title}{at}",
        f"Test accuracy after {first.epochs} epochs, mean and standard deviation over n seeds; difference in percentage "
        "points, paired by the seeds that both have, and what it says at 95 %.",
        ("Recipe", "n", "Accuracy", "Samples trained", "Samples scored", "Difference",
         "Standard error", "Pairs", "At 95 %"),
        rows,
        notes,
    )  # fmt: skip


def markdown(found: Sequence[Table]) -> str:
    """The tables, each below its title in bold: a page has headings of its own."""
    parts = []
    for table in found:
        if table.rows:
            heading = f"**{table.title}.** {table.lede}".rstrip()
            listing = "\n".join(markdown_rows(table))
            parts.append("\n\n".join([heading, listing, *table.notes]))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("verdict", "ablation"))
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--plan", help="preset, YAML file or folder (the first folder's)")
    parser.add_argument("--recipes", nargs="+", default=[], help="ablation: these, the first first")
    parser.add_argument("--tables", nargs="+", help="verdict: only these (results, cost, time)")
    parser.add_argument("--into", type=Path, nargs="+", metavar="PAGE", default=[])
    parser.add_argument("--mark", help="name of the page's begin and end marks (the kind)")
    options = parser.parse_args(arguments)
    try:
        plan, groups = read(options.folders, options.plan)
        if options.kind == "verdict":
            found = verdict(plan, groups)
            names = [table.name for table in found]
            if unknown := set(options.tables or ()) - set(names):
                raise ValueError(f"tables: wanted {', '.join(names)}, got {', '.join(unknown)}")
            found = [table for table in found if table.name in (options.tables or names)]
        else:
            budgets = sorted(plan.budgets) or [None]
            found = [ablation(groups, budget, options.recipes) for budget in budgets]
    except ValueError as error:
        parser.error(str(error))
    text = markdown(found)
    for page in options.into:
        insert(page, options.mark or options.kind, text)
    if not options.into:
        print(text, end="")


if __name__ == "__main__":
    main()
