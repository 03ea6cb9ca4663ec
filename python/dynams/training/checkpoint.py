"""Checkpoints that a crash cannot damage: written aside, flushed to the disk, then renamed.

`last.pt` is the newest state of a run and `best.pt` the state with the best test accuracy so far.
Both hold tensors and plain values only and are read with ``weights_only=True``: loading one runs
no code.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from dynams.training.errors import ResumeError

FORMAT = 2
CHECKPOINTS = "checkpoints"
LAST = "last.pt"
BEST = "best.pt"


@dataclass
class Checkpoint:
    """All that a run needs to go on exactly where it was.

    Attributes:
        config: the run's configuration, nested plain values.
        data: fingerprint of the data, see `dynams.training.batches.fingerprint`.
        epoch: the epoch that runs now or next, from 0.
        step: steps of that epoch already taken; 0 means that it has not begun.
        global_step: optimiser steps taken in the whole run.
        samples: training samples used in the whole run, over all processes.
        model: state of the network.
        optimizer: state of the optimiser.
        sampler: state of the selection.
        sums: sums of this epoch's losses, see `dynams.training.step.Sums`.
        cost: state of the `Clock`.
        total_seconds: wall-clock seconds so far.
        accuracy: last test accuracy at full width, None before the first.
        proxy_accuracy: last test accuracy at the proxy's width.
        best_accuracy: best test accuracy so far at full width.
        visits: what training steps left behind of the samples, see `dynams.training.visits.Visits`;
            empty where nothing needs it.
        given: scores that were read or computed before the first epoch, by name.
        batch_strategy: state of a strategy that chooses inside the steps; empty if it has none.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    epoch: int
    step: int
    global_step: int
    samples: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    sampler: dict[str, Any]
    sums: dict[str, Any]
    cost: dict[str, Any]
    total_seconds: float
    accuracy: float | None = None
    proxy_accuracy: float | None = None
    best_accuracy: float | None = None
    visits: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    batch_strategy: dict[str, Any] = field(default_factory=dict)
    format: int = field(default=FORMAT)


def checkpoint_path(run_dir: str | Path, name: str = LAST) -> Path:
    """Path of a run's checkpoint, `LAST` or `BEST`."""
    return Path(run_dir) / CHECKPOINTS / name


def save_checkpoint(run_dir: str | Path, checkpoint: Checkpoint, *, best: bool = False) -> Path:
    """Write the checkpoint as the run's last one, and as its best one too if ``best``.

    The file appears whole or not at all; until then the one of before stays.

    Returns:
        The path of the last checkpoint.
    """
    path = checkpoint_path(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    _write_atomically(path, lambda part: torch.save(values, part))
    if best:
        _write_atomically(path.with_name(BEST), lambda part: _link_or_copy(path, part))
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint on the CPU, running no code from it.

    Raises:
        ResumeError: the file is missing, damaged, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise ResumeError(f"no checkpoint at {path}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise ResumeError(f"{path}: damaged, or not a checkpoint of dynams") from error
    if not isinstance(values, dict) or "format" not in values:
        raise ResumeError(f"{path}: not a checkpoint of dynams")
    if values["format"] != FORMAT:
        raise ResumeError(f"{path}: got checkpoint format {values['format']!r}, want {FORMAT}")
    names = {item.name for item in fields(Checkpoint)}
    if set(values) != names:
        differing = ", ".join(sorted(map(str, set(values) ^ names)))
        raise ResumeError(f"{path}: not a whole checkpoint of dynams; differing: {differing}")
    return Checkpoint(**values)


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        write(part)
        _flush(part)
        os.replace(part, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
