"""A call as the rules see it, and what a rule says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dynams.slimmable.axes import Axis, product, unite, whole
from dynams.slimmable.extents import Expression, Extent
from dynams.slimmable.record import Ref, Step

Layout = tuple[Axis, ...]
"""The axes of a tensor."""


class Scaled(NamedTuple):
    """A size among arguments: so much at full width, and in proportion what a width keeps of an axis.

    Attributes:
        value: at full width; below 0 where it is counted from the end, as the bound of a slice.
        axis: what it is a size of.
    """

    value: Any
    axis: Axis


@dataclass(frozen=True)
class Outcome:
    """What a call comes to.

    Attributes:
        layouts: of its results.
        args: positional arguments, with `Scaled` for what depends on the width; None: as they are.
        kwargs: arguments by name likewise; those that are there when ``args`` is None.
        target: what to call instead; None: what was called.
    """

    layouts: tuple[Layout, ...]
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    target: Callable[..., Any] | None = None


class Call:
    """A call with the layouts of its tensors.

    Args:
        step: the call.
        layouts: of the tensors it takes.
        shapes: of its results, in the example.
    """

    def __init__(
        self, step: Step, layouts: Callable[[Ref], Layout], shapes: Sequence[tuple[int, ...]]
    ) -> None:
        self.step = step
        self.shapes = tuple(shapes)
        self._layouts = layouts

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments."""
        return self.step.args

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument, wherever it stands."""
        if position < len(self.args):
            return self.args[position]
        for name in names:
            if name in self.step.kwargs:
                return self.step.kwargs[name]
        return default

    def axes(self, value: Any) -> Layout:
        """Return the axes of a tensor."""
        return self._layouts(value) if isinstance(value, Ref) else ()

    @property
    def first(self) -> Layout:
        """The axes of the first argument."""
        return self.axes(self.argument(0, "input", "x", "tensors", "self"))

    @property
    def tensors(self) -> list[Ref]:
        """All tensors among the arguments."""
        return list(refs((self.args, self.step.kwargs)))

    def replaced(
        self, position: int, name: str, value: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with one of them replaced."""
        args, kwargs = list(self.args), dict(self.step.kwargs)
        if position < len(args):
            args[position] = value
        else:
            kwargs[name] = value
        return tuple(args), kwargs

    def axis_of(self, size: Any) -> Axis | None:
        """Return the axis that a size is the size of, if it is just that."""
        if isinstance(size, Extent) and size.expression.name == "size":
            ref, dim = size.expression.args
            axis: Axis = self._layouts(ref)[dim]
            return axis
        return None

    def scaled(self, value: Any) -> Any:
        """A size among numbers, as the width has it: of an axis, or of the product of several."""

        def axes(expression: Any) -> list[Axis] | None:
            if not isinstance(expression, Expression):
                return []
            if expression.name == "size":
                ref, dim = expression.args
                return [self._layouts(ref)[dim]]
            parts = list(map(axes, expression.args))
            if expression.name != "mul" or None in parts:
                return None
            return [axis for part in parts for axis in part or ()]

        factors = axes(value.expression) if isinstance(value, Extent) else None
        return Scaled(value, product(factors)) if factors else value


Rule = Callable[[Call], Outcome]


def refs(value: Any) -> Iterator[Ref]:
    """Iterate over the tensors in arguments."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from refs(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from refs(each)


def met(layouts: Sequence[Layout], shape: Sequence[int]) -> Layout:
    """Unite tensors that meet element by element, broadcast to ``shape``; return the result's axes."""
    result = []
    for back in range(len(shape), 0, -1):
        axes = [each[-back] for each in layouts if len(each) >= back]
        axes = [each for each in axes if each.size == shape[-back]]
        for other in axes[1:]:
            unite(axes[0], other)
        result.append(axes[0] if axes else whole(shape[-back]))
    return tuple(result)


def wholes(shape: Sequence[int]) -> Layout:
    """Axes that keep all."""
    return tuple(map(whole, shape))
