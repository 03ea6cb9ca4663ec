"""What can be refused before anything is loaded or started."""

from __future__ import annotations

from pathlib import Path

from dynams.data import ImageData
from dynams.models import MODEL_NAMES
from dynams.training.choosing import build_choice
from dynams.training.config import TrainConfig


def check_early(config: TrainConfig, data: ImageData | None) -> None:
    """Refuse what can be refused before other processes are started: they would all say it.

    Args:
        config: the whole run.
        data: images to train on; None: what ``config.data`` names.

    Raises:
        ValueError: naming the setting.
    """
    if config.model.name not in MODEL_NAMES:
        raise ValueError(
            f"model.name: wanted one of {', '.join(MODEL_NAMES)}, got {config.model.name!r}"
        )
    build_choice(config)
    scores = config.selection.scores
    if scores is not None and not Path(scores).expanduser().is_file():
        raise ValueError(f"selection.scores: no file {scores}")
    path = config.data.path
    if data is None and config.data.name != "digits":
        if path is None:
            raise ValueError(f"data.path: {config.data.name} needs the directory that holds it")
        if not Path(path).expanduser().is_dir():
            raise ValueError(f"data.path: no directory {path}")
