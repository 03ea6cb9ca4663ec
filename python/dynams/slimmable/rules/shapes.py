"""Functions that move elements: reshapes, permutations, slices, splits, concatenations, paddings."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

from dynams.slimmable.axes import Axis, concatenated, factored, parted, product, unite, whole
from dynams.slimmable.extents import Extent
from dynams.slimmable.record import Ref
from dynams.slimmable.rules.call import Call, Layout, Outcome, Scaled, met, wholes


def regrouped(axes: Layout, shape: tuple[int, ...]) -> Layout:
    """Return the axes of a tensor of ``axes`` once it has ``shape``."""
    result = [whole(size) for size in shape]
    ours = [each for each in axes if each.size != 1]
    theirs = [dim for dim, size in enumerate(shape) if size != 1]
    while ours and theirs:
        joined, split = [ours.pop(0)], [theirs.pop(0)]
        while True:
            have = math.prod(each.size for each in joined)
            want = math.prod(shape[dim] for dim in split)
            if have == want:
                break
            if have < want:
                joined.append(ours.pop(0))
            else:
                split.append(theirs.pop(0))
        parts = factored(product(joined), [shape[dim] for dim in split])
        for dim, part in zip(split, parts, strict=True):
            result[dim] = part
    return tuple(result)


def reshape(call: Call) -> Outcome:
    """Split and join axes."""
    (shape,) = call.shapes
    sizes = call.argument(1, "shape", "size")
    if isinstance(sizes, (torch.dtype, Ref)) or call.step.name in ("view_as", "reshape_as"):
        other = call.axes(sizes if isinstance(sizes, Ref) else call.argument(1, "other"))
        if not other:
            raise NotImplementedError
        result = regrouped(call.first, shape)
        return Outcome((met([result, other], shape),))
    sizes = tuple(sizes) if isinstance(sizes, (tuple, list)) else call.args[1:]
    result = regrouped(call.first, shape)
    return Outcome(
        (result,), (call.argument(0, "input"), _scaled(sizes, result)), {}, torch.reshape
    )


def flatten(call: Call) -> Outcome:
    """Join axes."""
    return Outcome((regrouped(call.first, call.shapes[0]),))


def unflatten(call: Call) -> Outcome:
    """Split an axis."""
    dim = int(call.argument(1, "dim")) % len(call.first)
    sizes = call.argument(2, "sizes")
    result = regrouped(call.first, call.shapes[0])
    args = call.argument(0, "input"), dim, _scaled(sizes, result[dim : dim + len(sizes)])
    return Outcome((result,), args, {}, torch.Tensor.unflatten)


def permute(call: Call) -> Outcome:
    """Put axes in another order, which a tensor of distinct sizes shows."""
    axes = call.first
    shape = range(2, 2 + len(axes))
    args = (torch.empty(tuple(shape), device="meta"), *call.args[1:])
    moved = call.step.target(*args, **call.step.kwargs)  # type: ignore[operator]
    return Outcome((tuple(axes[size - 2] for size in moved.shape),))


def attribute(call: Call) -> Outcome:
    """A tensor that is a property of another: its transpose, or its data."""
    axes, name = call.first, call.args[1]
    if name in ("T", "H"):
        return Outcome((axes[::-1],))
    if name in ("mT", "mH"):
        return Outcome(((*axes[:-2], axes[-1], axes[-2]),))
    return Outcome((axes,))


def squeeze(call: Call) -> Outcome:
    """Drop axes of one element: those of the full width, also where a width keeps one of many."""
    axes = call.first
    given = call.argument(1, "dim")
    dims = (
        range(len(axes))
        if given is None
        else [int(dim) % len(axes) for dim in (given if isinstance(given, tuple) else (given,))]
    )
    dropped = tuple(dim for dim in dims if axes[dim].size == 1)
    left = tuple(axis for dim, axis in enumerate(axes) if dim not in dropped)
    return Outcome((left,), (call.argument(0, "input"), dropped), {}, torch.squeeze)


def unsqueeze(call: Call) -> Outcome:
    """Insert an axis of one element."""
    axes = call.first
    dim = int(call.argument(1, "dim")) % (len(axes) + 1)
    return Outcome(((*axes[:dim], whole(1), *axes[dim:]),))


def expand(call: Call) -> Outcome:
    """Repeat axes of one element."""
    axes, (shape,) = call.first, call.shapes
    if call.step.name == "expand_as":
        return Outcome((met([axes, call.axes(call.argument(1, "other"))], shape),))
    sizes = call.argument(1, "size", "shape")
    sizes = tuple(sizes) if isinstance(sizes, (tuple, list)) else call.args[1:]
    result = []
    for back in range(len(shape), 0, -1):
        have = axes[-back] if back <= len(axes) else whole(1)
        if have.size == shape[-back]:
            result.append(have)
        else:
            of = call.axis_of(sizes[-back])
            plain = not isinstance(sizes[-back], Extent)
            result.append(of or Axis(shape[-back], fixed=not plain))
    args = call.argument(0, "input"), _scaled(sizes, tuple(result))
    return Outcome((tuple(result),), args, {}, torch.Tensor.expand)


def repeat(call: Call) -> Outcome:
    """Repeat a tensor along its axes."""
    (shape,) = call.shapes
    axes = wholes((1,) * (len(shape) - len(call.first))) + call.first
    counts = call.argument(1, "repeats", "sizes", "dims")
    counts = tuple(counts) if isinstance(counts, (tuple, list)) else call.args[1:]
    # torch.tile may be given fewer of them.
    counts = (1,) * (len(shape) - len(counts)) + counts
    result, scaled = [], []
    for axis, size, count in zip(axes, shape, counts, strict=True):
        of = call.axis_of(count) if axis.size == 1 else None
        # One filter for each channel there is.
        result.append(concatenated([axis] * (size // axis.size)) if of is None else of)
        scaled.append(count if of is None else Scaled(count, of))
    return Outcome(
        (tuple(result),), (call.argument(0, "input"), tuple(scaled)), {}, torch.Tensor.repeat
    )


def concatenate(call: Call) -> Outcome:
    """Put tensors end to end."""
    (shape,) = call.shapes
    parts = [call.axes(each) for each in call.argument(0, "tensors")]
    # torch lets an empty tensor of one axis be concatenated with anything.
    parts = [each for each in parts if len(each) == len(shape)]
    dim = int(call.argument(1, "dim", "axis", default=0)) % len(shape)
    joined = concatenated(each[dim] for each in parts)
    for part in parts[1:]:
        for at, (one, other) in enumerate(zip(parts[0], part, strict=True)):
            if at != dim:
                unite(one, other)
    return Outcome(((*parts[0][:dim], joined, *parts[0][dim + 1 :]),))


def stack(call: Call) -> Outcome:
    """Put tensors along an axis of their own."""
    (shape,) = call.shapes
    parts = [call.axes(each) for each in call.argument(0, "tensors")]
    dim = int(call.argument(1, "dim", default=0)) % len(shape)
    axes = met(parts, shape[:dim] + shape[dim + 1 :])
    return Outcome(((*axes[:dim], whole(shape[dim]), *axes[dim:]),))


def unbind(call: Call) -> Outcome:
    """Take every element of an axis."""
    axes = call.first
    dim = int(call.argument(1, "dim", default=0)) % len(axes)
    axes[dim].fix()
    return Outcome(tuple(axes[:dim] + axes[dim + 1 :] for _ in call.shapes))


def split(call: Call) -> Outcome:
    """Cut an axis in parts."""
    axes = call.first
    dim = int(call.argument(2, "dim", default=0)) % len(axes)
    sizes = [shape[dim] for shape in call.shapes]
    if axes[dim].fixed:
        return Outcome(tuple((*axes[:dim], whole(size), *axes[dim + 1 :]) for size in sizes))
    parts = parted(axes[dim], sizes)
    sections = [Scaled(size, part) for size, part in zip(sizes, parts, strict=True)]
    return Outcome(
        tuple((*axes[:dim], part, *axes[dim + 1 :]) for part in parts),
        (call.argument(0, "tensor", "input"), sections, dim),
        {},
        torch.split,
    )


def get(call: Call) -> Outcome:
    """Index a tensor."""
    axes, index = _indexed(call, call.args[1])
    return Outcome((axes,), (call.args[0], index), {})


def put(call: Call) -> Outcome:
    """Assign to an indexed part of a tensor."""
    axes, index = _indexed(call, call.args[1])
    value = call.args[2]
    shape = tuple(each.size for each in axes)
    met([axes, call.axes(value)[-len(axes) :]], shape)
    return Outcome((), (call.args[0], index, value), {})


def narrow(call: Call) -> Outcome:
    """Take a part of an axis."""
    axes = call.first
    dim = int(call.argument(1, "dim")) % len(axes)
    start, length = call.argument(2, "start"), call.argument(3, "length")
    if not isinstance(start, int) or int(start) < 0:
        raise NotImplementedError
    first, stop = int(start), int(start) + int(length)
    part, bounds = _sliced(axes[dim], slice(start, start + length), first, stop)
    index = (*(slice(None),) * dim, bounds)
    result = (*axes[:dim], part, *axes[dim + 1 :])
    return Outcome((result,), (call.argument(0, "input"), index), {}, operator.getitem)


def select(call: Call) -> Outcome:
    """Take one element of an axis."""
    axes = call.first
    dim = int(call.argument(1, "dim")) % len(axes)
    axes[dim].fix()
    return Outcome((axes[:dim] + axes[dim + 1 :],))


def moved(call: Call) -> Outcome:
    """Move elements along axes that are kept whole in any case."""
    dims = call.argument(2 if call.step.name == "roll" else 1, "dims")
    axes = call.first
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    if not all(isinstance(dim, int) and axes[dim].fixed for dim in dims):
        raise NotImplementedError
    return Outcome((axes,))


def pad(call: Call) -> Outcome:
    """Pad the last axes; what is added to channels is kept by every width."""
    axes, amounts = list(call.first), call.argument(1, "pad")
    for at in range(0, len(amounts), 2):
        dim = len(axes) - 1 - at // 2
        before, after = amounts[at], amounts[at + 1]
        if axes[dim].fixed or before < 0 or after < 0:
            axes[dim].fix()
            axes[dim] = whole(call.shapes[0][dim])
        elif before or after:
            axes[dim] = concatenated([whole(int(before)), axes[dim], whole(int(after))])
    return Outcome((tuple(axes),))


def _scaled(sizes: Any, axes: Layout) -> tuple[Any, ...]:
    """Sizes along axes, as a width has them; -1 stays what torch is to find out."""
    return tuple(
        size if not isinstance(size, int) or size == -1 else Scaled(size, axis)
        for size, axis in zip(sizes, axes, strict=True)
    )


def _indexed(call: Call, index: Any) -> tuple[Layout, Any]:
    """The axes of an indexed tensor, and the index at a width."""
    axes = call.axes(call.args[0])
    parts = index if isinstance(index, tuple) and not isinstance(index, Ref) else (index,)
    taking = [each for each in parts if each is not None and each is not Ellipsis]
    has_ellipsis = any(each is Ellipsis for each in parts)
    if any(isinstance(each, (Ref, list)) for each in parts):
        return _gathered(call, parts)
    around = len(axes) - len(taking)
    result: list[Axis] = []
    bounds: list[Any] = []
    dim = 0
    if not has_ellipsis:
        parts = (*parts, Ellipsis)
    for each in parts:
        if each is None:
            result.append(whole(1))
        elif each is Ellipsis:
            result.extend(axes[dim : dim + around])
            dim += around
        elif isinstance(each, slice):
            start, stop, step = _bounds(each, axes[dim].size)
            if step != 1:
                axes[dim].fix()
                result.append(whole(len(range(start, stop, step))))
            else:
                part, each = _sliced(axes[dim], each, start, stop)
                result.append(part)
            dim += 1
        else:
            axes[dim].fix()
            dim += 1
        bounds.append(each)
    return tuple(result), tuple(bounds)


def _bounds(part: slice, size: int) -> tuple[int, int, int]:
    numbers = (None if each is None else int(each) for each in (part.start, part.stop, part.step))
    return slice(*numbers).indices(size)


def _gathered(call: Call, parts: tuple[Any, ...]) -> tuple[Layout, Any]:
    """Indexing by tensors: an axis that one of them indexes is kept whole."""
    axes = call.axes(call.args[0])
    if len([each for each in parts if each is None or isinstance(each, (Ref, list))]) > 1:
        raise NotImplementedError
    ellipses = [at for at, each in enumerate(parts) if each is Ellipsis]
    for at in ellipses:
        around = len(axes) - len(parts) + 1
        parts = (*parts[:at], *(slice(None),) * around, *parts[at + 1 :])
    result: list[Axis] = []
    for axis, each in zip(axes, (*parts, *(slice(None),) * len(axes)), strict=False):
        if isinstance(each, slice) and each == slice(None):
            result.append(axis)
            continue
        axis.fix()
        if isinstance(each, Ref):
            index = call.axes(each)
            for other in index:
                other.fix()
            result.extend(whole(other.size) for other in index)
        elif isinstance(each, list):
            result.append(whole(len(each)))
        elif isinstance(each, slice):
            result.append(whole(len(range(*_bounds(each, axis.size)))))
    if tuple(each.size for each in result) != (call.shapes[0] if call.shapes else ()):
        raise NotImplementedError  # such as a mask
    return tuple(result), call.args[1]


def _sliced(axis: Axis, part: slice, start: int, stop: int) -> tuple[Axis, slice]:
    stop = max(start, stop)
    if (start, stop) == (0, axis.size) and not isinstance(part.stop, Extent):
        return axis, part
    if axis.fixed:
        return whole(stop - start), part
    parts = parted(axis, (start, stop - start, axis.size - stop))

    def bound(given: Any, at: int) -> Scaled | None:
        # As it was given, so that a size stays variable: by what it counts, from either end.
        if given is None or (at == 1 and start == 0):
            return None
        return Scaled(given, concatenated(parts[at:] if int(given) < 0 else parts[:at]))

    return parts[1], slice(bound(part.start, 1), bound(part.stop, 2))
