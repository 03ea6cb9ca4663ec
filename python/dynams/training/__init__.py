"""Training a slimmable network on the samples that DynaMS selects.

`train` runs a `TrainConfig` from the first epoch to the last, or from where an interrupted run
stopped. The names load on first use, so that reading a configuration does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams._lazy import lazy_names

if TYPE_CHECKING:
    from dynams.training.checkpoint import Checkpoint as Checkpoint
    from dynams.training.checkpoint import load_checkpoint as load_checkpoint
    from dynams.training.checkpoint import save_checkpoint as save_checkpoint
    from dynams.training.config import DataConfig as DataConfig
    from dynams.training.config import ModelConfig as ModelConfig
    from dynams.training.config import OptimConfig as OptimConfig
    from dynams.training.config import RunConfig as RunConfig
    from dynams.training.config import TrainConfig as TrainConfig
    from dynams.training.entry import train as train
    from dynams.training.errors import LostProcessError as LostProcessError
    from dynams.training.errors import NonFiniteLossError as NonFiniteLossError
    from dynams.training.errors import ReportError as ReportError
    from dynams.training.errors import ResumeError as ResumeError
    from dynams.training.errors import TrainingError as TrainingError
    from dynams.training.evaluation import evaluate as evaluate
    from dynams.training.interrupt import Interrupt as Interrupt
    from dynams.training.optim import build_optimizer as build_optimizer
    from dynams.training.optim import learning_rate as learning_rate
    from dynams.training.optim import parameter_groups as parameter_groups
    from dynams.training.scoring import score_signals as score_signals
    from dynams.training.selection_config import ProxyConfig as ProxyConfig
    from dynams.training.selection_config import SelectionConfig as SelectionConfig
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "checkpoint": "Checkpoint load_checkpoint save_checkpoint",
            "config": "DataConfig ModelConfig OptimConfig RunConfig TrainConfig",
            "errors": "LostProcessError NonFiniteLossError ReportError ResumeError TrainingError",
            "evaluation": "evaluate",
            "interrupt": "Interrupt",
            "entry": "train",
            "optim": "build_optimizer learning_rate parameter_groups",
            "scoring": "score_signals",
            "selection_config": "ProxyConfig SelectionConfig",
        },
    )
