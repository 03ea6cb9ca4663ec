"""The directory of a run: `NAME-TIME/` with config.yaml, log.jsonl, checkpoints and the report."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from pathlib import Path

import yaml

from dynams.files import remove_leftovers, replace_file
from dynams.paths import shell_word, told_path
from dynams.training.config import TrainConfig
from dynams.training.errors import ResumeError
from dynams.training.moved_settings import brought_up_to_date
from dynams.training.options import (
    Options,
    read_options,
    text_names,
    train_options,
    with_absolute_paths,
)
from dynams.yaml_file import read_yaml

CONFIG_NAME = "config.yaml"
CHECKPOINTS = "checkpoints"
# In place of a run to resume: the one that is always in the same directory, if it was begun.
AUTO = "auto"
LAST = "last.pt"
BEST = "best.pt"


def make_run_dir(config: TrainConfig, data: str) -> Path:
    """Make a new directory for the run below ``run.dir``; never one that exists.

    Args:
        config: the whole run.
        data: what its data are called: the name of a run without one.

    Raises:
        ValueError: the directory cannot be made.
    """
    name = config.run.name or data
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    parent = Path(config.run.dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise ValueError(
            f"run.dir: cannot make a directory in {parent}: {error.strerror}"
        ) from error
    raise ValueError(f"run.dir: {parent} holds too many runs named {stem}")


def fixed_run_dir(config: TrainConfig) -> Path:
    """The directory of a run that is resumed by ``auto``: ``run.dir``/``run.name``, without a time.

    Raises:
        ResumeError: the run has no name.
    """
    if config.run.name is None:
        raise ResumeError("resume: got auto, want run.name with it: the run is in run.dir/run.name")
    return told_path(config.run.dir) / config.run.name


def is_begun(run_dir: Path) -> bool:
    """Whether there is something to resume in the directory of a run."""
    return any(checkpoint_path(run_dir, name).is_file() for name in (LAST, BEST))


def make_fixed_run_dir(run_dir: Path) -> None:
    """Make the directory ``run_dir``, or take one of a run that has saved nothing yet.

    Raises:
        ValueError: it cannot be made, or holds something else.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run_dir)
        found = sorted(entry.name for entry in run_dir.iterdir())
    except OSError as error:
        raise ValueError(f"run.dir: cannot make {run_dir}: {error.strerror}") from error
    if found and CONFIG_NAME not in found:
        raise ValueError(
            f"run.name: got {run_dir.name}, want another name: {run_dir} holds {found[0]} and no run"
        )


def write_config(run_dir: Path, config: TrainConfig) -> None:
    """Write the whole resolved configuration, ready to be used as a configuration file from anywhere.

    Raises:
        StorageError: it cannot be written.
    """
    run = dataclasses.replace(config.run, dir=str(run_dir.parent))
    text = config_text(with_absolute_paths(dataclasses.replace(config, run=run)))
    replace_file(run_dir / CONFIG_NAME, text.encode())


def config_text(config: TrainConfig) -> str:
    """Write a configuration as YAML, in ASCII: any path survives it."""
    return str(yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=False))


def read_config(run_dir: str | Path) -> Options:
    """Read the options of an existing run, of an earlier version too.

    Data that moved together with the run are found where they are now.

    Raises:
        ResumeError: there is no run in ``run_dir``.
        TypeError, ValueError: its configuration cannot be read.
    """
    path = config_path(run_dir)
    values = read_yaml(path, str(path), text_names(train_options()))
    if isinstance(values, dict):
        values = {
            name: brought_up_to_date(name, section) if isinstance(section, dict) else section
            for name, section in values.items()
        }
    options = read_options(values, str(path))
    was, now = str(options.get("run.dir", "")), os.path.abspath(path.parent.parent)
    for name in ("data.path", "data.cache"):
        told = str(options.get(name) or "")
        if os.path.isabs(was) and os.path.isabs(told) and not os.path.exists(told):
            beside = os.path.normpath(os.path.join(now, os.path.relpath(told, was)))
            if os.path.exists(beside):
                options[name] = beside
    return options


def config_path(run_dir: str | Path) -> Path:
    """Find the configuration file of an existing run, named by its directory or a checkpoint in it.

    Raises:
        ResumeError: there is no run in ``run_dir``.
    """
    run_dir, _ = run_and_checkpoint(run_dir)
    path = run_dir / CONFIG_NAME
    if run_dir.is_file():
        raise ResumeError(f"resume: got the file {run_dir}, want the directory of a run")
    if not run_dir.is_dir():
        raise ResumeError(f"resume: no directory {run_dir}")
    if not path.is_file():
        raise ResumeError(f"resume: no run in {run_dir}, it has no {CONFIG_NAME}")
    return path


def checkpoint_path(run_dir: str | Path, name: str = LAST) -> Path:
    """Path of a run's checkpoint, `LAST` or `BEST`."""
    return Path(run_dir) / CHECKPOINTS / name


def run_and_checkpoint(resume: str | Path) -> tuple[Path, Path]:
    """Find the run to resume and the checkpoint to resume it from.

    Args:
        resume: a run's directory, whose last checkpoint is meant, or a checkpoint in one.

    Raises:
        ResumeError: a file is no checkpoint in the directory of a run.
    """
    path = told_path(resume)
    if path.is_dir() or path.suffix != ".pt":
        return path, checkpoint_path(path)
    if path.parent.name != CHECKPOINTS and path.resolve().parent.name == CHECKPOINTS:
        path = path.resolve()  # typed inside its folder, or a link
    if path.parent.name != CHECKPOINTS:
        raise ResumeError(
            f"resume: got {resume}, want the directory of a run, or a checkpoint in its {CHECKPOINTS}/"
        )
    return path.parent.parent, path


def resume_command(resume: str | Path) -> str:
    """The command that resumes a run, to be typed where this process was started, in the way it was.

    Args:
        resume: the run's directory, or one of its checkpoints.
    """
    size = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        program = f"torchrun --nproc-per-node={size} -m dynams.cli"
        if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
            program = f"torchrun [options of before] --nproc-per-node={size} -m dynams.cli"
    elif shutil.which("dynams") is not None:
        program = "dynams"
    else:
        program = f"{shell_word(sys.executable)} -m dynams.cli"
    return f"{program} train --resume {shell_word(resume)}"
