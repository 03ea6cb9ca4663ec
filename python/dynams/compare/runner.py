"""Running a plan's missing cells, one after the other, until all are done or the time is up.

Several processes may run cells of one folder: each takes a cell that no other has.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynams.compare.acceptance import (
    DifferingCellsError,
    check_same_images,
    data_named,
    differing,
)
from dynams.compare.cells import CellKey, Length, cell_config, cell_keys
from dynams.compare.clock import Deadline, Expected, expected, usable
from dynams.compare.options import digest, essential
from dynams.compare.plan import Plan
from dynams.compare.results import Cell, cell_of_run, machine_of
from dynams.compare.store import Begun, Folder
from dynams.files import StorageError
from dynams.training.config import DataConfig, RunConfig, TrainConfig

if TYPE_CHECKING:
    from dynams.data import ImageData
    from dynams.report import Summary

Say = Callable[[str], None]

# Options of the data that the trainer applies to what was loaded.
_TRAINING_ONLY = ("augment", "crop_padding", "cutout", "flip", "flips", "holdout", "pad")


@dataclass(frozen=True)
class Entry:
    """A cell of the queue.

    Attributes:
        key: which cell.
        config: what it trains; None while its number of epochs is not known.
        cell: its result; None if it is missing.
        begun: what is left of an unfinished run of it.
        expected: what its whole time will be; None if nothing is known.
    """

    key: CellKey
    config: TrainConfig | None
    cell: Cell | None = None
    begun: Begun | None = None
    expected: Expected | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds that it still is expected to need; None if nothing is known."""
        if self.expected is None:
            return None
        done = 0.0
        if self.begun is not None:
            done = self.begun.epochs / self.begun.total_epochs
        return self.expected.seconds * (1.0 - done)


class Queue:
    """The cells of a plan in a folder.

    Args:
        plan: what to compare.
        folder: where the cells are kept.
        kept: the plan that is written beside them; None: ``plan``.
        recompute: compute cells anew whose options are not the plan's, instead of refusing them.
        say: told what goes on, a line at a time.

    Raises:
        DifferingCellsError: there are such cells; the message names the first and the difference.
        ValueError: a cell's file is damaged, or cells were trained on different images.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Folder,
        *,
        kept: Plan | None = None,
        recompute: bool = False,
        say: Say = lambda text: None,
    ) -> None:
        self.plan = plan
        self.kept = plan if kept is None else kept
        self.folder = folder
        self.say = say
        self.keys = cell_keys(plan)
        self.cells: dict[CellKey, Cell] = {}
        self.strangers = 0
        self._refused: dict[CellKey, Cell] = {}  # to be computed anew
        self._rehearsed: set[tuple[str, float | None]] = set()
        self._data: tuple[tuple[DataConfig, str], ImageData, dict[str, Any]] | None = None
        self._environments: dict[tuple[str, int | None], dict[str, Any]] = {}
        self._accept(folder.cells(), recompute)

    def add(self, cells: Mapping[CellKey, Cell]) -> int:
        """Take over finished cells of other folders, and write them to this one.

        Returns:
            How many belong to the plan.

        Raises:
            DifferingCellsError: one of them does not belong to the plan as it is.
        """
        known = set(self.cells)
        self._accept({**cells, **self.cells}, recompute=False, hint="merge cells of one plan only")
        new = [cell for key, cell in self.cells.items() if key not in known]
        if new:
            self.folder.save(*new)
        return len(new)

    @property
    def missing(self) -> list[CellKey]:
        """Cells without a result, in order."""
        return [key for key in self.keys if key not in self.cells]

    def entries(self) -> list[Entry]:
        """List all cells in order, with what is known of them."""
        return [self._entry(key) for key in self.keys]

    def status(self) -> str:
        """Say how far it is, in a line."""
        text = f"{len(self.cells)} of {len(self.keys)} cells done"
        failed = sum(cell.failure is not None for cell in self.cells.values())
        if failed:
            text += f" ({failed} of them failed)"
        under_way = [
            f"{key} at {begun.epochs} of {begun.total_epochs} epochs"
            for key in self.missing
            if (begun := self.folder.begun(key)) is not None
        ]
        return "; ".join([text, *(f"under way: {each}" for each in under_way)])

    def run(self, limit_seconds: float | None = None, *, interrupt: Deadline | None = None) -> bool:
        """Run missing cells until none is left, the limit is near, or a signal asks to stop.

        A cell that cannot finish within what is left of the limit is not begun, unless nothing is
        known of its time, or it needs longer than a whole limit: then it is done in pieces. Cells that
        another process has are left to it; those that wait for them are waited for.

        Args:
            limit_seconds: seconds from now after which all must be saved; None for no limit.
            interrupt: asks to stop; None listens for signals.

        Returns:
            False if a signal, or a caller, asked to stop.

        Raises:
            ValueError: the data, the network or the device cannot be had as configured.
        """
        self._check_recipes()
        whole = None if limit_seconds is None else usable(limit_seconds)
        stop = interrupt or Deadline(whole)
        try:
            with stop:
                self.folder.save_plan(self.kept)
                for key in self.cells:  # a kill between the two leaves both the result and the run
                    if self.folder.work_dir(key).exists():
                        with self.folder.taken(key) as mine:
                            if mine:
                                self.folder.forget(key)
                while not stop.requested and self._take_one(stop, whole):
                    pass
        except StorageError as error:
            error.afterwards = "then the same command goes on"
            raise
        for entry in self.entries():
            if entry.cell is None and entry.config is None and not stop.requested:
                self.say(
                    f"{entry.key}: not run, for want of a finished cell whose seconds it needs"
                )
        return not stop.asked

    def _take_one(self, stop: Deadline, whole: float | None) -> bool:
        """Run a cell that no other process has, or wait a little for those that others have.

        Returns:
            Whether there may be more to do.
        """
        self._accept({**self._finished(), **self.cells}, recompute=False)
        others = False
        for entry in self._ready(stop.seconds_left, whole):
            with self.folder.taken(entry.key) as mine:
                if not mine:
                    others = True
                    continue
                # Another may have gone on with it, or finished it, in between.
                if entry.key not in self._finished():
                    self._run_cell(self._entry(entry.key), stop)
                return True
        if others and any(entry.config is None for entry in self.entries()):
            time.sleep(min(1.0, max(0.0, stop.seconds_left)))
            return True
        return False

    def _finished(self) -> dict[CellKey, Cell]:
        """The folder's cells, but for those to be computed anew."""
        cells = self.folder.cells()
        return {key: cell for key, cell in cells.items() if cell != self._refused.get(key)}

    def _accept(
        self,
        cells: Mapping[CellKey, Cell],
        recompute: bool,
        hint: str = "take another --out, or --recompute",
    ) -> None:
        """Sort out which finished cells are the plan's. Cells of other plans are left alone."""
        keys = set(self.keys)
        self.strangers = sum(key not in keys for key in cells)
        # First those that wait for no other: they tell how long the others are.
        for matched in (False, True):
            for key in self.keys:
                recipe = self.plan.recipes[key.recipe]
                if key not in cells or (recipe.match is not None) != matched:
                    continue
                found = differing(self.plan, cells, key)
                if not found:
                    self.cells[key] = cells[key]
                elif recompute:
                    self.say(f"{key}: recomputed, because {'; '.join(found)}")
                    self._refused[key] = cells[key]
                else:
                    raise DifferingCellsError(
                        f"{key}: computed with other options than the plan's: "
                        f"{'; '.join(found)}; {hint}"
                    )
        check_same_images(self.cells)

    def _check_recipes(self) -> None:
        """Refuse what no cell could be trained with, before anything is written."""
        for recipe in self.plan.recipes.values():
            for budget in self.plan.budgets_of(recipe):
                self._check_config(recipe.name, budget)

    def _check_config(self, name: str, budget: float | None) -> None:
        from dynams.training.resolve import check_early

        config = self.plan.config(self.plan.recipes[name], budget, self.plan.seeds[0])
        try:
            check_early(config, None)
        except ValueError as error:
            raise ValueError(f"recipe {name}: {error}") from error

    def _known(self, recipe: str, budget: float | None) -> Length:
        """What is known of the length of a recipe's cells."""
        pilots = self.plan.pilots
        kin = [cell for cell in self.cells.values() if cell.key.recipe == recipe]
        kin = [cell for cell in kin if cell.key.budget == budget]
        epochs = next((c.options["optim.epochs"] for c in kin if c.key.seed not in pilots), None)
        for key in self.keys:
            same = (key.recipe, key.budget) == (recipe, budget) and key.seed not in pilots
            if epochs is None and same:
                begun = self.folder.begun(key)
                epochs = begun.total_epochs if begun is not None else None
        here = machine_of(self._here())
        kin = [c for c in kin if c.machine == here and (not pilots or c.key.seed in pilots)]
        costs = [cell.cost for cell in kin if cell.failure is None]
        if not costs or len(kin) < len(pilots):
            return Length(epochs)
        # What else a machine does only adds to a pilot's seconds.
        return Length(epochs, min(costs) if pilots else sum(costs) / len(costs))

    def _entry(self, key: CellKey) -> Entry:
        config = cell_config(self.plan, key, self._known)
        cell = self.cells.get(key)
        if cell is not None or config is None:
            return Entry(key, config, cell)
        begun = self.folder.begun(key)
        if begun is not None and begun.digest != digest(essential(config)):
            begun = None
        machine = machine_of(self._here())
        return Entry(key, config, None, begun, expected(key, config, self.cells.values(), machine))

    def _ready(self, seconds_left: float, whole: float | None) -> Iterator[Entry]:
        """Cells that may be run now: those under way, then in order those that can finish."""
        ready = [entry for key in self.missing if (entry := self._entry(key)).config is not None]
        ready.sort(key=lambda entry: entry.begun is None)
        for entry in ready:
            needed = entry.seconds_left
            if whole is None or needed is None or needed <= seconds_left or needed > whole:
                yield entry

    def _run_cell(self, entry: Entry, stop: Deadline) -> None:
        from dynams.compare.rehearsal import rehearse
        from dynams.training.errors import NonFiniteLossError, ReportError, ResumeError

        key, config = entry.key, entry.config
        assert config is not None
        data, data_print = self._images(config)
        if self.plan.rehearsal and (key.recipe, key.budget) not in self._rehearsed:
            self._rehearsed.add((key.recipe, key.budget))
            rehearse(config, data, self.plan.rehearsal, stop)
            if stop.requested:
                return
        begun = entry.begun
        if begun is None:
            self.folder.forget(key)
        run = dataclasses.replace(config.run, name=key.stem, dir=str(self.folder.work_dir(key)))
        config = dataclasses.replace(config, run=run)
        self.say(self._headline(entry))
        begun = self.folder.begin(key, config, self._here(config.run), begun)
        failure = None
        try:
            summary = self._train(key, config, data, begun, stop)
        except ResumeError as error:
            if begun.run_dir is None:
                raise
            self.say(f"{key}: begun anew, because {error}")
            self.folder.forget(key)
            return  # the queue comes back to it
        except ReportError as error:
            self.say(f"{key}: {error}")
            summary = error.summary
        except NonFiniteLossError as error:
            failure = str(error).partition(":")[0]
        if failure is None and not summary.completed:
            return
        cell = self._collect(key, config, begun, data_print, failure)
        self.folder.save(cell)
        self.cells[key] = cell
        outcome = failure or f"{100 * cell.accuracy:.2f} %, {cell.cost:.1f} s"
        self.say(f"{key}: {outcome}; {len(self.cells)} of {len(self.keys)} cells done")

    def _train(
        self, key: CellKey, config: TrainConfig, data: ImageData, begun: Begun, stop: Deadline
    ) -> Summary:
        from dynams.training.entry import train
        from dynams.training.errors import ResumeError
        from dynams.training.rundir import BEST, checkpoint_path

        try:
            return train(config, data, resume=begun.run_dir, interrupt=stop)
        except ResumeError as error:
            best = None if begun.run_dir is None else checkpoint_path(begun.run_dir, BEST)
            if best is None or not best.is_file():
                raise
            self.say(f"{key}: from its best checkpoint, because {error}")
            return train(config, data, resume=best, interrupt=stop)

    def _collect(
        self,
        key: CellKey,
        config: TrainConfig,
        begun: Begun,
        data: Mapping[str, Any],
        failure: str | None,
    ) -> Cell:
        from dynams.report.runlog import read_run
        from dynams.training.checkpoint import load_checkpoint
        from dynams.training.rundir import checkpoint_path

        run_dir = self.folder.run_dir(key)
        samples: Mapping[str, int] = {}
        if run_dir is not None:
            samples = load_checkpoint(checkpoint_path(run_dir)).cost["samples"]
        else:  # it failed before the first checkpoint
            run_dir = next(path for path in self.folder.work_dir(key).iterdir() if path.is_dir())
        return cell_of_run(
            key,
            config,
            read_run(run_dir),
            environments=begun.environments,
            pieces=begun.pieces,
            data=data,
            samples_by_purpose=samples,
            failure=failure,
        )

    def _headline(self, entry: Entry) -> str:
        assert entry.config is not None
        text = f"{entry.key}: {entry.config.optim.epochs} epochs"
        if entry.begun is not None:
            text += f", from epoch {entry.begun.epochs + 1}"
        if entry.seconds_left is not None and entry.expected is not None:
            text += f", about {entry.seconds_left:.0f} s (from {entry.expected.basis})"
        return text

    def _here(self, run: RunConfig | None = None) -> dict[str, Any]:
        """Describe this environment as a run would have it; None: one of the reference."""
        from dynams.compare.environment import here

        if run is None:
            run = self.plan.config(self.plan.recipes[self.plan.reference], None, 0).run
        asked = (run.accelerator, run.threads)
        if asked not in self._environments:
            self._environments[asked] = here(run)
        return self._environments[asked]

    def _images(self, config: TrainConfig) -> tuple[ImageData, dict[str, Any]]:
        """Load the images once for all cells that use the same, and their fingerprint."""
        from dynams.compare.environment import device_of
        from dynams.training.batches import fingerprint
        from dynams.training.resolve import find_images

        wanted, device = config.data, device_of(config.run)
        # Of what only shows in training, nothing is loaded differently.
        plain = DataConfig()
        same = {name: getattr(plain, name) for name in _TRAINING_ONLY}
        source = (dataclasses.replace(wanted, **same), str(device))
        if self._data is None or self._data[0] != source:
            self._data = None  # the old images go before the new ones come
            images = find_images(wanted, device).load()
            named, print_ = data_named(essential(config)), fingerprint(images)
            for cell in self.cells.values():
                if cell.data and data_named(cell.options) == named and cell.data != print_:
                    raise DifferingCellsError(
                        f"data.path: {wanted.path} holds other images than {cell.key} was trained on"
                    )
            self._data = (source, images, print_)
        return self._data[1:]
