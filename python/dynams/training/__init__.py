"""Training a slimmable network on the samples that DynaMS selects.

`train` runs a `TrainConfig` from the first epoch to the last, or from where an interrupted run
stopped. The names load on first use, so that reading a configuration does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from dynams.training.config import (
        DataConfig,
        ModelConfig,
        OptimConfig,
        ProxyConfig,
        RunConfig,
        SelectionConfig,
        TrainConfig,
    )
    from dynams.training.cost import PURPOSES, Cost
    from dynams.training.errors import NonFiniteLossError, ResumeError, TrainingError
    from dynams.training.evaluation import evaluate
    from dynams.training.interrupt import Interrupt
    from dynams.training.loop import train
    from dynams.training.optim import build_optimizer, learning_rate, parameter_groups
    from dynams.training.scoring import score_candidates, score_signals

__all__ = [
    "PURPOSES",
    "Checkpoint",
    "Cost",
    "DataConfig",
    "Interrupt",
    "ModelConfig",
    "NonFiniteLossError",
    "OptimConfig",
    "ProxyConfig",
    "ResumeError",
    "RunConfig",
    "SelectionConfig",
    "TrainConfig",
    "TrainingError",
    "build_optimizer",
    "evaluate",
    "learning_rate",
    "load_checkpoint",
    "parameter_groups",
    "save_checkpoint",
    "score_candidates",
    "score_signals",
    "train",
]

_MODULES = {
    "checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "config": (
        "DataConfig",
        "ModelConfig",
        "OptimConfig",
        "ProxyConfig",
        "RunConfig",
        "SelectionConfig",
        "TrainConfig",
    ),
    "cost": ("PURPOSES", "Cost"),
    "errors": ("NonFiniteLossError", "ResumeError", "TrainingError"),
    "evaluation": ("evaluate",),
    "interrupt": ("Interrupt",),
    "loop": ("train",),
    "optim": ("build_optimizer", "learning_rate", "parameter_groups"),
    "scoring": ("score_candidates", "score_signals"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
