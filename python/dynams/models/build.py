"""Slimmable networks by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from dynams.checks import one_of, whole
from dynams.models.resnet import Architecture, ResNet, Stem
from dynams.models.sprint import Sprint, checked_sizes
from dynams.slimmable import SlimmableNetwork, convert
from dynams.slimmable.network import SlimHead

# name: (blocks in each stage, bottleneck, base channels)
_RESNETS: dict[str, tuple[tuple[int, ...], bool, int]] = {
    "resnet8": ((1, 1, 1), False, 16),
    "resnet14": ((2, 2, 2), False, 16),
    "resnet20": ((3, 3, 3), False, 16),
    "resnet18": ((2, 2, 2, 2), False, 64),
    "resnet34": ((3, 4, 6, 3), False, 64),
    "resnet50": ((3, 4, 6, 3), True, 64),
}
_SPRINT = "sprint"
# Those of the record for 96 % on CIFAR-10.
_SPRINT_CHANNELS, _SPRINT_DEPTH = (128, 384, 512), 3

MODEL_NAMES: tuple[str, ...] = (*_RESNETS, _SPRINT)


def check_options(
    name: str,
    *,
    stem: Stem = "cifar",
    base_channels: int | None = None,
    channels: Sequence[int] | None = None,
    depth: int | None = None,
) -> None:
    """Refuse what `build_model` would, without building anything; arguments and errors are its own."""
    one_of("name", name, MODEL_NAMES)
    one_of("stem", stem, get_args(Stem))
    if name == _SPRINT:
        foreign: dict[str, object] = {
            "stem": None if stem == "cifar" else stem,
            "base_channels": base_channels,
        }
        checked_sizes(*_sprint_sizes(channels, depth))
    else:
        foreign = {"channels": channels, "depth": depth}
        if base_channels is not None:
            whole("base_channels", base_channels, 1)
    for argument, value in foreign.items():
        if value is not None:
            raise ValueError(f"{argument}: got {value!r} with {name}, want it left out")


def architecture_of(
    name: str,
    num_classes: int,
    *,
    stem: Stem = "cifar",
    in_channels: int = 3,
    base_channels: int | None = None,
) -> Architecture:
    """Look a ResNet's architecture up by its name; arguments and errors are those of `build_model`."""
    check_options(name, stem=stem, base_channels=base_channels)
    blocks, bottleneck, default_channels = _RESNETS[name]
    base_channels = default_channels if base_channels is None else base_channels
    num_classes = whole("num_classes", num_classes, 2)
    in_channels = whole("in_channels", in_channels, 1)
    return Architecture(blocks, bottleneck, int(base_channels), stem, in_channels, num_classes)


def has_strided_1x1(name: str) -> bool:
    """Tell whether a network, by its name, has a 1x1 convolution with a stride."""
    return name in _RESNETS


def smallest_side(name: str, channels: Sequence[int] | None = None) -> int:
    """Return the least height and width in pixels of images that a network takes.

    Args:
        name: one of `MODEL_NAMES`.
        channels: as `build_model` takes them.
    """
    if name != _SPRINT:
        return 1
    return Sprint.smallest_side(len(_sprint_sizes(channels, None)[0]))


def _sprint_sizes(channels: Sequence[int] | None, depth: int | None) -> tuple[Sequence[int], int]:
    return (
        _SPRINT_CHANNELS if channels is None else channels,
        _SPRINT_DEPTH if depth is None else depth,
    )


def build_model(
    name: str,
    num_classes: int,
    *,
    widths: Sequence[float] = (0.5, 1.0),
    stem: Stem = "cifar",
    in_channels: int = 3,
    base_channels: int | None = None,
    channels: Sequence[int] | None = None,
    depth: int | None = None,
    zero_init_residual: bool = False,
    generator: torch.Generator | None = None,
    nested: bool = False,
    head: SlimHead = "shared",
) -> SlimmableNetwork:
    """Build a network by its name and make it slimmable.

    Its `network` is a `ResNet` or a `Sprint`, and `plain(1.0).network` an ordinary one.

    Args:
        name: one of `MODEL_NAMES`: "resnet8", "resnet14", "resnet20" (three stages, 16 base
            channels: the thin CIFAR networks of He et al. 2016), "resnet18", "resnet34" (basic
            blocks) and "resnet50" (bottlenecks) (four stages, 64 base channels); or "sprint", whose
            first layer `Sprint.whiten` has yet to compute.
        num_classes: C, at least 2.
        widths: strictly ascending fractions of the channels, the last one 1.0.
        stem: "cifar" for small images (3x3, stride 1, no pooling) or "imagenet" (7x7, stride 2, and
            max-pool: a quarter of the resolution). Any ResNet takes either.
        in_channels: channels of the images.
        base_channels: channels of a ResNet's first stage, in place of the name's own.
        channels: of each group of "sprint"; None: (128, 384, 512).
        depth: convolutions in each group of "sprint", 2 or 3; None: 3.
        zero_init_residual: start every block of a ResNet as the identity (last batch-norm scale 0).
        generator: draws the initial weights; on its own device; torch's global generator when None.
        nested: nest the one slim width in the full one, see `convert`.
        head: classifier of the nested width, see `convert`.

    Raises:
        ValueError: an unknown `name` or `stem` (the message lists the known ones), sizes too small,
            an option of another network, or `widths` not as described.
    """
    check_options(name, stem=stem, base_channels=base_channels, channels=channels, depth=depth)
    network: ResNet | Sprint
    if name == _SPRINT:
        if zero_init_residual:
            raise ValueError(f"zero_init_residual: got True with {name}, want it left out")
        network = Sprint(
            *_sprint_sizes(channels, depth),
            in_channels=whole("in_channels", in_channels, 1),
            num_classes=whole("num_classes", num_classes, 2),
            generator=generator,
        )
    else:
        architecture = architecture_of(
            name, num_classes, stem=stem, in_channels=in_channels, base_channels=base_channels
        )
        network = ResNet(architecture, zero_init_residual=zero_init_residual, generator=generator)
    # Small, for speed; other sizes are as good.
    side = max(8, smallest_side(name, channels))
    example = network.head.weight.new_zeros(2, in_channels, side, side)
    return convert(network, widths, example=example, nested=nested, head=head)
