"""The folder of a comparison: finished cells, unfinished runs, plan and report.

plan.yaml               the plan, as last used
cells/STEM.json         one finished cell each, written whole or not at all
unfinished/STEM/        a cell's run directory with its checkpoints, until it is finished
compare.html, compare.md
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dynams.compare.cells import CellKey
from dynams.compare.options import digest, essential
from dynams.compare.plan import Plan
from dynams.compare.plan_file import PLAN_NAME
from dynams.compare.results import Cell, cell_text, machine_of, read_cell
from dynams.files import remove_leftovers, replace_file, storing
from dynams.paths import told_path
from dynams.report.codec import to_plain
from dynams.report.runlog import LOG_NAME
from dynams.training.config import TrainConfig

CELLS = "cells"
UNFINISHED = "unfinished"
_BEGUN = "begun.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class Begun:
    """A cell under way.

    Attributes:
        run_dir: its run; None before the first piece has made it.
        digest: of its options.
        total_epochs: epochs it is to have.
        epochs: epochs it has finished.
        environments: where its pieces ran.
        pieces: how often it was begun or resumed.
    """

    run_dir: Path | None
    digest: str
    total_epochs: int
    epochs: int
    environments: tuple[dict[str, Any], ...]
    pieces: int


class Folder:
    """The folder of a comparison; made when something is first written.

    Args:
        path: where it is.

    Raises:
        ValueError: there is something else than a directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = told_path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out: {path} is not a directory")

    def cells(self) -> dict[CellKey, Cell]:
        """Read all finished cells.

        Raises:
            ValueError: a file is damaged or is under another cell's name.
        """
        found = {}
        for path in sorted((self.path / CELLS).glob("*.json")):
            cell = read_cell(path)
            if cell.key.stem != path.stem:
                raise ValueError(f"{path}: holds {cell.key}, whose file is {cell.key.stem}.json")
            found[cell.key] = cell
        return found

    def save(self, cell: Cell) -> None:
        """Write a finished cell, and let go of its run.

        Raises:
            StorageError: it cannot be written; the run stays.
        """
        path = self.path / CELLS / f"{cell.key.stem}.json"
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, cell_text(cell).encode("ascii"))
        self.forget(cell.key)

    def save_plan(self, plan: Plan) -> None:
        """Write the plan beside the cells."""
        text = yaml.safe_dump(plan.to_dict(), sort_keys=False, default_flow_style=False)
        replace_file(self.path / PLAN_NAME, text.encode("utf-8"))

    def work_dir(self, key: CellKey) -> Path:
        """Directory in which the cell makes its run."""
        return self.path / UNFINISHED / key.stem

    def forget(self, key: CellKey) -> None:
        """Remove the unfinished run of a cell, if there is one."""
        shutil.rmtree(self.work_dir(key), ignore_errors=True)
        parent = self.path / UNFINISHED
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()

    def begin(
        self, key: CellKey, config: TrainConfig, environment: Mapping[str, Any], begun: Begun | None
    ) -> Begun:
        """Note that a piece of the cell begins here, after those of ``begun``."""
        environments = begun.environments if begun else ()
        if machine_of(environment) not in map(machine_of, environments):
            environments = (*environments, dict(environment))
        now = Begun(
            run_dir=begun.run_dir if begun else None,
            digest=digest(essential(config)),
            total_epochs=config.optim.epochs,
            epochs=begun.epochs if begun else 0,
            environments=environments,
            pieces=1 + (begun.pieces if begun else 0),
        )
        values = {
            name: getattr(now, name)
            for name in ("digest", "total_epochs", "environments", "pieces")
        }
        folder = self.work_dir(key)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / _BEGUN, json.dumps(to_plain(values)).encode("ascii"))
        return now

    def begun(self, key: CellKey) -> Begun | None:
        """Find what is left of a cell under way; None if there is nothing to go on from."""
        try:
            values = json.loads((self.work_dir(key) / _BEGUN).read_bytes())
            run_dir = self.run_dir(key)
            if run_dir is None:  # stopped before its first checkpoint
                return None
            return Begun(
                run_dir=run_dir,
                digest=str(values["digest"]),
                total_epochs=int(values["total_epochs"]),
                epochs=_epochs_logged(run_dir),
                environments=tuple(dict(item) for item in values["environments"]),
                pieces=int(values["pieces"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def run_dir(self, key: CellKey) -> Path | None:
        """Find the newest run of a cell under way that has a checkpoint."""
        from dynams.training.rundir import checkpoint_path

        folder = self.work_dir(key)
        runs = [path for path in folder.glob("*/") if checkpoint_path(path).is_file()]
        return max(runs, key=lambda path: checkpoint_path(path).stat().st_mtime, default=None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from running cells in this folder.

        Raises:
            ValueError: one does already, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / _LOCK).open("w")
        except OSError as error:
            raise ValueError(f"out: cannot write in {self.path}: {error.strerror}") from error
        with file:
            if not _locked(file.fileno()):
                raise ValueError(f"out: another dynams compare runs in {self.path}")
            try:
                for folder in (self.path, self.path / CELLS):
                    remove_leftovers(folder)
                yield
            finally:
                (self.path / _LOCK).unlink(missing_ok=True)


def merge(into: Folder, sources: Sequence[str | Path]) -> dict[CellKey, Cell]:
    """Collect the finished cells of several folders. Of one cell that several have, the first counts.

    Args:
        into: the folder that is to hold them all; nothing is written yet.
        sources: folders of comparisons, or of cells.

    Returns:
        The cells that ``into`` does not have.

    Raises:
        ValueError: a folder holds no cells, or a damaged one.
    """
    there = into.cells()
    new: dict[CellKey, Cell] = {}
    for source in map(told_path, sources):
        if not source.is_dir():
            raise ValueError(f"merge: no directory {source}")
        found = Folder(source.parent if source.name == CELLS else source).cells()
        if not found:
            raise ValueError(f"merge: no finished cells in {source}")
        for key, cell in found.items():
            if key not in there:
                new.setdefault(key, cell)
    return new


def _epochs_logged(run_dir: Path) -> int:
    try:
        lines = (run_dir / LOG_NAME).read_bytes().splitlines()
    except OSError:
        return 0
    return sum(line.startswith(b'{"record": "epoch"') for line in lines)


def _locked(descriptor: int) -> bool:
    """Lock an open file; where the system has no such locks, say that it is."""
    if os.name == "nt":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
