"""Optimisation: SGD with Nesterov momentum, and a learning rate that depends on progress alone.

The learning rate is a function of the fraction of the run that is done, not of a count of steps,
because the number of steps an epoch has changes with the selection; and it keeps no state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dynams.training.config import OptimConfig


def learning_rate(config: OptimConfig, progress: float) -> float:
    """Compute the learning rate at ``progress`` in [0, 1], the fraction of the run done.

    It rises linearly from 0 to ``config.lr`` over the first ``config.warmup`` of the run, then
    follows half a cosine down to ``config.final_lr * config.lr``.
    """
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    decayed = (progress - config.warmup) / (1.0 - config.warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(decayed, 1.0)))
    return config.lr * (config.final_lr + (1.0 - config.final_lr) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_norm_bias: bool = False
) -> list[dict[str, Any]]:
    """Sort the trainable parameters: those that decay, then those that do not.

    Parameters with at most one dimension, the scales and shifts of normalisation layers and all
    biases, do not decay unless ``decay_norm_bias``. Empty groups are left out.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = [decay_norm_bias or parameter.ndim > 1 for parameter in trained]
    groups = [
        {
            "params": [p for p, decay in zip(trained, decays, strict=True) if decay],
            "weight_decay": weight_decay,
        },
        {
            "params": [p for p, decay in zip(trained, decays, strict=True) if not decay],
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """SGD as ``config`` says. The learning rate is set anew before every step."""
    groups = parameter_groups(model, config.weight_decay, decay_norm_bias=config.decay_norm_bias)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def loss_function(
    logits: Tensor, targets: Tensor, label_smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy in float32, natural units: sum of weight * loss over the samples, over their number.

    Args:
        logits: (B, C).
        targets: (B,) int64 labels, or (B, C) probabilities.
        label_smoothing: share of the target spread evenly over the classes.
        weights: (B,) of the samples' losses; None: all 1.
    """
    if weights is None:
        return nn.functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    losses = nn.functional.cross_entropy(
        logits.float(), targets, label_smoothing=label_smoothing, reduction="none"
    )
    return (losses * weights).mean()
