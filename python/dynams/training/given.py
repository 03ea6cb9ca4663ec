"""Scores from a file: one number for every training image."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_SETTING = "selection.scores"


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
