"""ResNets (He et al. 2016): one that runs at several widths, and the ordinary one that it equals at
each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dynams.models.blocks import Architecture, PlainLayers, SlimmableLayers, Trunk
from dynams.models.layers import (
    SlimmableConv2d,
    SlimmableLinear,
    SwitchableBatchNorm2d,
    check_width,
    check_widths,
    slim_channels,
)


class SlimmableResNet(Trunk):
    """A ResNet that runs at any of `widths` with one set of weights.

    The full network is the model; a slim width is its parameter-sharing proxy. At width w every
    layer uses its leading channels only, so gradients at w reach only the leading block of every
    weight. Batch-norms are separate for each width.

    Args:
        architecture: what to build; `build_model` makes it from a name.
        widths: strictly ascending fractions of the channels, the last one 1.0.
        zero_init_residual: start every block as the identity (last batch-norm scale 0).
        generator: draws the initial weights (Kaiming); torch's global generator when None.

    Attributes:
        widths: as given.
        head: `weight` (num_classes, D) and `bias` (num_classes,).

    Raises:
        ValueError: `widths` are not as described.
    """

    def __init__(
        self,
        architecture: Architecture,
        widths: Sequence[float] = (0.5, 1.0),
        *,
        zero_init_residual: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        widths = check_widths(widths)
        super().__init__(architecture, SlimmableLayers(widths, generator))
        self.widths = widths
        self.head = SlimmableLinear(
            architecture.num_features,
            architecture.num_classes,
            widths=widths,
            generator=generator,
        )
        if zero_init_residual:
            for block in self.residuals():
                cast(SwitchableBatchNorm2d, block.body[-1].norm).zero_gamma()

    def features(self, images: Tensor, width: float | None = None) -> Tensor:
        """Map images to pooled features (B, D_w).

        Args:
            images: (B, in_channels, H, W), floating point.
            width: one of `widths`; None is the full width.

        Raises:
            ValueError: `width` is unknown (the message lists the known ones), or `images` has
                another shape.
            TypeError: `images` is not floating point.
        """
        self._check_images(images)
        return self.pooled(images, check_width(1.0 if width is None else width, self.widths))

    def forward(
        self, images: Tensor, width: float | Sequence[float] | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Map images to logits (B, num_classes).

        Args:
            images: (B, in_channels, H, W), floating point.
            width: one of `widths`; None is the full width. A sequence gives a tuple of logits, one
                for each width in its order, in one forward: DDP sees one forward, and the slim
                gradients are added into the full ones at next to no cost.

        Raises:
            ValueError: a width is unknown (the message lists the known ones), the sequence is
                empty, or `images` has another shape.
            TypeError: `images` is not floating point.
        """
        if width is None or isinstance(width, (int, float)):
            features = self.features(images, width)
            logits: Tensor = self.head(features, 1.0 if width is None else width)
            return logits
        self._check_images(images)
        widths = [check_width(each, self.widths) for each in width]
        if not widths:
            raise ValueError("width: got an empty sequence, want at least one width")
        weights: list[dict[nn.Module, Tensor]] = [{} for _ in widths]
        for module in self.modules():
            if isinstance(module, SlimmableConv2d):
                for known, weight in zip(weights, module.weights_at(widths), strict=True):
                    known[module] = weight
        return tuple(
            self.head(self.pooled(images, each, known), each)
            for each, known in zip(widths, weights, strict=True)
        )

    def plain(self, width: float) -> ResNet:
        """Make an ordinary network of that width with copies of the weights: the same outputs.

        It shares nothing with this network and keeps its device, dtypes, memory format and mode
        (train or eval). Making it draws no random numbers.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        with torch.device("meta"):
            plain = ResNet(self.architecture, check_width(width, self.widths))
        state = {
            f"{name}.{key}": value
            for name, module in self.named_modules()
            if isinstance(module, (SlimmableConv2d, SlimmableLinear, SwitchableBatchNorm2d))
            for key, value in module.plain_state(width).items()
        }
        plain.load_state_dict(state, assign=True)
        return plain.train(self.training)

    def _check_images(self, images: Tensor) -> None:
        channels = self.architecture.in_channels
        if images.dim() != 4 or images.shape[1] != channels:
            raise ValueError(f"images: got shape {tuple(images.shape)}, want (B, {channels}, H, W)")
        if not images.is_floating_point():
            raise TypeError(f"images: got {images.dtype}, want floating point")


class ResNet(Trunk):
    """An ordinary ResNet of one width: `nn.Conv2d`, `nn.BatchNorm2d` and `nn.Linear` only.

    `SlimmableResNet.plain` makes it: to score with, to export, to compare with.
    """

    def __init__(self, architecture: Architecture, width: float = 1.0) -> None:
        super().__init__(architecture, PlainLayers(width))
        self.head = nn.Linear(
            slim_channels(architecture.num_features, width), architecture.num_classes
        )

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to pooled features (B, D)."""
        return self.pooled(images)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.head(self.pooled(images))
        return logits

    def fold_batch_norms(self) -> None:
        """Fold every batch-norm into its convolution: the same outputs up to rounding, for evaluating only.

        Raises:
            ValueError: the network is in training mode.
        """
        if self.training:
            raise ValueError("fold_batch_norms: got a network in training mode, want eval mode")
        for unit in list(self.modules()):
            convolution, norm = getattr(unit, "conv", None), getattr(unit, "norm", None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                unit.conv = fuse_conv_bn_eval(convolution, norm)
                unit.norm = nn.Identity()
