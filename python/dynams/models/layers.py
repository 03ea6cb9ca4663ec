"""Layers that run at several widths with one set of weights (slimmable networks, Yu et al. 2019).

At width w a layer uses its first `slim_channels(channels, w)` channels and nothing else, so it
equals, weight for weight, an ordinary layer of that size. The width is an argument of every
`forward`. Batch-norm alone keeps parameters and statistics of its own for each width, because the
statistics of a channel depend on how many channels feed it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from dynams.checks import number, one_of, whole


def slim_channels(channels: int, width: float) -> int:
    """Count the channels that a layer of `channels` keeps at `width`: max(1, floor(c w + 1/2)).

    Raises:
        ValueError: `channels` is not positive, or `width` is outside (0, 1].
    """
    channels = whole("channels", channels, 1)
    width = number("width", width, "(0, 1]")
    return max(1, math.floor(channels * width + 0.5))


def check_widths(widths: Sequence[float]) -> tuple[float, ...]:
    """Return `widths` as a tuple of floats.

    Raises:
        ValueError: `widths` is empty, not strictly ascending, outside (0, 1], or does not end in 1.
    """
    checked = tuple(float(width) for width in widths)
    ascending = all(low < high for low, high in pairwise(checked))
    if not checked or not ascending or not checked[0] > 0.0 or checked[-1] != 1.0:
        raise ValueError(
            f"widths: got {tuple(widths)}, want fractions in (0, 1], strictly ascending, the last 1.0"
        )
    return checked


def check_width(width: float, widths: Iterable[float]) -> float:
    """Return `width`, which must be one of `widths`.

    Raises:
        ValueError: it is not; the message lists those that are known.
    """
    one_of("width", width, widths)
    return width


class SlimmableConv2d(nn.Module):
    """Square convolution without bias whose leading output and input channels are the slim ones.

    Args:
        in_channels: input channels at full width.
        out_channels: output channels at full width.
        kernel_size: odd; the padding is `kernel_size // 2`.
        widths: strictly ascending, the last one 1.0.
        stride: of both axes.
        slim_input: False for a stem, whose input is an image: it keeps all its channels.
        generator: draws the initial weight; torch's global generator when None.

    Attributes:
        weight: (out_channels, in_channels, kernel_size, kernel_size).

    Raises:
        ValueError: `widths` are not as described, or a size is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        widths: Sequence[float],
        stride: int = 1,
        slim_input: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, want an odd number of at least 1")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = kernel_size // 2
        self._sizes = {
            width: (
                slim_channels(out_channels, width),
                slim_channels(in_channels, width if slim_input else 1.0),
            )
            for width in check_widths(widths)
        }
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw Kaiming-normal weights for ReLU, fan-out (He et al. 2015)."""
        nn.init.kaiming_normal_(
            self.weight, mode="fan_out", nonlinearity="relu", generator=generator
        )

    def weights_at(self, widths: Sequence[float]) -> tuple[Tensor, ...]:
        """Return the block of `weight` used at each of `widths`, compact, in its memory format.

        Blocks taken in one call have one backward step, which adds the slim gradients into the full
        one in place: no zero-padded tensor of full size is made. So each is for one convolution.

        Raises:
            ValueError: a width is unknown; the message lists the known ones.
        """
        sizes = [self._sizes[check_width(width, self._sizes)] for width in widths]
        full = (self.out_channels, self.in_channels)
        if all(size == full for size in sizes):
            return (self.weight,) * len(sizes)
        if not torch.is_grad_enabled():
            return tuple(
                self.weight if size == full else leading_block(self.weight, size) for size in sizes
            )
        blocks: tuple[Tensor, ...] = cast(Any, LeadingBlocks).apply(self.weight, *sizes)
        return blocks

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
        weight = self.weights_at((width,))[0] if weights is None else weights[self]
        return nn.functional.conv2d(input, weight, None, self.stride, self.padding)

    def plain_state(self, width: float) -> dict[str, Tensor]:
        """Copy the tensors that an `nn.Conv2d` of that width has, under its names for them."""
        weight = self.weight.detach()
        return {"weight": leading_block(weight, self._sizes[check_width(width, self._sizes)])}

    def extra_repr(self) -> str:
        """Describe the layer for `repr`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, widths={tuple(self._sizes)}"
        )


class SlimmableLinear(nn.Module):
    """Classifier head whose leading input features are the slim ones; every width has all outputs.

    Args:
        in_features: D, input features at full width.
        out_features: C.
        widths: strictly ascending, the last one 1.0.
        generator: draws the initial weight; torch's global generator when None.

    Attributes:
        weight: (C, D).
        bias: (C,), shared by all widths.

    Raises:
        ValueError: `widths` are not as described, or a size is not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        widths: Sequence[float],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._sizes = {width: slim_channels(in_features, width) for width in check_widths(widths)}
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weight and bias uniformly in +-1/sqrt(in_features), as `nn.Linear` does."""
        bound = 1.0 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.uniform_(self.bias, -bound, bound, generator=generator)

    def forward(self, input: Tensor, width: float = 1.0) -> Tensor:
        """Turn features (B, D_w) into logits (B, C).

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        columns = self._sizes[check_width(width, self._sizes)]
        return nn.functional.linear(input, self.weight[:, :columns], self.bias)

    def plain_state(self, width: float) -> dict[str, Tensor]:
        """Copy the tensors that an `nn.Linear` of that width has, under its names for them."""
        columns = self._sizes[check_width(width, self._sizes)]
        weight = self.weight.detach()[:, :columns]
        return {
            "weight": weight.clone(memory_format=torch.contiguous_format),
            "bias": self.bias.detach().clone(),
        }

    def extra_repr(self) -> str:
        """Describe the layer for `repr`."""
        return f"{self.in_features}, {self.out_features}, widths={tuple(self._sizes)}"


class SwitchableBatchNorm2d(nn.ModuleDict):
    """One `nn.BatchNorm2d` for each width, under the names `width_0_5`, `width_1_0`, ...

    The children are ordinary batch-norms, so `nn.SyncBatchNorm.convert_sync_batchnorm` works on
    them. Their names carry the width, so a checkpoint of other widths is refused by name.

    Args:
        channels: channels at full width.
        widths: strictly ascending, the last one 1.0.

    Attributes:
        channels: as given.
        kept: the ranges of channels of each width: its leading ones.

    Raises:
        ValueError: `widths` are not as described, or `channels` is not positive.
    """

    kept: Mapping[float, tuple[tuple[int, int], ...]]

    def __init__(self, channels: int, *, widths: Sequence[float]) -> None:
        names = {width: "width_" + repr(width).replace(".", "_") for width in check_widths(widths)}
        super().__init__(
            {name: nn.BatchNorm2d(slim_channels(channels, width)) for width, name in names.items()}
        )
        self.channels = channels
        self.kept = {width: ((0, slim_channels(channels, width)),) for width in names}
        self._names = names

    def at(self, width: float) -> nn.Module:
        """Return the batch-norm of `width`.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        return self[self._names[check_width(width, self._names)]]

    def zero_gamma(self) -> None:
        """Set the scale of every width to 0: a residual block that ends here is the identity."""
        for norm in self.values():
            nn.init.zeros_(norm.get_parameter("weight"))

    def forward(self, input: Tensor, width: float = 1.0) -> Tensor:
        """Normalise (B, C_w, H, W) by the statistics of `width`.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        output: Tensor = self.at(width)(input)
        return output

    def plain_state(self, width: float) -> dict[str, Tensor]:
        """Copy the tensors that an `nn.BatchNorm2d` of that width has, under its names for them."""
        return {name: value.clone() for name, value in self.at(width).state_dict().items()}


class LeadingBlocks(torch.autograd.Function):
    """`weight[:rows, :columns]` for several sizes, as compact copies; the full size is `weight`.

    Plain indexing is right but slower: the convolution would copy a strided block in the forward
    and again in the backward pass, and every block's gradient would come as nested zero-padded
    tensors in NCHW order, to be transposed again for a channels_last weight and summed at full size.
    """

    # No setup_context: with it every call binds a signature, some 90 us on the CPU.
    @staticmethod
    def forward(ctx: Any, weight: Tensor, *sizes: tuple[int, int]) -> tuple[Tensor, ...]:
        """Cut the leading block of each size; the weight itself where that is all of it."""
        ctx.set_materialize_grads(False)
        ctx.sizes, ctx.shape, ctx.strides = sizes, weight.shape, weight.stride()
        return tuple(
            weight.view_as(weight) if size == weight.shape[:2] else leading_block(weight, size)
            for size in sizes
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Add the blocks' gradients into one of the weight's shape."""
        total: Tensor | None = None
        slim: list[tuple[tuple[int, int], Tensor]] = []
        for size, grad in zip(ctx.sizes, grads, strict=True):
            if grad is None:
                continue
            if size != ctx.shape[:2]:
                slim.append((size, grad))
            else:
                total = grad if total is None else total + grad
        if slim and total is None:
            like = slim[0][1]
            total = torch.empty_strided(
                ctx.shape, ctx.strides, dtype=like.dtype, device=like.device
            ).zero_()
        elif slim and total is not None and not _dense(total):
            total = total.clone(memory_format=torch.contiguous_format)
        for (rows, columns), grad in slim:
            assert total is not None
            # In place: the full gradient is fresh from the one convolution that used the weight.
            total[:rows, :columns] += grad
        return total, *(None for _ in grads)


def _dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def leading_block(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Copy the leading `size` (outputs, inputs) of a weight, in the weight's memory format."""
    # A 1x1 weight is contiguous in both formats: it is made NCHW, so as not to pull an NCHW network
    # into channels_last. With a channels_last input the input's format decides.
    channels_last = not weight.is_contiguous() and weight.is_contiguous(
        memory_format=torch.channels_last
    )
    return weight[: size[0], : size[1]].clone(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
