"""What a run will need later is asked for before it starts: packages, a folder it can write, space, whole steps."""

from __future__ import annotations

import importlib
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dynams.data.memory import told
from dynams.packages import needs
from dynams.selection.methods.in_batch import Filter
from dynams.training.config import RunConfig
from dynams.training.rundir import CHECKPOINTS, checkpoint_path
from dynams.training.step_sizes import check_planned_steps

if TYPE_CHECKING:
    from dynams.training.run import TrainingRun

_USED = {"matplotlib": "matplotlib.figure", "PIL": "PIL.Image", "rich": "rich.progress"}
# As the run ends there are the last checkpoint and the best; while the last is replaced, one more.
_SURELY, _AT_MOST = 2, 3


def check_needs(config: RunConfig, run_dir: Path | None) -> None:
    """Ask for what can be asked for before anything is loaded or started: `check_packages`, `check_folder`."""
    check_packages(config)
    check_folder(config, run_dir)


def check_built(run: TrainingRun, run_dir: Path | None) -> None:
    """Ask for what only the built run tells: steps that its network can take, and space, on the first process."""
    check_planned_steps(run)
    if run.fabric.is_global_zero:
        check_space(run, run_dir)


def check_packages(config: RunConfig) -> None:
    """Import what the progress display and the report will need.

    Raises:
        ImportError: a package is missing, or cannot be imported; names the setting that asks for it.
    """
    if config.progress:
        _import("run.progress", "rich", ", or run without: --run.progress false")
    if config.report:
        for package in ("PIL", "matplotlib"):  # the second needs the first
            _import("run.report", package, ", or run without: --run.report false")


def check_comparison_packages() -> None:
    """Import what the page of a comparison will need.

    Raises:
        ImportError: a package is missing, or cannot be imported.
    """
    _import("compare.html", "matplotlib")


def check_folder(config: RunConfig, run_dir: Path | None) -> None:
    """Ask, without writing anything, whether the run can write where it is to.

    Args:
        config: of the run.
        run_dir: its directory if it goes on; None: a new one is made in ``config.dir``.

    Raises:
        ValueError: it cannot; names the setting.
    """
    if run_dir is None:
        _check_writable("run.dir", Path(config.dir))
        return
    for folder in (run_dir, run_dir / CHECKPOINTS):
        _check_writable("resume", folder)


def check_space(run: TrainingRun, run_dir: Path | None) -> None:
    """Refuse a run whose checkpoints surely do not fit, and warn of one whose may not.

    Args:
        run: the run, built, and restored if it goes on.
        run_dir: its directory if it goes on; None: a new one is to be made.

    Raises:
        ValueError: there is less space than they take, or files may not be as large.
    """
    name, folder = ("run.dir", Path(run.config.run.dir)) if run_dir is None else ("resume", run_dir)
    each = checkpoint_bytes(run)
    limit = _largest_file()
    if limit is not None and each > limit:
        raise ValueError(
            f"{name}: got a limit of {told(limit)} for files (ulimit -f), want at least {told(each)} "
            "for a checkpoint"
        )
    free = _free(_existing(folder))
    if free is None:
        return
    # Of a run that goes on some of this is there already: what it replaces is freed after the last write.
    going_on = run_dir is not None and checkpoint_path(run_dir).is_file()
    surely, at_most = (1, 2) if going_on else (_SURELY, _AT_MOST)
    if free < surely * each:
        raise ValueError(
            f"{name}: got {told(free)} of free space in {folder}, want at least {told(surely * each)} for "
            f"checkpoints of {told(each)} each"
        )
    if free < at_most * each:
        warnings.warn(
            f"{name}: {told(free)} of free space in {folder} may not be enough: checkpoints of "
            f"{told(each)} each take up to {told(at_most * each)}",
            stacklevel=4,
        )


def checkpoint_bytes(run: TrainingRun) -> int:
    """Estimate the size of a checkpoint of ``run``: of its tensors, with what the optimiser will have."""
    optimizer = run.optimizer.state_dict()["state"]
    momentum = 0
    if not optimizer and run.config.optim.momentum:
        groups = run.optimizer.param_groups
        momentum = sum(each.nbytes for group in groups for each in group["params"])
    visits = {} if run.visits is None else run.visits.state_dict()
    slow = {} if run.lookahead is None else run.lookahead.state_dict()
    held = (run.network.state_dict(), optimizer, run.sampler.state_dict(), run.given, visits, slow)
    choices = 0  # one byte each, once a filter has been trained
    if isinstance(run.selector.batch, Filter):
        choices = run.sampler.timetable.selected_epochs * len(run.batches)
    return momentum + choices + _bytes(held)


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return sum(map(_bytes, value))
    return 0


def _import(setting: str, package: str, otherwise: str = "") -> None:
    try:
        with needs(package):
            importlib.import_module(_USED[package])
    except Exception as error:  # a package that does not fit another may fail with anything
        why = str(error) if isinstance(error, ImportError) else f"{package}: {error!r}"
        raise ImportError(f"{setting}: {why}{otherwise}", name=package) from error


def _check_writable(name: str, folder: Path) -> None:
    place = _existing(folder)
    if not place.is_dir():
        raise ValueError(f"{name}: got {folder}, want a directory: {place} is none")
    if os.access(place, os.W_OK | os.X_OK):
        return
    why = "Permission denied"
    if hasattr(os, "statvfs") and os.statvfs(place).f_flag & os.ST_RDONLY:
        why = "Read-only file system"
    raise ValueError(f"{name}: cannot write in {place}: {why}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    return next((each for each in (folder, *folder.parents) if os.path.lexists(each)), Path())


def _free(folder: Path) -> int | None:
    """Bytes that can be written there; None where the file system does not say."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def _largest_file() -> int | None:
    """The largest size that a file may have; None: any."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit
