"""Strategies: how what is known of the samples becomes the choice of those to train on.

Every method is a small frozen object behind one of two interfaces, `Strategy` (of epochs) and
`BatchStrategy` (inside a training step); `build_strategy` makes them by name, `with_switches` adds class
quotas, exploration and a guard against label noise. The names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.selection.strategies.base import (
        BatchChoice,
        BatchStrategy,
        Selection,
        Signals,
        Strategy,
    )
    from dynams.selection.strategies.craig import Craig
    from dynams.selection.strategies.difficulty import (
        EL2N,
        GraNd,
        Loss,
        last_layer_gradient_norm,
    )
    from dynams.selection.strategies.forgetting import Forgetting, ForgettingEvents
    from dynams.selection.strategies.glister import Glister
    from dynams.selection.strategies.gradmatch import BatchGradMatch, GradMatch
    from dynams.selection.strategies.importance import BatchImportance, Importance, batch_increment
    from dynams.selection.strategies.infobatch import InfoBatch
    from dynams.selection.strategies.margin import Margin, StaticMargin
    from dynams.selection.strategies.memorisation import Memorisation, memorisation_scores
    from dynams.selection.strategies.reducible import BatchRhoLoss, RhoLoss, reducible_loss
    from dynams.selection.strategies.registry import STRATEGIES, build_strategy
    from dynams.selection.strategies.selective_backprop import SelectiveBackprop
    from dynams.selection.strategies.switches import (
        ClassBalanced,
        Exploring,
        NoiseGuard,
        with_switches,
    )
    from dynams.selection.strategies.uncertainty import Confidence, Entropy
    from dynams.selection.strategies.uniform import Full, Random, StaticRandom

__all__ = [
    "EL2N",
    "STRATEGIES",
    "BatchChoice",
    "BatchGradMatch",
    "BatchImportance",
    "BatchRhoLoss",
    "BatchStrategy",
    "ClassBalanced",
    "Confidence",
    "Craig",
    "Entropy",
    "Exploring",
    "Forgetting",
    "ForgettingEvents",
    "Full",
    "Glister",
    "GraNd",
    "GradMatch",
    "Importance",
    "InfoBatch",
    "Loss",
    "Margin",
    "Memorisation",
    "NoiseGuard",
    "Random",
    "RhoLoss",
    "Selection",
    "SelectiveBackprop",
    "Signals",
    "StaticMargin",
    "StaticRandom",
    "Strategy",
    "batch_increment",
    "build_strategy",
    "last_layer_gradient_norm",
    "memorisation_scores",
    "reducible_loss",
    "with_switches",
]

_MODULES = {
    "base": (
        "BatchChoice",
        "BatchStrategy",
        "Selection",
        "Signals",
        "Strategy",
    ),
    "craig": ("Craig",),
    "difficulty": (
        "EL2N",
        "GraNd",
        "Loss",
        "last_layer_gradient_norm",
    ),
    "forgetting": (
        "Forgetting",
        "ForgettingEvents",
    ),
    "glister": ("Glister",),
    "gradmatch": (
        "BatchGradMatch",
        "GradMatch",
    ),
    "importance": (
        "BatchImportance",
        "Importance",
        "batch_increment",
    ),
    "infobatch": ("InfoBatch",),
    "margin": (
        "Margin",
        "StaticMargin",
    ),
    "memorisation": (
        "Memorisation",
        "memorisation_scores",
    ),
    "reducible": (
        "BatchRhoLoss",
        "RhoLoss",
        "reducible_loss",
    ),
    "registry": (
        "STRATEGIES",
        "build_strategy",
    ),
    "selective_backprop": ("SelectiveBackprop",),
    "switches": (
        "ClassBalanced",
        "Exploring",
        "NoiseGuard",
        "with_switches",
    ),
    "uncertainty": (
        "Confidence",
        "Entropy",
    ),
    "uniform": (
        "Full",
        "Random",
        "StaticRandom",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
