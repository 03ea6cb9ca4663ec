"""The directory of a run: `NAME-TIME/` with config.yaml, log.jsonl, checkpoints and the report."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from pathlib import Path

import yaml

from dynams.paths import shell_word
from dynams.report.files import replace_file
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
_LONGEST_NAME = 220  # bytes; the time and a number are added, and most file systems take 255


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


def check_run_dir(config: TrainConfig, resume: Path | None = None) -> None:
    """Refuse early where nothing can be written: once the data are loaded, minutes may have passed.

    Args:
        config: the whole run.
        resume: the directory of a run that goes on.

    Raises:
        ValueError: a new directory cannot be made, or the earlier one cannot be written.
    """
    if resume is not None:
        if resume.is_dir() and not os.access(resume, os.W_OK | os.X_OK):
            raise ResumeError(f"resume: {resume} cannot be written")
        return
    name = config.run.name or ""
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise ValueError(f"run.name: got {name!r}, want at most {_LONGEST_NAME} bytes")
    there = os.path.abspath(config.run.dir)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    reason = None
    if not os.path.isdir(there):
        reason = f"{there} is not a directory"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f"{there} cannot be written"
    if reason is not None:
        raise ValueError(f"run.dir: cannot make a directory in {config.run.dir}: {reason}")


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


def resume_command(run_dir: str | Path) -> str:
    """The command that resumes a run, to be typed where this process was started, in the way it was."""
    size = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        program = f"torchrun --nproc-per-node={size} -m dynams.cli"
        if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
            program = f"torchrun [options of before] --nproc-per-node={size} -m dynams.cli"
    elif shutil.which("dynams") is not None:
        program = "dynams"
    else:
        program = f"{shell_word(sys.executable)} -m dynams.cli"
    return f"{program} train --resume {shell_word(run_dir)}"


def config_path(run_dir: str | Path) -> Path:
    """Find the configuration file of an existing run, named by its directory or a checkpoint in it.

    Raises:
        ResumeError: there is no run in ``run_dir``.
    """
    if Path(run_dir).suffix == ".pt":
        from dynams.training.checkpoint import run_and_checkpoint

        run_dir, _ = run_and_checkpoint(run_dir)
    path = Path(run_dir) / CONFIG_NAME
    if Path(run_dir).is_file():
        raise ResumeError(f"resume: got the file {run_dir}, want the directory of a run")
    if not Path(run_dir).is_dir():
        raise ResumeError(f"resume: no directory {run_dir}")
    if not path.is_file():
        raise ResumeError(f"resume: no run in {run_dir}, it has no {CONFIG_NAME}")
    return path
