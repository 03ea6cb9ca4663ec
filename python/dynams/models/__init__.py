"""Networks by name: `build_model` makes one that runs at several widths. The full width is the model;
a slim width is the parameter-sharing proxy that scores samples for it.
"""

from __future__ import annotations

from dynams.models.build import (
    MODEL_NAMES,
    build_model,
    check_options,
    has_strided_1x1,
    smallest_side,
)
from dynams.models.resnet import Architecture, ResNet
from dynams.models.sprint import Sprint
from dynams.models.whitening import whitening_filters

__all__ = [
    "MODEL_NAMES",
    "Architecture",
    "ResNet",
    "Sprint",
    "build_model",
    "check_options",
    "has_strided_1x1",
    "smallest_side",
    "whitening_filters",
]
