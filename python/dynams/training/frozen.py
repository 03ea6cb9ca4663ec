"""A network frozen for scoring and evaluation: one width, compact weights, no batch-norms.

On a CPU a frozen network is 1.3 to 2.2 times as fast as the slimmable one at the same width: its
weights need no slicing and a layer is one pass over memory instead of two.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dynams.models import ResNet, SlimmableResNet


def frozen(
    module: SlimmableResNet,
    width: float,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> ResNet:
    """Make an ordinary network that computes what ``module`` does at ``width`` when evaluating.

    Batch-norms are folded into the convolutions, so outputs agree up to rounding. Weights are
    copies in ``memory_format``; nothing has gradients.
    """
    plain = module.plain(width).eval().requires_grad_(False)
    for unit in list(plain.modules()):
        convolution, norm = getattr(unit, "conv", None), getattr(unit, "norm", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            unit.conv = fuse_conv_bn_eval(convolution, norm)
            unit.norm = nn.Identity()
    plain.to(memory_format=memory_format)  # type: ignore[call-overload]
    return plain
