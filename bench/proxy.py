"""Measures the proxy: how fast it scores, how well it agrees with the full width, its share of a run.

python bench/proxy.py speed --out DIR [--models resnet18 resnet8] [--images N] [--rounds N]
python bench/proxy.py faithful --out DIR --data-path DIR [--recipes joint distill] [--width 0.5] [--epochs N] [--model JSON]
python bench/proxy.py share --out DIR FOLDER [--recipes q5 q10]
python bench/proxy.py show DIR/KIND.json [--into PAGE.md ...]   between each page's proxy-KIND:begin and :end marks

The first three, on the CPU, leave DIR/KIND.json, and its tables in DIR/KIND.md; `faithful` leaves out recipes done already.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dynams_kernels as dk
from dynams.compare import Folder
from dynams.data import Augmentation, ImageData, ImageSet
from dynams.files import replace_file
from dynams.report.codec import to_plain
from dynams.report.text import MISSING
from dynams.selection import Signals
from dynams.selection.timetable import selection_size
from dynams.training import TrainConfig, evaluate, score_signals, train
from dynams.training.distributed import build_fabric
from dynams.training.environment import environment
from dynams.training.resolve import resolve
from dynams.training.run import TrainingRun, build_run
from marks import insert

Row = dict[str, Any]

PRECISIONS = ("32-true", "bf16-mixed")
# Images a pass: seconds of work on one core, beside which freezing the network, which every pass does anew, weighs
# about as little as beside a whole data set.
MODELS = {"resnet18": 512, "resnet8": 8192}
TARGETS = {"resnet18": 3.0}  # least speed-up aimed at
BUDGETS = (0.3, 0.6)
REACHED = ("accuracy", "proxy's accuracy", "proxy loss / training", "scoring / training")
RECIPES: dict[str, Row] = {"none": {"recipe": "none"}, "joint": {}, "joint-every4": {"every": 4}}
RECIPES |= {name: {"recipe": name} for name in ("distill", "batch_norm")}
# Of the proxy's loss; a probe's decides no more than how fast the probe learns.
WEIGHTS = {"joint": 0.3, "distill": 0.3, "probe": 1.0}
RECIPES |= {
    f"nested {name}": {"nested": True, "recipe": name, "weight": weight}
    for name, weight in WEIGHTS.items()
}


def speed(options: argparse.Namespace) -> Row:
    """Images a second of scoring at width 0.5 and of evaluation at full width, by model and precision.

    The ratio is taken within each round and then its median, so that a slow round counts in both or not at all; its
    range shows how noisy the machine was.
    """
    rows, seconds = [], {}
    for model in options.models:
        for precision in PRECISIONS:
            images = options.images or MODELS[model]
            times = alternate(passes(model, precision, images), options.rounds)
            ratios = [b / a for a, b in zip(times["proxy"], times["full width"], strict=True)]
            found, target = statistics.median(ratios), TARGETS.get(model)
            verdict = "" if target is None else "met" if found >= target else "missed"
            row = {"model": model, "precision": precision, "images": images}
            row |= {f"{way}, images/s": images / statistics.median(times[way]) for way in times}
            row |= {"speed-up": found, "lowest": min(ratios), "highest": max(ratios)}
            rows.append(row | {"aimed at": target, "": verdict})
            seconds[f"{model} {precision}"] = times
    here = environment(torch.device("cpu"))
    return {"kind": "speed", "environment": here, "tables": [rows], "seconds": seconds}


def passes(model: str, precision: str, count: int) -> dict[str, Callable[[], object]]:
    """A pass over `count` images as a refresh scores them, and as an epoch's end evaluates them.

    Both are the trainer's own functions, freeze the network, and read the same images in the same batches and memory
    format: what differs is the width. Images are noise in memory, so that nothing is read or decoded meanwhile;
    weights are the initial ones: time does not depend on their values.
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    labels = torch.zeros(count, dtype=torch.int64)
    images = ImageSet(pixels, labels, tuple(map(str, range(10))), "noise")
    data = ImageData(images, images, (0.5,) * 3, (0.25,) * 3, Augmentation(0, False))
    run = {"accelerator": "cpu", "precision": precision}
    config = TrainConfig.from_dict({"model": {"name": model, "stem": "cifar"}, "run": run})
    resolved = resolve(config, data)
    built = build_run(resolved, build_fabric(resolved), data)
    parts = (built.fabric, built.network, built.batches)
    size = built.reading_size(count)
    return {
        "proxy": lambda: score_signals(*parts, {"gap"}, width=0.5, batch_size=size),
        "full width": lambda: evaluate(*parts, batch_size=size),
    }


def alternate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one that warms up.

    All take their turn in every round, so that a machine whose speed drifts slows all alike; every other round goes
    backwards, so that none always finds the caches and clock speed that the same one left.
    """
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way in reversed(ways) if turn % 2 else ways:
            start = time.perf_counter()
            ways[way]()
            if turn:
                times[way].append(time.perf_counter() - start)
    return times


def faithful(options: argparse.Namespace) -> Row:
    """Agreement of proxy and full width at every refresh of one run of each recipe.

    A file that holds runs of other settings is refused: recipes are compared at the same ones only. Means stand
    beside the accuracies, for a proxy may agree well with a network that it spoils.
    """
    settings: dict[str, Row] = {
        "data": {"name": options.data, "limit": options.limit},
        "model": options.model,
        "proxy": {"width": options.width, "recipe": "joint"},
        "optim": {"epochs": options.epochs, "batch_size": 128},
        "run": {"seed": options.seed, "accelerator": "cpu", "evaluate_every": options.epochs},
    }
    here = environment(torch.device("cpu"))
    report: Row = {"kind": "faithful", "environment": here, "settings": settings, "runs": {}}
    path = options.out / "faithful.json"
    if path.exists():
        report = json.loads(path.read_text())
        if report["settings"] != settings:
            raise ValueError(f"{path}: holds runs of other settings; take another --out")
    for recipe in options.recipes:
        if recipe in report["runs"]:
            print(f"{recipe}: done already")
            continue
        config = TrainConfig.from_dict(settings | {"proxy": settings["proxy"] | RECIPES[recipe]})
        report["runs"][recipe] = compare_widths(config, options.data_path)
        report["tables"] = faithful_tables(report["runs"])
        write(report, options.out)
    return report


def compare_widths(config: TrainConfig, data_path: str | None) -> Row:
    """Train, and compare the margins of every refresh with those of the full width.

    The proxy's are those that the run selects by, so that whatever its recipe does before scoring was done; the full
    width is the same run's at the same moment, for another run's weights would differ too. Scoring it draws no
    random numbers and changes nothing: the run ends as it would have unwatched.
    """
    refreshes: list[Row] = []

    def compare(run: TrainingRun, known: Signals) -> None:
        (kind,) = run.selector.scored
        parts = (run.fabric, run.network, run.batches)
        full = score_signals(*parts, {kind}, batch_size=run.reading_size(len(run.batches)))
        assert full is not None
        found = agreement(known.score(kind), full.score(kind))
        refreshes.append({"epoch": run.position.epoch, **found})

    with tempfile.TemporaryDirectory() as folder:
        data = dataclasses.replace(config.data, path=data_path)
        quiet = {"tensorboard": False, "report": False, "progress": False}
        where = dataclasses.replace(config.run, dir=folder, **quiet)
        config = dataclasses.replace(config, data=data, run=where)
        end = train(config, on_refresh=compare)
    reached = {"accuracy": end.accuracy, "proxy's accuracy": end.proxy_accuracy}
    # Of the seconds in which the full width was trained, as the trainer's own clock has them.
    shares = {
        f"{name} / training": end.seconds.get(name, 0.0) / end.seconds["training"]
        for name in ("proxy loss", "scoring")
    }
    return {"refreshes": refreshes, **reached, **shares}


def agreement(proxy: Tensor, full: Tensor) -> Row:
    """Spearman's rank correlation, and the share of one selection that the other holds too.

    A correlation also counts order far from the threshold, which no selection depends on; overlaps are of selections as
    the trainer makes them, ties included. Chance gives a correlation of 0, as do equal margins, and the budget as overlap.
    """
    both = torch.stack([ranks(proxy), ranks(full)])
    found = {"Spearman": float(torch.corrcoef(both)[0, 1].nan_to_num())}
    for budget in BUDGETS:
        k = selection_size(len(full), budget)
        first, second = (dk.smallest_k(margins, k).indices for margins in (proxy, full))
        found[f"overlap at {budget:g}"] = int(torch.isin(first, second).sum()) / k
    return found


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1, float64. Equal values share the mean of theirs, or ties would be ranked by their indices."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


def faithful_tables(runs: dict[str, Row]) -> list[list[Row]]:
    """Means over refreshes, with what chance gives; then each refresh, as early ones score by a network still young."""
    chance = {"Spearman": 0.0, **{f"overlap at {budget:g}": budget for budget in BUDGETS}}
    means = []
    for recipe, run in runs.items():
        mean = {key: statistics.fmean(each[key] for each in run["refreshes"]) for key in chance}
        # Older reports have no seconds.
        reached = {key: run.get(key) for key in REACHED}
        means.append({"recipe": recipe, **mean, **reached})
    means.append({"recipe": "chance", **chance, **dict.fromkeys(REACHED)})
    each = [{"recipe": name, **row} for name, run in runs.items() for row in run["refreshes"]]
    return [means, each]


def share(options: argparse.Namespace) -> Row:
    """Scoring and selection in the seconds of finished cells of `dynams compare`, which are of one environment.

    Seconds are those that a comparison counts: with evaluation, which is for the reader, every share would look smaller.
    """
    rows, machines = [], set()
    for key, cell in Folder(options.folder).cells().items():
        if options.recipes and key.recipe not in options.recipes:
            continue
        if cell.failure is not None or not cell.cost > 0:
            raise ValueError(f"{key}: no seconds, {cell.failure or 'none were measured'}")
        machines.add(cell.machine)
        spent = {name: cell.seconds.get(name, 0.0) for name in ("scoring", "selection")}
        row = {"cell": key.stem, "refresh every": cell.options.get("selection.refresh_every")}
        row |= {"seconds": cell.cost, **spent, "share": sum(spent.values()) / cell.cost}
        rows.append(row | {"proxy loss, share": cell.seconds.get("proxy loss", 0.0) / cell.cost})
    if not rows:
        raise ValueError(f"{options.folder}: no finished cells of these recipes")
    machine = machines.pop()
    if machines or machine is None:
        raise ValueError("the cells ran in several environments, whose seconds do not compare")
    return {"kind": "share", "environment": json.loads(machine), "tables": [rows]}


def show(options: argparse.Namespace) -> Row:
    """Put a report's tables into pages, or print them where none is named: no figure is typed by hand."""
    report: Row = json.loads(options.report.read_text())
    for page in options.into:
        insert(page, f"proxy-{report['kind']}", tables(report))
    if not options.into:
        print(tables(report), end="")
    return report


def tables(report: Row) -> str:
    """A report's tables as Markdown, and what it was measured on."""
    where = report["environment"]
    machine = f"{where['cpu']}, threads: {where['threads']}, torch {where['torch']}.\n"
    parts = []
    for rows in report["tables"]:
        lines = [list(rows[0]), ["---", *("--:" for _ in list(rows[0])[1:])]]
        lines += [[shown(value) for value in row.values()] for row in rows]
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join([*parts, machine])


def shown(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
    return MISSING if value is None else str(value)


def write(report: Row, out: Path) -> None:
    """Write a report and its tables, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_plain(report), indent=1, allow_nan=False)
    replace_file(out / f"{report['kind']}.json", f"{text}\n".encode())
    replace_file(out / f"{report['kind']}.md", tables(report).encode())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("speed", help="images a second")
    one.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    one.add_argument("--images", type=int, help="a pass (seconds of work, by model)")
    one.add_argument("--rounds", type=int, default=7)
    two = kinds.add_parser("faithful", help="agreement with the full width")
    two.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    two.add_argument("--width", type=float, default=0.5)
    two.add_argument(
        "--model", type=json.loads, default={"name": "resnet8"}, help="section, as JSON"
    )
    two.add_argument("--data", choices=("cifar10", "digits"), default="cifar10")
    two.add_argument("--data-path")
    two.add_argument("--limit", type=int, default=10_000)
    two.add_argument("--epochs", type=int, default=10)
    two.add_argument("--seed", type=int, default=0)
    three = kinds.add_parser("share", help="share of a run's seconds")
    three.add_argument("folder", type=Path, metavar="FOLDER", help="of a comparison")
    three.add_argument("--recipes", nargs="+", metavar="NAME", help="only their cells")
    for each in (one, two, three):
        each.add_argument("--out", type=Path, required=True, help="folder of the report")
    four = kinds.add_parser("show", help="the tables of a report")
    four.add_argument("report", type=Path)
    four.add_argument("--into", type=Path, nargs="+", metavar="PAGE", default=[])
    for each, measure in ((one, speed), (two, faithful), (three, share), (four, show)):
        each.set_defaults(measure=measure)
    options = parser.parse_args(arguments)
    try:
        report = options.measure(options)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if options.measure is not show:
        write(report, options.out)
        print(tables(report), end="")


if __name__ == "__main__":
    main()
