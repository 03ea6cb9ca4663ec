"""Optimisation: SGD with Nesterov momentum, and a learning rate that depends on progress alone.

The learning rate is a function of the fraction of the run that is done, not of a count of steps,
because the number of steps an epoch has changes with the selection; and it keeps no state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dynams.training.config import OptimConfig

# Entry of a parameter group, kept in the optimiser's state: multiple of the learning rate.
LR_FACTOR = "lr_factor"

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def learning_rate(config: OptimConfig, progress: float) -> float:
    """Compute the learning rate at ``progress`` in [0, 1], the fraction of the run done.

    It rises linearly from ``config.initial_lr * config.lr`` to ``config.lr`` over the first
    ``config.warmup`` of the run, then follows half a cosine, or a line, down to
    ``config.final_lr * config.lr``.
    """
    if progress < config.warmup:
        initial = config.initial_lr * config.lr
        return initial + (config.lr - initial) * progress / config.warmup
    decayed = min((progress - config.warmup) / (1.0 - config.warmup), 1.0)
    if config.schedule == "linear":
        left = 1.0 - decayed
    else:
        left = 0.5 * (1.0 + math.cos(math.pi * decayed))
    return config.lr * (config.final_lr + (1.0 - config.final_lr) * left)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group: ``lr``, times the group's factor if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_FACTOR, 1.0)


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_norm_bias: bool = False, bias_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for `torch.optim.SGD`: those that decay first.

    Parameters with at most one dimension, the scales and shifts of normalisation layers and all biases, do not
    decay unless ``decay_norm_bias``. Normalisation layers learn at ``bias_lr`` times the rate, which
    `set_learning_rate` heeds. As a step shrinks a parameter by rate * decay, their decay is divided by it:
    they shrink as others do. Empty groups are left out.

    Where a rate r and a decay d are told for the sum of losses, those of their mean over B samples, which is
    ours, are r * B and d / B. cifar10-airbench (K. Jordan 2024, arXiv 2404.00498) tells both for 1024 samples
    and apart from each other, rate R = r * k and shrinking D = r * d * k / B with k = 1024 * (1 + 1 / (1 -
    momentum)): ours are R * B / k and D / R. So the rate grows with B, and the decay stays. Where only some of B
    samples are kept, B is the kept ones' number, but still all in D: its decay is D / R * all / kept.
    """
    norms = {
        parameter
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = decay_norm_bias or parameter.ndim > 1
            factor = bias_lr if parameter in norms else 1.0
            groups.setdefault((not decays, factor), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if kept else weight_decay / factor,
            LR_FACTOR: factor,
        }
        for (kept, factor), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """SGD as ``config`` says. The learning rate is set anew before every step."""
    groups = parameter_groups(
        model,
        config.weight_decay,
        decay_norm_bias=config.decay_norm_bias,
        bias_lr=config.bias_lr,
    )
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def first_layer(model: nn.Module, epochs: int | None) -> list[nn.Parameter]:
    """Return the parameters of the first module that has any, in the order of ``model.modules()``.

    Args:
        model: the network.
        epochs: in which they are trained, after which the loop has them rest: without gradients the backward
            pass ends earlier, and neither momentum nor decay move them any more. None: always, and none are
            returned.

    Raises:
        ValueError: no others are trained; names the setting.
    """
    if epochs is None:
        return []
    found = next((own for each in model.modules() if (own := list(each.parameters(False)))), [])
    trained = {each for each in model.parameters() if each.requires_grad}
    if trained <= set(found):
        raise ValueError(
            f"optim.first_layer_epochs: got {epochs}, want null: no other layer of this network is trained"
        )
    return found


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
