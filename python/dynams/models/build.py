"""Slimmable ResNets by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from dynams.checks import one_of, whole
from dynams.models.resnet import Architecture, ResNet, Stem
from dynams.slimmable import SlimmableNetwork, convert

# name: (blocks in each stage, bottleneck, base channels)
_RESNETS: dict[str, tuple[tuple[int, ...], bool, int]] = {
    "resnet8": ((1, 1, 1), False, 16),
    "resnet14": ((2, 2, 2), False, 16),
    "resnet20": ((3, 3, 3), False, 16),
    "resnet18": ((2, 2, 2, 2), False, 64),
    "resnet34": ((3, 4, 6, 3), False, 64),
    "resnet50": ((3, 4, 6, 3), True, 64),
}

MODEL_NAMES: tuple[str, ...] = tuple(_RESNETS)


def architecture_of(
    name: str,
    num_classes: int,
    *,
    stem: Stem = "cifar",
    in_channels: int = 3,
    base_channels: int | None = None,
) -> Architecture:
    """Look an architecture up by its name; arguments and errors are those of `build_model`."""
    one_of("name", name, MODEL_NAMES)
    one_of("stem", stem, get_args(Stem))
    blocks, bottleneck, default_channels = _RESNETS[name]
    base_channels = default_channels if base_channels is None else base_channels
    num_classes = whole("num_classes", num_classes, 2)
    in_channels = whole("in_channels", in_channels, 1)
    base_channels = whole("base_channels", base_channels, 1)
    return Architecture(blocks, bottleneck, base_channels, stem, in_channels, num_classes)


def build_model(
    name: str,
    num_classes: int,
    *,
    widths: Sequence[float] = (0.5, 1.0),
    stem: Stem = "cifar",
    in_channels: int = 3,
    base_channels: int | None = None,
    zero_init_residual: bool = False,
    generator: torch.Generator | None = None,
) -> SlimmableNetwork:
    """Build a ResNet by its name and make it slimmable.

    Its `network` is a `ResNet`, and `plain(1.0).network` an ordinary one.

    Args:
        name: one of `MODEL_NAMES`: "resnet8", "resnet14", "resnet20" (three stages, 16 base
            channels: the thin CIFAR networks of He et al. 2016), "resnet18", "resnet34" (basic
            blocks) and "resnet50" (bottlenecks) (four stages, 64 base channels).
        num_classes: C, at least 2.
        widths: strictly ascending fractions of the channels, the last one 1.0.
        stem: "cifar" for small images (3x3, stride 1, no pooling) or "imagenet" (7x7, stride 2, and
            max-pool: a quarter of the resolution). Any name takes either.
        in_channels: channels of the images.
        base_channels: channels of the first stage, in place of the name's own.
        zero_init_residual: start every block as the identity (last batch-norm scale 0).
        generator: draws the initial weights; on its own device; torch's global generator when None.

    Raises:
        ValueError: an unknown `name` or `stem` (the message lists the known ones), sizes too small,
            or `widths` not as described.
    """
    architecture = architecture_of(
        name, num_classes, stem=stem, in_channels=in_channels, base_channels=base_channels
    )
    resnet = ResNet(architecture, zero_init_residual=zero_init_residual, generator=generator)
    # Small, for speed; other sizes are as good.
    example = resnet.head.weight.new_zeros(2, architecture.in_channels, 8, 8)
    return convert(resnet, widths, example=example)
