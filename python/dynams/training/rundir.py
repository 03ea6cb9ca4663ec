"""The directory of a run: `NAME-TIME/` with config.yaml, log.jsonl, checkpoints and the report."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from dynams.training.config import TrainConfig
from dynams.training.errors import ResumeError

CONFIG_NAME = "config.yaml"


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


def write_config(run_dir: Path, config: TrainConfig) -> None:
    """Write the whole resolved configuration, ready to be used as a configuration file."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=False)
    (run_dir / CONFIG_NAME).write_text(text, encoding="utf-8")


def config_path(run_dir: str | Path) -> Path:
    """Find the configuration file of an existing run.

    Raises:
        ResumeError: there is no run in ``run_dir``.
    """
    path = Path(run_dir) / CONFIG_NAME
    if not Path(run_dir).is_dir():
        raise ResumeError(f"resume: no directory {run_dir}")
    if not path.is_file():
        raise ResumeError(f"resume: no run in {run_dir}, it has no {CONFIG_NAME}")
    return path
