"""ResNets (He et al. 2016), plain: `build_model` makes them run at several widths.

Bottlenecks stride in their 3x3 convolution; a shortcut that changes shape is a 1x1 convolution
(option B, in the thin CIFAR networks too).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Stem = Literal["cifar", "imagenet"]


@dataclass(frozen=True)
class Architecture:
    """What makes a ResNet.

    Attributes:
        blocks: residual blocks in each stage; stage i has base_channels * 2^i channels.
        bottleneck: blocks are 1x1, 3x3, 1x1 with four times the channels out, not two 3x3.
        base_channels: channels of the stem and the first stage.
        stem: "cifar", a 3x3 convolution of stride 1; "imagenet", a 7x7 convolution of stride 2 and
            a 3x3 max-pool of stride 2.
        in_channels: channels of the images.
        num_classes: C.
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    base_channels: int
    stem: Stem
    in_channels: int
    num_classes: int

    @property
    def num_features(self) -> int:
        """D, the number of pooled features."""
        return (self.base_channels << (len(self.blocks) - 1)) * (4 if self.bottleneck else 1)


class ConvNorm(nn.Module):
    """A convolution and its batch-norm."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, input: Tensor) -> Tensor:
        """Apply both."""
        output: Tensor = self.norm(self.conv(input))
        return output


class Residual(nn.Module):
    """A basic block (3x3, 3x3) or a bottleneck (1x1, 3x3, 1x1 to four times the channels)."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            out_channels = 4 * channels
            body = [
                ConvNorm(in_channels, channels, 1),
                ConvNorm(channels, channels, 3, stride),
                ConvNorm(channels, out_channels, 1),
            ]
        else:
            out_channels = channels
            body = [ConvNorm(in_channels, channels, 3, stride), ConvNorm(channels, channels, 3)]
        self.body = nn.ModuleList(body)
        self.shortcut = (
            ConvNorm(in_channels, out_channels, 1, stride)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        *inner, last = self.body
        output = input
        for unit in inner:
            output = functional.relu(unit(output), inplace=True)
        output = last(output)
        output += input if self.shortcut is None else self.shortcut(input)
        return functional.relu(output, inplace=True)


class ResNet(nn.Module):
    """An ordinary ResNet: `nn.Conv2d`, `nn.BatchNorm2d` and `nn.Linear` only.

    Args:
        architecture: what to build; `build_model` makes it from a name.
        zero_init_residual: start every block as the identity (last batch-norm scale 0).
        generator: draws the initial weights (Kaiming); torch's global generator when None.

    Attributes:
        architecture: as given.
        head: the classifier: `weight` (num_classes, D) and `bias` (num_classes,).
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        zero_init_residual: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        device = torch.empty(0).device if generator is None else generator.device
        # torch's layers would draw weights of their own, from the global generator.
        with torch.device("meta"):
            self._make_layers()
        self.to_empty(device=device)
        self._reset(zero_init_residual, generator)

    def _make_layers(self) -> None:
        architecture = self.architecture
        channels, images = architecture.base_channels, architecture.in_channels
        self.stem = (
            ConvNorm(images, channels, 7, 2)
            if architecture.stem == "imagenet"
            else ConvNorm(images, channels, 3)
        )
        in_channels = channels
        stages = []
        for stage, count in enumerate(architecture.blocks):
            blocks = nn.ModuleList()
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    Residual(in_channels, channels, stride, bottleneck=architecture.bottleneck)
                )
                in_channels = channels * (4 if architecture.bottleneck else 1)
            stages.append(blocks)
            channels *= 2
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(architecture.num_features, architecture.num_classes)

    def _reset(self, zero_init_residual: bool, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                bound = 1.0 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        if zero_init_residual:
            for block in self.residuals():
                nn.init.zeros_(cast(ConvNorm, block.body[-1]).norm.weight)

    def residuals(self) -> Iterator[Residual]:
        """Iterate over the residual blocks, first to last."""
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                yield cast(Residual, block)

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to pooled features (B, D)."""
        output = functional.relu(self.stem(images), inplace=True)
        if self.architecture.stem == "imagenet":
            output = functional.max_pool2d(output, kernel_size=3, stride=2, padding=1)
        for block in self.residuals():
            output = block(output)
        return functional.adaptive_avg_pool2d(output, 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
