"""What is known of torch's operations: which keep channels apart, and so slim with their input."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Functions = frozenset[Callable[..., Any]]

# One tensor in; every element depends on itself alone.
ELEMENTWISE: Functions = frozenset(
    {
        functional.celu,
        functional.elu,
        functional.elu_,
        functional.gelu,
        functional.hardsigmoid,
        functional.hardswish,
        functional.hardtanh,
        functional.leaky_relu,
        functional.leaky_relu_,
        functional.logsigmoid,
        functional.mish,
        functional.relu,
        functional.relu6,
        functional.relu_,
        functional.selu,
        functional.sigmoid,
        functional.silu,
        functional.softplus,
        functional.softsign,
        functional.tanh,
        operator.neg,
        torch.abs,
        torch.clamp,
        torch.clone,
        torch.exp,
        torch.neg,
        torch.relu,
        torch.relu_,
        torch.sigmoid,
        torch.sqrt,
        torch.square,
        torch.tanh,
    }
)
ELEMENTWISE_METHODS = frozenset(
    "abs clamp clamp_ clone contiguous double exp float half neg relu relu_ sigmoid sigmoid_ sqrt "
    "square tanh tanh_ bfloat16".split()
)
ELEMENTWISE_MODULES: frozenset[type[nn.Module]] = frozenset(
    {
        nn.AlphaDropout,
        nn.CELU,
        nn.Dropout,
        nn.Dropout2d,
        nn.ELU,
        nn.FeatureAlphaDropout,
        nn.GELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.Identity,
        nn.LeakyReLU,
        nn.LogSigmoid,
        nn.Mish,
        nn.PReLU,
        nn.RReLU,
        nn.ReLU,
        nn.ReLU6,
        nn.SELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Softsign,
        nn.Tanh,
    }
)

# Two operands, at least one a tensor, that meet element by element.
BINARY: Functions = frozenset(
    {
        operator.add,
        operator.iadd,
        operator.imul,
        operator.isub,
        operator.itruediv,
        operator.mul,
        operator.sub,
        operator.truediv,
        torch.add,
        torch.div,
        torch.maximum,
        torch.minimum,
        torch.mul,
        torch.sub,
    }
)
BINARY_METHODS = frozenset("add add_ div div_ expand_as mul mul_ sub sub_".split())

CONCATENATIONS: Functions = frozenset({torch.cat, torch.concat})


def max_pool2d(*args: Any, **kwargs: Any) -> Any:
    """Stand in for torch's own function, which cannot be pickled."""
    return functional.max_pool2d(*args, **kwargs)


def adaptive_max_pool2d(*args: Any, **kwargs: Any) -> Any:
    """Stand in for torch's own function, which cannot be pickled."""
    return functional.adaptive_max_pool2d(*args, **kwargs)


def to_maps(features: Tensor) -> Tensor:
    """Turn (B, C) into (B, C, 1, 1)."""
    return features[:, :, None, None]


# Each channel by itself over height and width: of (B, C, H, W) to (B, C, H', W').
SPATIAL: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.adaptive_avg_pool2d: functional.adaptive_avg_pool2d,
    functional.adaptive_max_pool2d: adaptive_max_pool2d,
    functional.avg_pool2d: functional.avg_pool2d,
    functional.interpolate: functional.interpolate,
    functional.max_pool2d: max_pool2d,
}
SPATIAL_MODULES: frozenset[type[nn.Module]] = frozenset(
    {
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
        nn.AvgPool2d,
        nn.ConstantPad2d,
        nn.LPPool2d,
        nn.MaxPool2d,
        nn.ReflectionPad2d,
        nn.ReplicationPad2d,
        nn.Upsample,
        nn.UpsamplingBilinear2d,
        nn.UpsamplingNearest2d,
        nn.ZeroPad2d,
    }
)
ADAPTIVE: frozenset[Any] = frozenset(
    {
        functional.adaptive_avg_pool2d,
        functional.adaptive_max_pool2d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
    }
)
NORMS: frozenset[type[nn.Module]] = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm})
LEARNT: frozenset[type[nn.Module]] = NORMS | {nn.Conv2d, nn.Linear, nn.GroupNorm}
