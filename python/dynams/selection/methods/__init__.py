"""Strategies: how what is known of the samples becomes the choice of those to train on.

Every method is a small frozen object behind one of two interfaces, `Strategy` (of epochs) and
`BatchStrategy` (inside a training step); `build_strategy` makes them by name, `with_switches` adds class
quotas, exploration and a guard against label noise. The names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.selection.methods.craig import Craig
    from dynams.selection.methods.difficulty import (
        EL2N,
        GraNd,
        Loss,
        last_layer_gradient_norm,
    )
    from dynams.selection.methods.forgetting import Forgetting, ForgettingEvents
    from dynams.selection.methods.glister import Glister
    from dynams.selection.methods.gradmatch import BatchGradMatch, GradMatch
    from dynams.selection.methods.importance import BatchImportance, Importance, batch_increment
    from dynams.selection.methods.infobatch import InfoBatch
    from dynams.selection.methods.interface import BatchChoice, BatchStrategy, Selection, Strategy
    from dynams.selection.methods.margin import Margin, StaticMargin
    from dynams.selection.methods.memorisation import Memorisation, memorisation_scores
    from dynams.selection.methods.reducible import BatchRhoLoss, RhoLoss, reducible_loss
    from dynams.selection.methods.registry import STRATEGIES, build_strategy
    from dynams.selection.methods.selective_backprop import SelectiveBackprop
    from dynams.selection.methods.uncertainty import Confidence, Entropy
    from dynams.selection.methods.uniform import Full, Random, StaticRandom

__all__ = [
    "EL2N",
    "STRATEGIES",
    "BatchChoice",
    "BatchGradMatch",
    "BatchImportance",
    "BatchRhoLoss",
    "BatchStrategy",
    "Confidence",
    "Craig",
    "Entropy",
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
    "Random",
    "RhoLoss",
    "Selection",
    "SelectiveBackprop",
    "StaticMargin",
    "StaticRandom",
    "Strategy",
    "batch_increment",
    "build_strategy",
    "last_layer_gradient_norm",
    "memorisation_scores",
    "reducible_loss",
]

_MODULES = {
    "interface": (
        "BatchChoice",
        "BatchStrategy",
        "Selection",
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
