"""A small network that trains fast: whitened input, groups of wide convolutions, early pooling, GELU.

The shape is that of the CIFAR-10 speed records (cifar10-airbench, K. Jordan 2024, arXiv 2404.00498):
channels (64, 256, 256) and depth 2 for 94 %, (128, 384, 512) and depth 3 for 96 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynams.checks import whole
from dynams.models.whitening import whitening_filters

_FIRST_KERNEL = 2
# Of what the classifier takes, which begins without a bias and with large features.
_SCALE = 1 / 9


def checked_sizes(channels: Sequence[int], depth: int) -> tuple[list[int], int]:
    """Return what makes a `Sprint` as plain numbers.

    Raises:
        ValueError: there is no group, a group has no channels, or `depth` is neither 2 nor 3.
    """
    if not len(channels):
        raise ValueError("channels: got none, want those of each group")
    return [whole("channels", each, 1) for each in channels], whole("depth", depth, 2, 3)


class SprintGroup(nn.Module):
    """Convolutions at half the resolution of their input, the first of them before it is halved.

    Args:
        in_channels: of the input.
        channels: of the output.
        depth: 2 or 3 convolutions; the third is added to what the first gave.
    """

    def __init__(self, in_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        sizes = [in_channels, *[channels] * (depth - 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(size, channels, 3, padding=1, bias=False) for size in sizes
        )
        # Momentum as torch has it, the weight of the newest statistics.
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4) for _ in sizes)
        for norm in self.norms:
            norm.weight.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, H // 2, W // 2)."""
        output = self.convs[0](input)
        if self.training:
            output = self.norms[0](functional.max_pool2d(output, 2))
        else:
            # The same, as its scale is positive: behind the convolution it can be folded into it.
            output = functional.max_pool2d(self.norms[0](output), 2)
        first = output = functional.gelu(output)
        output = self.norms[1](self.convs[1](output))
        if len(self.convs) == 3:
            output = self.norms[2](self.convs[2](functional.gelu(output))) + first
        return functional.gelu(output)


def _pass_through(weight: Tensor) -> None:
    """Let as many outputs of a convolution as there are inputs begin as copies of them.

    They lie apart so that a width that keeps a copy keeps its input too: without it the output would be
    constant, and the norm behind it, with nothing to divide by, would have gradients beyond bounds. With
    max(1, floor(c w + 1/2)) of c channels kept, the copy of input i of n may not come before output
    ceil((2 i + 1) m / (2 n) - 1/2) of m.
    """
    outputs, inputs = weight.shape[:2]
    nearest = min(outputs, inputs)
    middle = weight.shape[2] // 2
    for at in range(nearest):
        row = -((nearest - (2 * at + 1) * outputs) // (2 * nearest))
        weight[row] = 0.0
        weight[row, at, middle, middle] = 1.0


class Sprint(nn.Module):
    """The network: `nn.Conv2d`, `nn.BatchNorm2d` and `nn.Linear` only.

    Its first layer has frozen weights that `whiten` computes of images; a network whose first layer was
    never whitened has random ones there. Norms have no trained scale, the classifier no bias.

    Args:
        channels: of each group's output.
        depth: convolutions in each group, 2 or 3.
        in_channels: channels of the images.
        num_classes: C.
        generator: draws the initial weights; torch's global generator when None.

    Attributes:
        first: the first layer, 2 x 2, whose weight is not trained.
        head: the classifier: `weight` (num_classes, D).

    Raises:
        ValueError: there is no group, a group has no channels, or `depth` is neither 2 nor 3.
    """

    def __init__(
        self,
        channels: Sequence[int] = (128, 384, 512),
        depth: int = 3,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes, depth = checked_sizes(channels, depth)
        device = torch.empty(0).device if generator is None else generator.device
        first = 2 * in_channels * _FIRST_KERNEL**2
        # torch's layers would draw weights of their own, from the global generator.
        with torch.device("meta"):
            self.first = nn.Conv2d(in_channels, first, _FIRST_KERNEL)
            self.groups = nn.ModuleList(
                SprintGroup(*pair, depth) for pair in zip([first, *sizes], sizes, strict=False)
            )
            self.head = nn.Linear(sizes[-1], num_classes, bias=False)
        self.to_empty(device=device)
        self.first.weight.requires_grad_(False)
        self._reset(generator)

    @torch.no_grad()
    def _reset(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # As torch's layers begin: uniform within 1 / sqrt(fan in).
                bound = 1.0 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                if module.bias is not None:
                    nn.init.uniform_(module.bias, -bound, bound, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        for group in self.groups:
            for conv in group.convs:  # type: ignore[union-attr]
                _pass_through(conv.weight)

    @staticmethod
    def smallest_side(groups: int) -> int:
        """Return the least height and width of images that a network of so many groups takes, in pixels."""
        return _FIRST_KERNEL - 1 + (1 << groups)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer's weight to `whitening_filters` of images, normalised as in training.

        Args:
            images: (N, in_channels, H, W); a few thousand.
        """
        self.first.weight.copy_(whitening_filters(images.float(), _FIRST_KERNEL))

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to what the classifier takes, (B, D)."""
        output = functional.gelu(self.first(images))
        for group in self.groups:
            output = group(output)
        # All of what is left of the image: 3 x 3 of 32 x 32. By places: the gradient of amax compares values, and
        # compiled code compares rounded ones with others, so that none is the largest and all is divided by 0.
        return functional.adaptive_max_pool2d(output, 1).flatten(1) * _SCALE

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
