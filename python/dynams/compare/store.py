"""The folder of a comparison: finished cells, unfinished runs, plan and report.

plan.yaml               the plan, as last used
cells.jsonl             a finished cell a line, as they were finished
unfinished/STEM/        a cell's run directory with its checkpoints, while a process has it or until it is finished
compare.html, compare.md
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dynams.compare.cells import CellKey
from dynams.compare.options import digest, essential
from dynams.compare.plan import Plan
from dynams.compare.plan_file import PLAN_NAME
from dynams.compare.results import Cell, cell_text, read_cell, surroundings
from dynams.files import claimed, remove_leftovers, replace_file, storing
from dynams.paths import told_path
from dynams.report.codec import to_plain
from dynams.report.runlog import LOG_NAME
from dynams.training.config import TrainConfig

CELLS = "cells.jsonl"
UNFINISHED = "unfinished"
_BEGUN = "begun.json"
# Others hold the folder for as long as it takes to write some kilobytes.
_PATIENCE_SECONDS = 60.0


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
            ValueError: one is damaged, or there twice.
        """
        found: dict[CellKey, Cell] = {}
        for number, line in enumerate(_text(self.path / CELLS).splitlines(), 1):
            where = f"{self.path / CELLS}, line {number}"
            cell = read_cell(line, where)
            if cell.key in found:
                raise ValueError(f"{where}: got {cell.key} twice, want it once")
            found[cell.key] = cell
        return found

    def save(self, *cells: Cell) -> None:
        """Write finished cells, in the place of what was there of them, and let go of their runs.

        Raises:
            StorageError: they cannot be written; the runs stay.
        """
        path = self.path / CELLS
        with self._written():
            kept = {**self.cells(), **{cell.key: cell for cell in cells}}
            replace_file(path, "".join(map(cell_text, kept.values())).encode("ascii"))
        for cell in cells:
            self.forget(cell.key)

    def save_plan(self, plan: Plan) -> None:
        """Write the plan beside the cells, where nothing half written is left of killed processes.

        Raises:
            StorageError: it cannot be written.
        """
        text = yaml.safe_dump(plan.to_dict(), sort_keys=False, default_flow_style=False)
        with self._written():
            remove_leftovers(self.path)
            replace_file(self.path / PLAN_NAME, text.encode("utf-8"))

    def work_dir(self, key: CellKey) -> Path:
        """Directory in which the cell makes its run."""
        return self.path / UNFINISHED / key.stem

    def forget(self, key: CellKey) -> None:
        """Remove the unfinished run of a cell, if there is one; its folder stays for the process that has it."""
        for left in self.work_dir(key).glob("*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def begin(
        self, key: CellKey, config: TrainConfig, environment: Mapping[str, Any], begun: Begun | None
    ) -> Begun:
        """Note that a piece of the cell begins here, after those of ``begun``."""
        environments = begun.environments if begun else ()
        if surroundings(environment) not in map(surroundings, environments):
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
    def taken(self, key: CellKey) -> Iterator[bool]:
        """Have a cell for this process alone as long as the block lasts; gives False where another has it.

        Raises:
            StorageError: its folder cannot be made.
        """
        folder = self.work_dir(key)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            mine = False
            with suppress(FileNotFoundError):  # whoever had it has just removed it
                mine = stack.enter_context(claimed(folder))
            try:
                yield mine
            finally:
                if mine:
                    for empty in (folder, folder.parent):
                        with suppress(OSError):
                            empty.rmdir()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Keep other processes from writing to the folder's files."""
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with claimed(self.path, _PATIENCE_SECONDS) as mine:
            if not mine:
                raise ValueError(
                    f"out: another process has held {self.path} for {_PATIENCE_SECONDS:.0f} s"
                )
            yield


def merge(into: Folder, sources: Sequence[str | Path]) -> dict[CellKey, Cell]:
    """Collect the finished cells of several folders. Of one cell that several have, the first counts.

    Args:
        into: the folder that is to hold them all; nothing is written yet.
        sources: folders of comparisons.

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
        found = Folder(source).cells()
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text: {error}") from error
