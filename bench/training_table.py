"""Writes a Markdown table of training runs, from the log.jsonl each of them left.

python bench/training_table.py RESULTS                      the table, to standard output
python bench/training_table.py RESULTS --into PAGE.md ...   between each page's cifar10:begin and cifar10:end marks

RESULTS holds one folder a run, named <recipe>-s<seed>; runs of one recipe become one row. Times are wall-clock, everything
counted: they compare only between runs of one machine that had nothing else to do.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from dynams.report import Run, read_run
from pages import insert

# Recipes in the order a reader compares them, and what they are.
RECIPES = {
    "full": "all data, 16 epochs",
    "full-10": "all data, 10 epochs",
    "random": "random 60 %, drawn anew every epoch",
    "static": "static margin 60 %, proxy trained in the warm-up",
    "margin": "DynaMS 60 %, proxy trained at every step",
    "margin-every4": "DynaMS 60 %, proxy trained at every 4th step",
}


def _spread(values: list[float], form: str) -> str:
    mean = statistics.mean(values)
    if len(values) == 1:
        return form.format(mean)
    return f"{form.format(mean)} ({form.format(min(values))} to {form.format(max(values))})"


def row(recipe: str, runs: list[Run]) -> str:
    """One recipe's row: means, and the range over seeds where there are several."""
    ends = [run.summary for run in runs]
    if any(end is None or not end.completed for end in ends):
        raise SystemExit(f"{recipe}: a run that is not complete")
    done = [end for end in ends if end is not None]
    overlaps = [r.overlap for run in runs for r in run.refreshes if r.overlap is not None]

    def seconds(*purposes: str) -> str:
        return (
            f"{statistics.mean(sum(end.seconds.get(p, 0) for p in purposes) for end in done):.1f}"
        )

    # Evaluation is for the reader of the log, not a cost of training: left out of the time, for all alike.
    cost = [end.total_seconds - end.seconds.get("evaluation", 0.0) for end in done]
    cells = [
        RECIPES[recipe],
        _spread([100 * end.accuracy for end in done], "{:.1f}"),
        _spread(cost, "{:.0f}"),
        f"{statistics.mean(end.samples for end in done) / 1000:.0f}",
        seconds("training"),
        seconds("proxy loss"),
        seconds("scoring", "selection"),
        f"{100 * statistics.mean(overlaps):.0f}"
        if overlaps and recipe.startswith("margin")
        else "",
    ]
    return "| " + " | ".join(cells) + " |"


def table(results: Path) -> str:
    """The table of all runs below `results`."""
    by_recipe: dict[str, list[Run]] = defaultdict(list)
    for log in sorted(results.glob("*/log.jsonl")):
        by_recipe[log.parent.name.rpartition("-s")[0]].append(read_run(log.parent))
    unknown = set(by_recipe) - set(RECIPES)
    if unknown or not by_recipe:
        raise SystemExit(
            f"{results}: recipes found {sorted(by_recipe)}, want some of {list(RECIPES)}"
        )
    seeds = {len(runs) for runs in by_recipe.values()}
    lines = [
        "| recipe | test accuracy % | seconds | thousand samples | training s | proxy loss s | scoring s | overlap % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(row(recipe, by_recipe[recipe]) for recipe in RECIPES if recipe in by_recipe),
        "",
        f"{' or '.join(map(str, sorted(seeds)))} seed(s) each: mean, and the range over seeds. Seconds are wall-clock without "
        "evaluation; overlap is between consecutive selections.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path, nargs="+", metavar="PAGE", default=[])
    options = parser.parse_args()
    text = table(options.results)
    for page in options.into:
        insert(page, "cifar10", text)
    if not options.into:
        print(text, end="")


if __name__ == "__main__":
    main()
