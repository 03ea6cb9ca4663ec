"""`dynams compare`: recipes x budgets x seeds as a resumable queue, and its report."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynams.checks import positive
from dynams.cli.errors import INTERRUPTED, OK, UsageError, tell
from dynams.cli.options import add_train_settings, read_train_options, with_single
from dynams.cli.parsing import OptionParser, number_in, path_in, whole_in
from dynams.cli.train import _quieten
from dynams.compare.plan import Plan
from dynams.compare.plan_file import PLAN_NAME, load_plan, presets
from dynams.files import StorageError
from dynams.paths import told_path

if TYPE_CHECKING:
    from dynams.compare.runner import Queue

_DESCRIPTION = """\
Run recipes x budgets x seeds on one data set, a cell each, and compare them: accuracy at equal
epochs and at equal wall-clock time, mean and spread over seeds, cost by purpose. Finished cells are
kept; the same command goes on with the missing ones, and a cell that was stopped goes on from its
checkpoint."""

_EPILOG = """\
Every option of dynams train (--data.path DIR, --optim.epochs 10, ...) replaces what the plan's base
says; what a recipe says for itself stays. --out and --limit-seconds are also keys of a plan: out,
limit_seconds.

A plan is YAML: base (train options of all cells), recipes (a name and its options each, with title,
priority, uses_budget or match beside them), budgets, seeds, reference. docs/compare.md explains it.

In the folder: cells.jsonl (a line a cell), unfinished/ (runs under way), plan.yaml, compare.html,
compare.md. Exit status: 0 when what was asked is done or the limit is reached, 2 for bad input,
130 after SIGINT, SIGTERM, SIGHUP or SIGUSR1, which finish the step and save; a second SIGINT stops
at once."""


@dataclass(frozen=True)
class CompareRequest:
    """What `dynams compare` was asked to do: ``kept`` is what plan.yaml is to say of it."""

    plan: Plan
    kept: Plan
    out: Path
    limit_seconds: float | None
    show: bool
    merge: list[Path] | None
    only_report: bool
    recompute: bool


def run(argv: Sequence[str]) -> int:
    """Run `dynams compare`.

    Returns:
        The exit status.
    """
    started = time.monotonic()
    try:
        request = parse(argv)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    _quieten()
    import dynams_kernels as dk
    from dynams.compare.page import write_comparison
    from dynams.compare.runner import Queue
    from dynams.compare.store import Folder, merge
    from dynams.training.devices import resolve_device

    folder = Folder(request.out)
    queue = Queue(request.plan, folder, kept=request.kept, recompute=request.recompute, say=tell)
    if queue.strangers:
        tell(f"{queue.strangers} cells in {request.out} are not of this plan: left alone")
    if request.show:
        sys.stdout.write(listing(queue))
        return OK
    from dynams.training.preflight import check_comparison_packages

    check_comparison_packages()
    going_on = True
    if request.merge is not None:
        new = merge(folder, request.merge)
        added = queue.add(new)
        folder.save_plan(request.kept)
        others = f", {len(new) - added} are not of this plan" if added < len(new) else ""
        tell(f"{added} cells merged{others}")
    elif request.only_report and not queue.cells:
        raise UsageError(f"--report: no finished cells of this plan in {request.out}")
    elif not request.only_report:
        limit = request.limit_seconds
        accelerator = request.plan.base.get("run.accelerator", "auto")
        dk.tell_fallback(resolve_device(accelerator), tell)
        # Importing what trains took a part of it.
        going_on = queue.run(None if limit is None else limit - (time.monotonic() - started))
    tell(queue.status())
    if queue.cells:
        try:
            html, markdown = write_comparison(request.out, request.plan, queue.cells)
        except StorageError as error:
            error.afterwards = f"then: dynams compare {shlex.quote(str(request.out))} --report"
            raise
        tell(f"{html}, {markdown}")
    if going_on:
        return OK
    tell("stopped; the same command goes on")
    return INTERRUPTED


def listing(queue: Queue) -> str:
    """The queue as text, a line a cell."""
    entries = queue.entries()
    width = max(len(str(entry.key)) for entry in entries)
    lines = []
    for entry in entries:
        cell, begun = entry.cell, entry.begun
        epochs = "" if entry.config is None else f"{entry.config.optim.epochs} epochs"
        if cell is not None and cell.failure is not None:
            state = f"failed: {cell.failure}"
        elif cell is not None:
            state = f"done: {100 * cell.accuracy:.2f} %, {cell.cost:.1f} s"
        elif entry.config is None:
            state = "waits for the cells whose seconds it matches"
        elif begun is not None:
            state = f"under way: {begun.epochs} of {begun.total_epochs} epochs"
        else:
            state = "missing"
        if cell is None and entry.seconds_left is not None:
            state += f", about {entry.seconds_left:.0f} s left"
        lines.append(f"{entry.key!s:<{width}}  {epochs:>11}  {state}\n")
    return "".join([*lines, f"{queue.status()}\n"])


def parse(argv: Sequence[str]) -> CompareRequest:
    """Read the arguments after `dynams compare`.

    Raises:
        UsageError, TypeError, ValueError: something is unknown or refused.
        SystemExit: help was asked for and is printed.
    """
    options, given, single = read_train_options(make_parser(), argv)
    if not options.plan:
        known = ", ".join(presets())
        raise UsageError(f"plan: got none, want one of {known}, or a YAML file; see --help")
    whole = load_plan(options.plan, with_single(given, single))
    whole = dataclasses.replace(whole, base={**_quiet(), **whole.base})
    plan = whole.narrowed(recipes=options.recipes, budgets=options.budgets, seeds=options.seeds)
    limit = plan.limit_seconds if options.limit_seconds is None else options.limit_seconds
    if limit is not None:
        positive("--limit-seconds", limit)
    alone = [
        name
        for name, chosen in (
            ("--list", options.list),
            ("--merge", options.merge is not None),
            ("--report", options.report),
        )
        if chosen
    ]
    if len(alone) > 1:
        raise UsageError(f"{alone[1]}: does not go with {alone[0]}")
    folder = told_path(options.plan)
    earlier = folder if options.plan not in presets() and folder.is_dir() else None
    out = options.out or earlier or told_path(plan.out or f"compare/{plan.name}")
    return CompareRequest(
        plan=plan,
        # A part of a folder's own plan must not take its place: nothing else may hold the rest.
        kept=whole if out == earlier else plan,
        out=out,
        limit_seconds=limit,
        show=options.list,
        merge=options.merge,
        only_report=options.report,
        recompute=options.recompute,
    )


def make_parser() -> OptionParser:
    """Make the parser of `dynams compare`."""
    parser = OptionParser(
        prog="dynams compare",
        usage="dynams compare PLAN [options] [--SECTION.OPTION VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "plan",
        metavar="PLAN",
        nargs="?",
        help=f"a preset ({', '.join(presets())}), a YAML file, or the folder of an earlier "
        f"comparison, which holds {PLAN_NAME}",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=path_in,
        help="folder of cells and report; by default the plan's own, else compare/NAME",
    )
    parser.add_argument(
        "--limit-seconds",
        metavar="S",
        type=number_in,
        help="stop in time, with everything saved, before S seconds have passed; no cell is begun "
        "that cannot finish, as far as finished ones tell, unless it needs more than S",
    )
    parser.add_argument(
        "--list", action="store_true", help="show the cells in the order of the queue, run nothing"
    )
    parser.add_argument(
        "--merge",
        metavar="DIR",
        type=path_in,
        nargs="+",
        help="take over finished cells from other folders and write the report, run nothing",
    )
    parser.add_argument(
        "--report", action="store_true", help="write the report of the finished cells, run nothing"
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="compute cells anew whose options are not the plan's; without it they are refused",
    )
    parser.add_argument(
        "--recipes", metavar="NAME", nargs="+", help="only these recipes, and the reference"
    )
    parser.add_argument(
        "--budgets", metavar="B", nargs="+", type=number_in, help="only these budgets"
    )
    parser.add_argument("--seeds", metavar="N", nargs="+", type=whole_in, help="only these seeds")
    add_train_settings(parser, in_help=False)
    return parser


def _quiet() -> dict[str, Any]:
    """What a cell leaves out unless it is asked for; no result depends on it."""
    return {
        "run.tensorboard": False,
        "run.report": False,
        "run.progress": sys.stderr.isatty(),
    }
