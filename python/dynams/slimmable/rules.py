"""What each function and method does to channels: the layout of its result, or why it is refused.

Sizes that a forward reads hold at one width only, so whatever reshapes by them is replaced by what is
meant: flattening all but the batch, or making (B, C, 1, 1) of (B, C).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from dynams.slimmable import operations as ops
from dynams.slimmable.channels import ONE, Area, Layout, MisfitError, concatenate, join
from dynams.slimmable.trace import DROPOUTS

KNOWN = (
    "Conv2d, Linear, BatchNorm1d/2d, GroupNorm, elementwise activations, dropout, 2-D pooling, padding "
    "and resizing, mean over height and width, flatten(1), +, -, *, / and cat along axis 1"
)


@dataclass(frozen=True)
class Sizes:
    """The size of a tensor."""

    of: Layout


@dataclass(frozen=True)
class Size:
    """One number of the size of a tensor: of axis 0 or 1."""

    of: Layout
    axis: int


@dataclass(frozen=True)
class Constant:
    """A parameter or buffer of so many elements."""

    elements: int


@dataclass(frozen=True)
class Call:
    """A call of a function, or of a method of its first argument, with what is known of its arguments.

    Attributes:
        target: the function, or the method's name.
        args: positional arguments.
        kwargs: arguments by name.
        used: whether anything uses the result.
    """

    target: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    used: bool = True

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(getattr(self.target, "__name__", self.target))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, wherever it stands."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def tensor(self) -> Layout:
        """Return the first argument, which must be the only one that depends on the input.

        Raises:
            MisfitError: it is not.
        """
        first = self.argument(0, "input")
        if not isinstance(first, Layout) or _traced((*self.args, *self.kwargs.values())) != 1:
            raise MisfitError(f"{self.name} must take one tensor, and otherwise numbers")
        return first


@dataclass(frozen=True)
class Outcome:
    """What a call comes to.

    Attributes:
        value: its result: a `Layout`, `Sizes` or `Size`.
        instead: runs in place of the function, on the tensor and `rest` if `rest` is not None and
            on the arguments as they are if it is; None runs the function itself.
        rest: see `instead`.
    """

    value: Any
    instead: Callable[..., Any] | None = None
    rest: tuple[Any, ...] | None = None


def outcome(call: Call) -> Outcome:
    """Find what a call comes to.

    Raises:
        MisfitError: it cannot be slimmed.
    """
    target: Any = call.target
    method = isinstance(target, str)
    if target in ("size", operator.getitem) or (target is getattr and call.args[1] == "shape"):
        return _read(call)
    if target in ("flatten", "view", "reshape", torch.flatten, torch.reshape):
        return _reshape(call)
    if target in ("mean", torch.mean):
        return _mean(call)
    if target in ops.CONCATENATIONS:
        return _concatenate(call)
    if target in (ops.BINARY_METHODS if method else ops.BINARY):
        return _binary(call)
    if target in ops.SPATIAL or target is functional.pad:
        return _spatial(call)
    if target in (ops.ELEMENTWISE_METHODS if method else ops.ELEMENTWISE | DROPOUTS):
        return Outcome(call.tensor())
    raise MisfitError(f"{call.name} is not supported; known are {KNOWN}")


def flattened(source: Layout, start: Any, end: Any) -> Layout:
    """Return the layout of `source` flattened from one axis to another.

    Raises:
        MisfitError: that is not all but the batch.
    """
    if start != 1 or end not in (-1, (source.rank or 0) - 1):
        raise MisfitError(
            f"flatten: got start_dim={start}, end_dim={end}, want flatten(1): all but the batch"
        )
    if source.rank == 2:
        return source
    return Layout(source.blocks, 2, ONE if source.pooled else Area())


def maps(source: Layout, pooled: bool = False) -> Layout:
    """Return the layout of what is computed channel by channel over height and width.

    Raises:
        MisfitError: `source` has no height and width.
    """
    if source.rank not in (4, None):
        raise MisfitError(f"its input: got {source.rank} dimensions, want (B, C, H, W)")
    return Layout(source.blocks, 4, ONE, pooled)


def is_one(size: Any) -> bool:
    """Whether adaptive pooling to `size` leaves one element of each channel."""
    return size in (1, (1, 1), [1, 1])


def _read(call: Call) -> Outcome:
    """Read sizes, or index a tensor."""
    source = call.args[0]
    if call.target != "size" and isinstance(source, Sizes) and not call.used:
        # Unpacking a size reads all of its numbers.
        return Outcome(None)
    if isinstance(source, Layout) and call.target is operator.getitem:
        index = call.args[1]
        inner = index[2:] if isinstance(index, tuple) else ()
        if not inner or index[:2] != (slice(None),) * 2 or not all(map(_constant_slice, inner)):
            raise MisfitError("only height and width may be indexed, by constant slices")
        return Outcome(maps(source))
    of = source.of if isinstance(source, Sizes) else source
    axis = None if call.target is getattr else call.argument(1, "dim")
    if not isinstance(of, Layout) or axis not in (None, 0, 1):
        raise MisfitError("of sizes only those of axes 0 and 1 may be used, to flatten by them")
    return Outcome(Sizes(of) if axis is None else Size(of, axis))


def _reshape(call: Call) -> Outcome:
    source = call.argument(0, "input")
    if not isinstance(source, Layout):
        raise MisfitError(f"{call.name} must take a tensor")
    if call.name == "flatten":
        start, end = call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1)
        return Outcome(flattened(source, start, end), torch.flatten, (1,))
    shape = call.argument(1, "shape")
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else call.args[1:]
    first, channels = (*shape, None, None)[:2]
    batch = first == -1 or (isinstance(first, Size) and first.axis == 0)
    like = channels.of.blocks if isinstance(channels, Size) and channels.axis == 1 else None
    number = isinstance(channels, int) and (channels > 0 or (channels == -1 and first != -1))
    count = channels if number and channels > 0 else None
    if batch and len(shape) == 2 and (like or number):
        flat = flattened(source, 1, -1)
        if like:
            # As many features as that tensor has channels, so height and width are 1.
            flat = join(Layout(like, 2), Layout(flat.blocks, 2))
        elif count:
            flat.elements(count)
        return Outcome(flat, torch.flatten, (1,))
    if batch and shape[2:] == (1, 1) and source.rank == 2 and (like or number):
        result = Layout(source.elements(count), 4, ONE, True)
        if like:
            result = join(result, Layout(like, 4, ONE, True))
        return Outcome(result, ops.to_maps, ())
    raise MisfitError(
        f"{call.name} may only flatten all but the batch, as flatten(1) does, or make (B, C, 1, 1) "
        "of (B, C)"
    )


def _mean(call: Call) -> Outcome:
    source, dims = call.tensor(), call.argument(1, "dim")
    dims = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    over = sorted(dim % 4 if isinstance(dim, int) else -1 for dim in dims)
    if source.rank not in (4, None) or over != [2, 3]:
        raise MisfitError("a mean must be over height and width, axes 2 and 3, at once")
    if call.argument(2, "keepdim", False):
        return Outcome(maps(source, pooled=True))
    return Outcome(Layout(source.blocks, 2))


def _concatenate(call: Call) -> Outcome:
    parts, axis = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    if not all(isinstance(part, Layout) for part in parts):
        raise MisfitError("it must concatenate results of layers")
    if axis not in {1, *(1 - part.rank for part in parts if part.rank)}:
        raise MisfitError(f"axis of a concatenation: got {axis}, want 1")
    return Outcome(concatenate(parts))


def _binary(call: Call) -> Outcome:
    operands = (call.argument(0, "input"), call.argument(1, "other"))
    layouts = [each for each in operands if isinstance(each, Layout)]
    constants = [each for each in operands if isinstance(each, Constant)]
    numbers = [each for each in operands if isinstance(each, (int, float))]
    if not layouts or len(layouts) + len(constants) + len(numbers) != 2:
        raise MisfitError(f"{call.name} must combine results of layers, or one with a number")
    result = layouts[0] if len(layouts) == 1 else join(*layouts)
    if result.blocks is not None and any(each.elements > 1 for each in constants):
        raise MisfitError(
            f"{call.name} uses a parameter or buffer of several elements, which would have to slim "
            "with the channels"
        )
    return Outcome(result)


def _spatial(call: Call) -> Outcome:
    source = call.tensor()
    if call.target is functional.pad:
        if len(call.argument(1, "pad")) > 4:
            raise MisfitError(
                "it pads the channels; only height and width may be padded (let a shortcut that "
                "changes the channels be a 1x1 Conv2d)"
            )
        return Outcome(maps(source))
    one = call.target in ops.ADAPTIVE and is_one(call.argument(1, "output_size"))
    assert not isinstance(call.target, str)
    return Outcome(maps(source, pooled=one), ops.SPATIAL[call.target])


def _traced(argument: Any) -> int:
    if isinstance(argument, (tuple, list)):
        return sum(map(_traced, argument))
    return int(isinstance(argument, (Layout, Sizes, Size, Constant)))


def _constant_slice(index: Any) -> bool:
    return isinstance(index, slice) and all(
        bound is None or isinstance(bound, int) for bound in (index.start, index.stop, index.step)
    )
