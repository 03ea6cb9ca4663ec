"""The part of a parameter or buffer that a width uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from dynams.slimmable.axes import Ranges
from dynams.slimmable.rules import Layout


@dataclass(frozen=True)
class Slices:
    """What each width uses of a tensor.

    Attributes:
        shape: of the tensor.
        kept: for each width, the positions kept along each axis.
    """

    shape: tuple[int, ...]
    kept: dict[float, tuple[Ranges, ...]]
    # What every call asks for: the size of a leading block, or None, and the index that cuts it.
    _sizes: dict[float, tuple[int, ...] | None] = field(init=False, repr=False, compare=False)
    _index: dict[float, tuple[slice, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes = {width: _leading_size(kept) for width, kept in self.kept.items()}
        index = {width: _leading(size or (), self.shape) for width, size in sizes.items()}
        object.__setattr__(self, "_sizes", sizes)
        object.__setattr__(self, "_index", index)

    @classmethod
    def of(cls, layout: Layout, widths: Sequence[float]) -> Slices:
        """Make those of a tensor with these axes."""
        kept = {width: tuple(axis.ranges(width) for axis in layout) for width in widths}
        return cls(tuple(axis.size for axis in layout), kept)

    def whole(self, width: float) -> bool:
        """Whether ``width`` uses all of it."""
        return self._sizes[width] == self.shape

    def part(self, tensor: Tensor, width: float) -> Tensor:
        """Cut what ``width`` uses: the tensor itself where that is all of it, a compact copy of a weight."""
        size = self._sizes[width]
        if size is None or len(size) < 2 or size == self.shape:
            return self.view(tensor, width)
        return leading_block(tensor, size)

    def parts(self, tensor: Tensor, widths: Sequence[float]) -> Sequence[Tensor]:
        """Cut what each of ``widths`` uses, with one gradient for all of them where they are leading blocks.

        Without a gradient a leading block is a view: what multiplies matrices takes it as it is, and a
        convolution copies it as it would have been copied here.
        """
        if tensor.requires_grad and torch.is_grad_enabled() and tensor.dim() > 1:
            sizes = [self._sizes[width] for width in widths]
            if None not in sizes and any(size != self.shape for size in sizes):
                blocks: tuple[Tensor, ...] = cast(Any, LeadingBlocks).apply(tensor, *sizes)
                return blocks
        return [self.view(tensor, width) for width in widths]

    def view(self, tensor: Tensor, width: float) -> Tensor:
        """Cut what ``width`` uses, uncopied where it is one range along each axis."""
        size = self._sizes[width]
        if size == self.shape:
            return tensor
        if size is not None:
            return tensor[self._index[width]]
        for dim, ranges in enumerate(self.kept[width]):
            if ranges != ((0, self.shape[dim]),):
                parts = [tensor.narrow(dim, start, stop - start) for start, stop in ranges]
                tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
        return tensor


def _leading_size(kept: Sequence[Ranges]) -> tuple[int, ...] | None:
    """Return the shape of what is kept, where that is a leading block."""
    if any(len(each) != 1 or each[0][0] for each in kept):
        return None
    return tuple(each[0][1] for each in kept)


class LeadingBlocks(torch.autograd.Function):
    """Leading blocks of several sizes, as compact copies; the full size is the weight.

    Plain indexing is right but slower: the convolution would copy a strided block in the forward
    and again in the backward pass, and every block's gradient would come as nested zero-padded
    tensors in NCHW order, to be transposed again for a channels_last weight and summed at full size.
    """

    # No setup_context: with it every call binds a signature, some 90 us on the CPU.
    @staticmethod
    def forward(ctx: Any, weight: Tensor, *sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Cut the leading block of each size; the weight itself where that is all of it."""
        ctx.set_materialize_grads(False)
        ctx.sizes, ctx.shape, ctx.strides = sizes, weight.shape, weight.stride()
        return tuple(
            weight.view_as(weight) if size == weight.shape else leading_block(weight, size)
            for size in sizes
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Add the blocks' gradients into one of the weight's shape."""
        total: Tensor | None = None
        slim: list[tuple[tuple[int, ...], Tensor]] = []
        for size, grad in zip(ctx.sizes, grads, strict=True):
            if grad is None:
                continue
            if size != ctx.shape:
                slim.append((size, grad))
            else:
                total = grad if total is None else total + grad
        if slim and total is not None and total.is_sparse:
            total = total.to_dense()  # of a sparse embedding
        if slim and total is None:
            like = slim[0][1]
            total = torch.empty_strided(
                ctx.shape, ctx.strides, dtype=like.dtype, device=like.device
            ).zero_()
        elif slim and total is not None and (torch.compiler.is_compiling() or not _dense(total)):
            # A compiler may not ask how a gradient lies (torch 2.4).
            total = total.clone(memory_format=torch.contiguous_format)
        for size, grad in slim:
            assert total is not None
            # In place: the full gradient is fresh from the one operation that used the weight.
            total[_leading(size, ctx.shape)] += grad
        return total, *(None for _ in grads)


def _dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _leading(size: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Index a leading block; each axis named costs half a microsecond, so the last whole ones are not."""
    while size and size[-1] == shape[len(size) - 1]:
        size = size[:-1]
    return tuple(map(slice, size))


def leading_block(weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """Copy the leading block of ``size`` of a weight, in the weight's memory format."""
    # A 1x1 weight is contiguous in both formats: it is made NCHW, so as not to pull an NCHW network
    # into channels_last. With a channels_last input the input's format decides.
    channels_last = (
        weight.dim() == 4
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
    )
    return weight[_leading(size, weight.shape)].clone(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
