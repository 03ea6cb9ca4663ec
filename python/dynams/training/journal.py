"""What a run tells while it goes on: its directory, the log, the progress display, the report at the end."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import torch

import dynams_kernels as dk
from dynams.data.errors import printable
from dynams.files import StorageError, claimed, remove_leftovers
from dynams.report import EpochRecord, Summary
from dynams.report.html import write_report
from dynams.report.progress import TrainingProgress
from dynams.report.runlog import LOG_NAME, RunLog
from dynams.selection import Refresh
from dynams.training.checkpoint import remove_unfinished
from dynams.training.earlier import Earlier
from dynams.training.environment import environment
from dynams.training.errors import LostProcessError, ReportError, ResumeError
from dynams.training.records import refresh_record, sample_pictures
from dynams.training.run import TrainingRun
from dynams.training.rundir import (
    checkpoint_path,
    is_begun,
    make_fixed_run_dir,
    make_run_dir,
    resume_command,
    write_config,
)

_LOG = logging.getLogger(__name__)
# Seconds for which what a killed run has started may keep its directory.
_PATIENCE = 15.0


class Journal:
    """Tells of a run; to be entered. Log, display and report are the first process' alone.

    Args:
        run: the run, restored if it goes on. All processes make their journals together.
        run_dir: its directory; None makes a new one, the same for every process.
        changes: what a run that goes on does otherwise than it began.
        earlier: what it goes on from, if it does; else it begins in ``run_dir``, if that is given.

    Attributes:
        run_dir: the directory.
        progress: the display.
    """

    def __init__(
        self,
        run: TrainingRun,
        run_dir: str | Path | None = None,
        changes: Sequence[str] = (),
        *,
        earlier: Earlier | None = None,
    ) -> None:
        self._run = run
        self._changes = changes
        self._first = run.fabric.is_global_zero
        self._earlier = earlier
        self._fixed = run_dir is not None and earlier is None
        self.run_dir = Path(run_dir) if run_dir is not None else _new_run_dir(run)
        self.progress = TrainingProgress(
            run.config.optim.epochs,
            enabled=self._first and run.config.run.progress,
            first_epoch=run.position.epoch,
            epoch_samples=run.sampler.timetable.planned_sizes(run.sampler.num_samples),
        )
        self._log: RunLog | None = None
        self._open = ExitStack()

    def __enter__(self) -> Journal:
        if self._first:
            if self._fixed:
                make_fixed_run_dir(self.run_dir)
            if not self._open.enter_context(claimed(self.run_dir, _PATIENCE)):
                raise ResumeError(
                    f"resume: got {self.run_dir}, want a run that is not running: another process has it"
                )
            # Whoever had it while this process was loading, or waiting, may have gone on with it, or ended it.
            begun = self._fixed and is_begun(self.run_dir)
            if begun or (self._earlier is not None and not self._earlier.is_current):
                raise ResumeError(
                    f"resume: got {self.run_dir}, want a run that is not running: another process has gone on "
                    "with it meanwhile; the same command goes on from there"
                )
            if self._fixed:
                write_config(self.run_dir, self._run.config)
                (self.run_dir / LOG_NAME).unlink(
                    missing_ok=True
                )  # of a run that had saved nothing yet
            remove_leftovers(self.run_dir)
            remove_unfinished(self.run_dir)
            self._log = self._open.enter_context(
                _open_log(self._run, self.run_dir, self._earlier is not None)
            )
            self._tell_changes(self._log)
        self._open.enter_context(self.progress)
        self.progress.note(_headline(self._run, self.run_dir), wrap=True)
        if self._first:
            shown = self._run.config.run.progress
            dk.tell_fallback(self._run.fabric.device, self.progress.note if shown else None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def refresh(self, refresh: Refresh | None) -> None:
        """Tell of a new selection; None is none."""
        if refresh is not None and self._log is not None:
            self._log.refresh(refresh_record(refresh, self._run.batches))

    def epoch(self, record: EpochRecord) -> None:
        """Tell of a finished epoch."""
        if self._log is not None:
            self._log.epoch(record)
        self.progress.finish_epoch(record)

    def end(self, summary: Summary) -> None:
        """Tell how the run ended.

        Raises:
            ReportError: it cannot be written. Nothing of the run is lost.
        """
        if self._log is None:
            return
        try:
            self._log.end(summary)
        except StorageError as error:
            raise self._unreported("the end of its log", error, summary) from error

    def fail(self, error: Exception, summary: Callable[..., Summary]) -> None:
        """Tell, in log and report, that an error ended the run; of a lost process in the log, as time is short.

        Args:
            error: which one; it is going to be raised. One of storage gets the command that goes on.
            summary: makes the summary, given ``failure``.
        """
        if isinstance(error, StorageError) and checkpoint_path(self.run_dir).is_file():
            error.afterwards = f"then go on with: {resume_command(self.run_dir)}"
        try:
            end = summary(failure=" ".join(str(error).split()) or type(error).__name__)
            self.end(end)
            if not isinstance(error, LostProcessError):
                self.report(end)
        except Exception as another:  # it must not take the place of the first
            if not isinstance(error, StorageError):
                warnings.warn(
                    f"the end of the run is not in its log or report: {another}", stacklevel=3
                )

    def _tell_changes(self, log: RunLog) -> None:
        run = self._run
        for change in self._changes:
            _LOG.warning("%s", change)
        if self._changes:
            write_config(self.run_dir, run.config)
            _start(log, run)
        if run.position.epoch == run.config.optim.epochs:
            _LOG.warning(
                "%s: all %d epochs are done; more of them: --optim.epochs",
                printable(str(self.run_dir)),
                run.position.epoch,
            )

    def report(self, summary: Summary) -> None:
        """Write the report, if one is wanted, once the journal is closed.

        Raises:
            ReportError: it cannot be written. Nothing of the run is lost.
        """
        if not self._first or not self._run.config.run.report:
            return
        try:
            self._report()
        except Exception as error:  # whatever it is, the run is done
            raise self._unreported("its report", error, summary) from error

    def _unreported(self, what: str, error: Exception, summary: Summary) -> ReportError:
        return ReportError(
            f"the run is saved, but not {what}: {str(error) or repr(error)}; afterwards "
            f"{resume_command(self.run_dir)} writes it",
            summary,
        )

    def _report(self) -> None:
        batches = self._run.batches
        totals = torch.bincount(batches.labels, minlength=len(batches.classes))
        write_report(
            self.run_dir,
            samples=sample_pictures(self._run.sampler.margins, batches),
            classes=batches.classes,
            class_totals=totals.tolist(),
        )


def _new_run_dir(run: TrainingRun) -> Path:
    made: Path | None = None
    if run.fabric.is_global_zero:
        made = make_run_dir(run.config, "own" if run.samples.given else run.config.data.name)
        try:
            write_config(made, run.config)
        except StorageError:
            with suppress(OSError):
                made.rmdir()
            raise
    return Path(run.fabric.broadcast(str(made)))


def _open_log(run: TrainingRun, run_dir: Path, goes_on: bool) -> RunLog:
    at, tensorboard = run.position, run.config.run.tensorboard
    if goes_on:
        log = RunLog.resume(run_dir, at.epoch, keep_refresh=at.step > 0, tensorboard=tensorboard)
        if log.started:
            return log
    else:
        log = RunLog(run_dir, tensorboard=tensorboard)
    _start(log, run)
    return log


def _start(log: RunLog, run: TrainingRun) -> None:
    told = {"model": _model_told(run), "data": _data_told(run)}
    log.start(run.config.to_dict(), told | environment(run.fabric.device, run.fabric.world_size))


def _headline(run: TrainingRun, run_dir: Path) -> str:
    at = run.position
    width = run.selector.proxy_width
    proxy = "" if width is None else f", proxy of width {width:g}"
    under_way = (at.epoch or at.step) and at.epoch < run.config.optim.epochs
    going_on = f", from epoch {at.epoch + 1}, step {at.step}" if under_way else ""
    return (
        f"{run_dir}: data: {_data_told(run)}, {len(run.batches):,} training and {len(run.test):,} test "
        f"images; model: {_model_told(run)}{proxy}; "
        f"{run.fabric.world_size} x {run.fabric.device.type}{going_on}"
    )


def _data_told(run: TrainingRun) -> str:
    return "given" if run.samples.given else run.config.data.name


def _model_told(run: TrainingRun) -> str:
    parameters = sum(parameter.numel() for parameter in run.network.parameters())
    if run.model is None:
        return f"{run.config.model.name}, {parameters:,} parameters"
    return f"given, {type(run.model).__name__}, {parameters:,} parameters"
