"""Slimmable ResNets: one set of weights, several widths. The full width is the model; a slim width
is the parameter-sharing proxy that scores samples for it.
"""

from __future__ import annotations

from dynams.models.blocks import Architecture
from dynams.models.build import MODEL_NAMES, build_model
from dynams.models.layers import (
    SlimmableConv2d,
    SlimmableLinear,
    SwitchableBatchNorm2d,
    slim_channels,
)
from dynams.models.resnet import ResNet, SlimmableResNet

__all__ = [
    "MODEL_NAMES",
    "Architecture",
    "ResNet",
    "SlimmableConv2d",
    "SlimmableLinear",
    "SlimmableResNet",
    "SwitchableBatchNorm2d",
    "build_model",
    "slim_channels",
]
