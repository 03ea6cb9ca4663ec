"""A finished cell: what was run, where, and what came of it, as one strict JSON object.

The options kept are those that the result depends on; paths and names of directories are left
out, so that a folder of cells can be published as it is.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dynams
from dynams.checks import of_type
from dynams.compare.cells import CellKey
from dynams.compare.options import digest, essential
from dynams.report.codec import to_plain
from dynams.report.records import Run
from dynams.training.changed_settings import changed_settings
from dynams.training.config import TrainConfig
from dynams.training.options import Options, build

FORMAT = 1

# What must agree for seconds to be comparable.
_TIMED = (
    "dynams", "torch", "cuda", "triton", "system", "cpu", "cpu_instructions", "cores", "threads",
    "kernels", "device", "processes",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """An evaluation: epochs, samples and seconds so far, and the test accuracy reached."""

    epochs: int
    samples: int
    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Refreshed:
    """One refresh: before which epoch, how many samples, and the share that was selected before."""

    epoch: int
    selected: int
    overlap: float | None


@dataclass(frozen=True)
class Cell:
    """A finished cell.

    Attributes:
        key: recipe, budget and seed.
        options: the train options that the result depends on, by dotted name.
        version: of the package.
        environments: what it ran on; more than one if it was moved while unfinished.
        pieces: how often it was begun or resumed.
        data: fingerprint of the images.
        failure: why there is no result; None when there is one.
        accuracy: test accuracy at the end.
        epochs: epochs trained.
        samples: training samples used.
        steps: optimiser steps.
        seconds: wall-clock seconds by purpose.
        total_seconds: wall-clock seconds in all, with what no purpose accounts for.
        samples_by_purpose: samples handled for each purpose.
        curve: the evaluations.
        refreshes: those of the selection.
    """

    key: CellKey
    options: Options
    version: str
    environments: tuple[dict[str, Any], ...]
    pieces: int
    data: dict[str, Any]
    failure: str | None
    accuracy: float = math.nan
    epochs: int = 0
    samples: int = 0
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    total_seconds: float = math.nan
    samples_by_purpose: dict[str, int] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    refreshes: tuple[Refreshed, ...] = ()

    @property
    def cost(self) -> float:
        """Seconds of all purposes but evaluation, which is for the reader and not for the method.

        What no purpose accounts for (checkpoints, logs, building the network) is left out too.
        """
        return sum(value for name, value in self.seconds.items() if name != "evaluation")

    @property
    def best(self) -> float:
        """Return the highest test accuracy of its evaluations."""
        return max((point.accuracy for point in self.curve), default=self.accuracy)

    @property
    def machine(self) -> str | None:
        """Tells environments apart in which seconds do not compare; None if it ran in several, or partly compiled."""
        if len(set(map(surroundings, self.environments))) != 1:
            return None
        return machine_of(self.environments[0])


def machine_of(environment: Mapping[str, Any]) -> str:
    """Return what tells this environment from others in which seconds do not compare."""
    return json.dumps({key: to_plain(environment.get(key)) for key in _TIMED}, sort_keys=True)


def surroundings(environment: Mapping[str, Any]) -> tuple[str, bool | None]:
    """Return what must stay the same for the pieces of a cell: the machine, and whether it is compiled, if it says so."""
    return machine_of(environment), environment.get("compile")


def cell_of_run(
    key: CellKey,
    config: TrainConfig,
    run: Run,
    *,
    environments: tuple[dict[str, Any], ...],
    pieces: int,
    data: Mapping[str, Any],
    samples_by_purpose: Mapping[str, int],
    failure: str | None = None,
) -> Cell:
    """Collect a cell from the log of its finished run, or of one that failed."""
    points = []
    samples, seconds = 0, 0.0
    for record in run.epochs:
        samples += record.samples
        seconds += sum(v for name, v in record.seconds.items() if name != "evaluation")
        if record.accuracy is not None:
            points.append(Point(record.epoch + 1, samples, seconds, record.accuracy))
    end = run.summary
    return Cell(
        key=key,
        options=essential(config),
        version=dynams.__version__,
        environments=environments,
        pieces=pieces,
        data=dict(data),
        failure=failure,
        accuracy=math.nan if end is None or failure is not None else end.accuracy,
        epochs=len(run.epochs),
        samples=samples if end is None else end.samples,
        steps=0 if end is None else end.steps,
        seconds={} if end is None else dict(end.seconds),
        total_seconds=math.nan if end is None else end.total_seconds,
        samples_by_purpose=dict(samples_by_purpose),
        curve=tuple(points),
        refreshes=tuple(Refreshed(r.epoch, r.selected, r.overlap) for r in run.refreshes),
    )


def differences(cell: Cell, config: TrainConfig) -> list[str]:
    """Say in which options the cell differs from what the plan wants; empty when in none."""
    try:
        was = build(cell.options)
    except (TypeError, ValueError) as error:
        return [f"its options are of another version: {error}"]
    changed = changed_settings(was, config)
    # A run may be compiled or not when it goes on; seconds of the two are not compared.
    wanted = config.run.compile
    compiled = [where.get("compile", wanted) for where in cell.environments]
    if compiled and wanted not in compiled:
        changed.append(("run.compile", compiled[0], wanted))
    return [f"{name}: got {old!r}, want {new!r}" for name, old, new in changed]


def cell_text(cell: Cell) -> str:
    """Return the cell as its line of text."""
    values = {"format": FORMAT, **dataclasses.asdict(cell.key), "digest": digest(cell.options)}
    values.update({f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)})
    del values["key"]
    values["choices"] = values.pop("refreshes")  # their name since the format's first version
    return json.dumps(to_plain(values), allow_nan=False) + "\n"


def read_cell(text: str, where: str) -> Cell:
    """Read a cell's line.

    Args:
        text: the line.
        where: it is, which begins the message of an error.

    Raises:
        ValueError: it is damaged, was changed by hand, or is no cell.
    """
    try:
        return _cell(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: is not JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"{where}: is not a finished cell: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: is not a finished cell: {error}") from error


def _cell(values: Any) -> Cell:
    of_type("cell", values, dict)
    if values["format"] != FORMAT:
        raise ValueError(f"format: got {values['format']!r}, want {FORMAT}")
    if values["digest"] != digest(values["options"]):
        raise ValueError("its options do not have the digest that it names")
    budget = values["budget"]
    return Cell(
        key=CellKey(str(values["recipe"]), _maybe(budget), int(values["seed"])),
        options=dict(values["options"]),
        version=str(values["version"]),
        environments=tuple(dict(item) for item in values["environments"]),
        pieces=int(values["pieces"]),
        data=dict(values["data"]),
        failure=None if values["failure"] is None else str(values["failure"]),
        accuracy=_number(values["accuracy"]),
        epochs=int(values["epochs"]),
        samples=int(values["samples"]),
        steps=int(values["steps"]),
        seconds={str(k): _number(v) for k, v in values["seconds"].items()},
        total_seconds=_number(values["total_seconds"]),
        samples_by_purpose={str(k): int(v) for k, v in values["samples_by_purpose"].items()},
        curve=tuple(
            Point(
                int(p["epochs"]), int(p["samples"]), _number(p["seconds"]), _number(p["accuracy"])
            )
            for p in values["curve"]
        ),
        refreshes=tuple(
            Refreshed(int(c["epoch"]), int(c["selected"]), _maybe(c["overlap"]))
            for c in values["choices"]
        ),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _maybe(value: Any) -> float | None:
    return None if value is None else float(value)
