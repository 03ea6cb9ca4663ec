"""What every ResNet here is made of, for either set of layers.

Blocks hand whatever follows their input on to their layers: the width (and weights made for it) in
a slimmable network, nothing in a plain one. So the two cannot differ in structure. Bottlenecks
stride in their 3x3 convolution; a shortcut that changes shape is a 1x1 convolution (option B of
He et al. 2016, in the thin CIFAR networks too).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from dynams.models.layers import SlimmableConv2d, SwitchableBatchNorm2d, slim_channels

Stem = Literal["cifar", "imagenet"]


@dataclass(frozen=True)
class Architecture:
    """What makes a ResNet, at full width.

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


class Layers(Protocol):
    """Makes the layers of a network, given their sizes at full width."""

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, image: bool
    ) -> nn.Module:
        """Make a convolution without bias; `image` tells that its input is an image."""
        ...

    def norm(self, channels: int) -> nn.Module:
        """Make a batch-norm."""
        ...


@dataclass(frozen=True)
class PlainLayers:
    """Makes ordinary layers of one width."""

    width: float

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, image: bool
    ) -> nn.Module:
        """Make an `nn.Conv2d`."""
        return nn.Conv2d(
            slim_channels(in_channels, 1.0 if image else self.width),
            slim_channels(out_channels, self.width),
            kernel_size,
            stride,
            padding=kernel_size // 2,
            bias=False,
        )

    def norm(self, channels: int) -> nn.Module:
        """Make an `nn.BatchNorm2d`."""
        return nn.BatchNorm2d(slim_channels(channels, self.width))


@dataclass(frozen=True)
class SlimmableLayers:
    """Makes layers that run at all of `widths`."""

    widths: tuple[float, ...]
    generator: torch.Generator | None

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, image: bool
    ) -> nn.Module:
        """Make a `SlimmableConv2d`."""
        return SlimmableConv2d(
            in_channels,
            out_channels,
            kernel_size,
            widths=self.widths,
            stride=stride,
            slim_input=not image,
            generator=self.generator,
        )

    def norm(self, channels: int) -> nn.Module:
        """Make a `SwitchableBatchNorm2d`."""
        return SwitchableBatchNorm2d(channels, widths=self.widths)


class ConvNorm(nn.Module):
    """A convolution and its batch-norm."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        image: bool = False,
    ) -> None:
        super().__init__()
        self.conv = layers.conv(in_channels, out_channels, kernel_size, stride, image)
        self.norm = layers.norm(out_channels)

    def forward(self, input: Tensor, *context: Any) -> Tensor:
        """Apply both; `context` is nothing, a width, or a width and the weights made for it."""
        output: Tensor = self.norm(self.conv(input, *context), *context[:1])
        return output


class Residual(nn.Module):
    """A basic block (3x3, 3x3) or a bottleneck (1x1, 3x3, 1x1 to four times the channels)."""

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: int, *, bottleneck: bool
    ) -> None:
        super().__init__()
        if bottleneck:
            out_channels = 4 * channels
            body = [
                ConvNorm(layers, in_channels, channels, 1),
                ConvNorm(layers, channels, channels, 3, stride),
                ConvNorm(layers, channels, out_channels, 1),
            ]
        else:
            out_channels = channels
            body = [
                ConvNorm(layers, in_channels, channels, 3, stride),
                ConvNorm(layers, channels, channels, 3),
            ]
        self.body = nn.ModuleList(body)
        self.shortcut = (
            ConvNorm(layers, in_channels, out_channels, 1, stride)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, input: Tensor, *context: Any) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        *inner, last = self.body
        output = input
        for unit in inner:
            output = nn.functional.relu(unit(output, *context), inplace=True)
        output = last(output, *context)
        output += input if self.shortcut is None else self.shortcut(input, *context)
        return nn.functional.relu(output, inplace=True)


class Trunk(nn.Module):
    """Stem, stages and pooling: a ResNet without its head."""

    def __init__(self, architecture: Architecture, layers: Layers) -> None:
        super().__init__()
        self.architecture = architecture
        channels, images = architecture.base_channels, architecture.in_channels
        self.stem = (
            ConvNorm(layers, images, channels, 7, 2, image=True)
            if architecture.stem == "imagenet"
            else ConvNorm(layers, images, channels, 3, image=True)
        )
        in_channels = channels
        stages = []
        for stage, count in enumerate(architecture.blocks):
            blocks = nn.ModuleList()
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    Residual(
                        layers, in_channels, channels, stride, bottleneck=architecture.bottleneck
                    )
                )
                in_channels = channels * (4 if architecture.bottleneck else 1)
            stages.append(blocks)
            channels *= 2
        self.stages = nn.ModuleList(stages)

    def residuals(self) -> Iterator[Residual]:
        """Iterate over the residual blocks, first to last."""
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                yield cast(Residual, block)

    def pooled(self, images: Tensor, *context: Any) -> Tensor:
        """Map images (B, in_channels, H, W) to pooled features (B, D)."""
        output = nn.functional.relu(self.stem(images, *context), inplace=True)
        if self.architecture.stem == "imagenet":
            output = nn.functional.max_pool2d(output, kernel_size=3, stride=2, padding=1)
        for block in self.residuals():
            output = block(output, *context)
        return nn.functional.adaptive_avg_pool2d(output, 1).flatten(1)
