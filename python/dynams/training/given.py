"""Scores from a file: one number for every training image, read when a run begins."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynams.training.checkpoint import Checkpoint
from dynams.training.errors import ResumeError
from dynams.training.run import TrainingRun

_SETTING = "selection.scores"


def read_given(run: TrainingRun) -> None:
    """Read the scores that the configuration names a file for.

    Raises:
        ValueError: the file does not hold one number for each training image.
    """
    path, name = run.config.selection.scores, run.selector.given
    if path is not None and name is not None:
        run.given[name] = _read_kept(run, path).to(run.fabric.device)


def check_given(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Check that the file of scores holds what the run began with; it may be elsewhere now, or gone.

    Raises:
        ResumeError: it holds others.
    """
    path, name = run.config.selection.scores, run.selector.given
    if path is None or name not in checkpoint.given or not Path(path).exists():
        return
    was = checkpoint.given[name].cpu()
    if not torch.allclose(_read_kept(run, path), was, rtol=0.0, atol=0.0, equal_nan=True):
        raise ResumeError(f"{_SETTING}: got others in {path} than the run began with")


def read_scores(path: str | Path, count: int) -> Tensor:
    """Read ``count`` scores from a .npy file, or a .pt file that holds one tensor; no code is run.

    Returns:
        (count,) float32 on the CPU.

    Raises:
        ValueError: the file is missing, damaged, of another kind, or holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{_SETTING}: no file {path}")
    try:
        if path.suffix == ".npy":
            values = torch.from_numpy(np.load(path, allow_pickle=False))
        elif path.suffix == ".pt":
            values = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise ValueError(f"{_SETTING}: got {path.name}, want a .npy or .pt file")
    except (RuntimeError, EOFError, OSError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{_SETTING}: {path} is damaged or holds no tensor") from error
    except ValueError as error:
        text = str(error)
        if text.startswith(_SETTING):
            raise
        raise ValueError(f"{_SETTING}: {path} holds no plain numbers: {text}") from error
    if not isinstance(values, Tensor) or values.is_complex() or values.shape != (count,):
        came = type(values).__name__
        if isinstance(values, Tensor):
            came = f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(
            f"{_SETTING}: got {came} in {path}, want {count} numbers, one for each training image"
        )
    return values.to(torch.float32)


def _read_kept(run: TrainingRun, path: str) -> Tensor:
    """The scores of those images that are not held out."""
    count = len(run.batches) + (0 if run.held_out is None else len(run.held_out))
    scores, rows = read_scores(path, count), run.samples.rows
    return scores if rows is None else scores[rows]
