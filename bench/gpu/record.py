"""Tells the ledger what the cells of a comparison came to: accuracy and seconds of every recipe, and differences from the reference.

python bench/gpu/record.py FOLDER    the folder of `dynams compare`; suite $DYNAMS_GPU_SUITE of $DYNAMS_GPU_LEDGER

A mean is over the seeds that are finished, seconds over those of one environment, that with most cells; a difference is paired by seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dynams.compare import Folder, Queue, load_plan
from dynams.compare.groups import Group, group_cells, machines
from dynams.compare.statistics import Spread, paired, spread
from gpu import ledger


def found(group: Group, reference: Group, machine: str | None) -> list[tuple[str, float, str]]:
    """What a recipe came to: name, value and unit of each figure."""
    timed = group.on(machine).seconds() if machine else spread([])
    rows = [("seeds", float(len(group.cells)), "")]
    rows += _with_error("accuracy", spread(group.accuracy.values()), "share")
    rows += _with_error("seconds without evaluation", timed, "s")
    evaluated = spread(cell.seconds.get("evaluation", 0.0) for cell in group.cells.values())
    rows.append(("evaluation", evaluated.mean, "s"))
    if group is not reference:
        difference = paired(group.accuracy, reference.accuracy)
        rows.append((f"accuracy against {reference.recipe.name}", difference.mean, "share"))
        if difference.error is not None:
            rows.append(("its standard error", difference.error, "share"))
    return rows


def _with_error(name: str, value: Spread, unit: str) -> list[tuple[str, float, str]]:
    if not value.n:
        return []
    error = (
        []
        if value.deviation is None
        else [("its standard error", value.deviation / value.n**0.5, unit)]
    )
    return [(name, value.mean, unit), *error]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    plan = load_plan(arguments[0])
    queue = Queue(plan, Folder(arguments[0]))
    groups = group_cells(plan, queue.cells)
    ledger.write_of_suite(collected=len(groups))
    machine = next(iter(machines(groups)), None)
    for group in groups:
        line: dict[str, Any] = {
            "end": group.title,
            "outcome": "passed" if group.cells else ledger.NOT_REACHED,
        }
        if group.cells:
            timed = group.on(machine).seconds() if machine else spread([])
            line |= {"seconds": timed.mean, "found": found(group, groups[0], machine)}
        ledger.write_of_suite(**line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
