"""Layers that run at several widths, made from ordinary ones.

They differ from those of `dynams.models` in what they take: any convolution and any linear layer,
with or without bias, and channels kept in several ranges (the parts of a concatenation).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dynams.models.layers import (
    LeadingBlocks,
    SwitchableBatchNorm2d,
    check_width,
    leading_block,
)
from dynams.slimmable.channels import Ranges

Kept = Mapping[float, Ranges]


class SlicedLayer(nn.Module):
    """A layer with a weight (out, in, ...) and perhaps a bias (out,), of which a width uses a part.

    Args:
        source: an `nn.Conv2d` or `nn.Linear`; its weight and bias are copied.
        rows: the outputs that each width keeps.
        columns: the inputs (axis 1 of the weight) that each width keeps.

    Attributes:
        weight: as in `source`.
        bias: as in `source`, shared by all widths; None without.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, source: nn.Conv2d | nn.Linear, rows: Kept, columns: Kept) -> None:
        super().__init__()
        self.weight = _copied(source.weight)
        self.bias = None if source.bias is None else _copied(source.bias)
        self._kept = {width: (rows[width], columns[width]) for width in rows}
        # What is a leading block at every width has a cheaper backward step.
        self._sizes = {
            width: (kept[0][0][1], kept[1][0][1])
            for width, kept in self._kept.items()
            if all(len(ranges) == 1 for ranges in kept)
        }
        self._repr = source.extra_repr()

    def weights_at(self, widths: Sequence[float]) -> tuple[Tensor, ...]:
        """Return the part of `weight` used at each of `widths`, compact, in its memory format.

        Raises:
            ValueError: a width is unknown; the message lists the known ones.
        """
        widths = [check_width(width, self._kept) for width in widths]
        full = self.weight.shape[:2]
        if all(self._sizes.get(width) == full for width in widths):
            return (self.weight,) * len(widths)
        if torch.is_grad_enabled() and all(width in self._sizes for width in widths):
            sizes = (self._sizes[width] for width in widths)
            blocks: tuple[Tensor, ...] = cast(Any, LeadingBlocks).apply(self.weight, *sizes)
            return blocks
        return tuple(self._part(width) for width in widths)

    def bias_at(self, width: float) -> Tensor | None:
        """Return the part of `bias` used at `width`."""
        return None if self.bias is None else _picked(self.bias, self._kept[width][0])

    def extra_repr(self) -> str:
        """Describe the layer for `repr`."""
        return f"{self._repr}, widths={tuple(self._kept)}"

    def _weight(self, width: float, weights: Mapping[nn.Module, Tensor] | None) -> Tensor:
        return self.weights_at((width,))[0] if weights is None else weights[self]

    def _part(self, width: float) -> Tensor:
        size = self._sizes.get(width)
        if size == self.weight.shape[:2]:
            return self.weight
        if size is not None:
            return leading_block(self.weight, size)
        rows, columns = self._kept[width]
        return _picked(_picked(self.weight, rows), columns, dim=1)

    def _plain(self, layer: nn.Module, width: float) -> None:
        """Give `layer`, made on the meta device, copies of what `width` uses."""
        check_width(width, self._kept)
        with torch.no_grad():
            part = self._part(width)
            bias = self.bias_at(width)
        layer.weight = _copied(part, self.weight.requires_grad)
        if self.bias is not None and bias is not None:
            layer.bias = _copied(bias, self.bias.requires_grad)
        layer.train(self.training)


class SlicedConv2d(SlicedLayer):
    """An `nn.Conv2d` that runs at several widths.

    Args:
        source: what it is at full width.
        rows: the output channels that each width keeps.
        columns: the inputs of one group that each width keeps: all, if there are several groups.
        groups: the groups of each width.
    """

    def __init__(
        self, source: nn.Conv2d, rows: Kept, columns: Kept, groups: Mapping[float, int]
    ) -> None:
        super().__init__(source, rows, columns)
        self._groups = dict(groups)
        self._stride = source.stride
        self._padding = source.padding
        self._dilation = source.dilation
        self._kernel_size = source.kernel_size
        self._padding_mode = source.padding_mode
        self._borders = tuple(source._reversed_padding_repeated_twice)

    def forward(
        self, input: Tensor, width: float = 1.0, weights: Mapping[nn.Module, Tensor] | None = None
    ) -> Tensor:
        """Convolve (B, C_in, H, W), both channel counts being those of `width`.

        Args:
            input: the batch.
            width: one of the widths.
            weights: holds what `weights_at` gave for this layer and `width`; made here when None.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        weight = self._weight(width, weights)
        padding: Any = self._padding
        if self._padding_mode != "zeros":
            input = nn.functional.pad(input, self._borders, mode=self._padding_mode)
            padding = 0
        return nn.functional.conv2d(
            input,
            weight,
            self.bias_at(width),
            self._stride,
            padding,
            self._dilation,
            self._groups[width],
        )

    def plain(self, width: float) -> nn.Conv2d:
        """Make an `nn.Conv2d` of that width with copies of the weights."""
        rows, columns = self._kept[check_width(width, self._kept)]
        groups = self._groups[width]
        layer = nn.Conv2d(
            _count(columns) * groups,
            _count(rows),
            cast(Any, self._kernel_size),
            cast(Any, self._stride),
            cast(Any, self._padding),
            cast(Any, self._dilation),
            groups,
            bias=self.bias is not None,
            padding_mode=cast(Any, self._padding_mode),
            device="meta",
        )
        self._plain(layer, width)
        return layer


class SlicedLinear(SlicedLayer):
    """An `nn.Linear` that runs at several widths; as a head, its outputs are all kept."""

    def forward(
        self, input: Tensor, width: float = 1.0, weights: Mapping[nn.Module, Tensor] | None = None
    ) -> Tensor:
        """Map features (B, D_in), of as many features as `width` has.

        Args:
            input: the batch.
            width: one of the widths.
            weights: holds what `weights_at` gave for this layer and `width`; made here when None.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        return nn.functional.linear(input, self._weight(width, weights), self.bias_at(width))

    def plain(self, width: float) -> nn.Linear:
        """Make an `nn.Linear` of that width with copies of the weights."""
        rows, columns = self._kept[check_width(width, self._kept)]
        bias = self.bias is not None
        layer = nn.Linear(_count(columns), _count(rows), bias=bias, device="meta")
        self._plain(layer, width)
        return layer


class SlicedGroupNorm(nn.Module):
    """An `nn.GroupNorm` that runs at several widths, each keeping whole groups.

    Args:
        source: what it is at full width.
        kept: the channels that each width keeps.
        groups: the groups of each width.

    Attributes:
        weight: as in `source`, shared by all widths; None without.
        bias: as in `source`, shared by all widths; None without.
    """

    def __init__(self, source: nn.GroupNorm, kept: Kept, groups: Mapping[float, int]) -> None:
        super().__init__()
        self.weight = None if source.weight is None else _copied(source.weight)
        self.bias = None if source.bias is None else _copied(source.bias)
        self.eps = source.eps
        self._kept = dict(kept)
        self._groups = dict(groups)
        self._repr = source.extra_repr()

    def forward(self, input: Tensor, width: float = 1.0) -> Tensor:
        """Normalise (B, C_w, ...), of as many channels as `width` has.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        kept = self._kept[check_width(width, self._kept)]
        weight, bias = (
            None if each is None else _picked(each, kept) for each in (self.weight, self.bias)
        )
        return nn.functional.group_norm(input, self._groups[width], weight, bias, self.eps)

    def plain(self, width: float) -> nn.GroupNorm:
        """Make an `nn.GroupNorm` of that width with copies of the parameters."""
        kept = self._kept[check_width(width, self._kept)]
        groups = self._groups[width]
        affine = self.weight is not None
        layer = nn.GroupNorm(groups, _count(kept), self.eps, affine, device="meta")
        for name in ("weight", "bias"):
            whole = getattr(self, name)
            if whole is not None:
                part = _copied(_picked(whole.detach(), kept), whole.requires_grad)
                setattr(layer, name, part)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """Describe the layer for `repr`."""
        return f"{self._repr}, widths={tuple(self._kept)}"


def switchable_norm(source: nn.modules.batchnorm._BatchNorm, kept: Kept) -> SwitchableBatchNorm2d:
    """Make a batch-norm for each width, beginning with the parameters and statistics of `source`."""
    norm = SwitchableBatchNorm2d(source.num_features, widths=tuple(kept))
    norm.kept = dict(kept)
    for name, ranges in zip(tuple(norm), kept.values(), strict=True):
        norm[name] = _slim_norm(source, ranges)
    return norm


def _slim_norm(source: nn.modules.batchnorm._BatchNorm, kept: Ranges) -> nn.Module:
    norm = copy.deepcopy(source)
    norm.num_features = _count(kept)
    for name, parameter in source.named_parameters():
        setattr(norm, name, _copied(_picked(parameter.detach(), kept), parameter.requires_grad))
    for name, buffer in source.named_buffers():
        if buffer.dim():
            setattr(norm, name, _picked(buffer, kept).clone())
    return norm


def _copied(tensor: Tensor, requires_grad: bool | None = None) -> nn.Parameter:
    wanted = tensor.requires_grad if requires_grad is None else requires_grad
    return nn.Parameter(tensor.detach().clone(), wanted)


def _picked(tensor: Tensor, kept: Ranges, dim: int = 0) -> Tensor:
    if kept == ((0, tensor.shape[dim]),):
        return tensor
    parts = [tensor.narrow(dim, start, stop - start) for start, stop in kept]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _count(kept: Ranges) -> int:
    return sum(stop - start for start, stop in kept)
