"""What a network's forward does: a straight line of operations on tensors.

The record is functional: layers appear as the functions that they call on their parameters. Only
batch-norms and dropouts stay modules, because they have modes of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynams.slimmable.extents import Extent


class RefusedError(ValueError):
    """What cannot be made slimmable, and why."""


class Ref(NamedTuple):
    """A tensor of the record.

    Attributes:
        number: which.
    """

    number: int


class Place(NamedTuple):
    """Where an operation stands.

    Attributes:
        path: of the module whose forward it is in; "" is the network itself.
        kind: name of the module's class.
        line: file name and number; "" if unknown.
    """

    path: str
    kind: str
    line: str = ""

    @property
    def told(self) -> str:
        """The place in words."""
        name = f"module {self.path!r}" if self.path else "the network itself"
        return f"{name} ({self.kind}{f', at {self.line}' if self.line else ''})"

    def refusal(self, problem: str) -> RefusedError:
        """Make the error that refuses what stands here."""
        return RefusedError(f"cannot make {self.told} slimmable: {problem}")


class Region(NamedTuple):
    """What a forward switched for a part of itself.

    Attributes:
        grad: whether gradients are on.
        autocast: device type, whether autocast is on and its dtype, where it was switched.
    """

    grad: bool
    autocast: tuple[str, bool, torch.dtype] | None


class Leaf(NamedTuple):
    """A module that is called as it is.

    Attributes:
        path: of the module.
    """

    path: str


@dataclass(eq=False)
class Step:
    """One operation.

    Attributes:
        target: a function of torch, or a module.
        args: positional arguments; tensors are `Ref`, sizes `Extent`.
        kwargs: arguments by name likewise.
        results: the tensors it gives.
        packed: it gives a tuple of them.
        place: where it stands.
        region: what was switched for it.
    """

    target: Callable[..., Any] | Leaf
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Ref, ...]
    packed: bool
    place: Place
    region: Region | None = None

    @property
    def name(self) -> str:
        """Name of the function."""
        if isinstance(self.target, Leaf):
            return self.target.path
        return str(getattr(self.target, "__name__", self.target))

    def same(self, other: Step) -> bool:
        """Whether both do the same, as far as the record shows."""
        return (
            self.target == other.target
            and self.results == other.results
            and self.region == other.region
            and _plain((self.args, self.kwargs)) == _plain((other.args, other.kwargs))
        )


@dataclass(eq=False)
class Guard:
    """A comparison of sizes that the forward decided by.

    Attributes:
        name: of the comparison, in `operator`.
        args: what was compared.
        outcome: what came of it.
        place: where it stands.
    """

    name: str
    args: tuple[Any, Any]
    outcome: bool
    place: Place

    def same(self, other: Guard) -> bool:
        """Whether both ask the same and get the same answer."""
        return (self.name, _plain(self.args), self.outcome) == (
            other.name,
            _plain(other.args),
            other.outcome,
        )


@dataclass
class Record:
    """A forward, as a straight line of operations.

    Attributes:
        input: the network's input.
        training: in which mode it was recorded.
        steps: in order.
        shapes: of all tensors, in the example.
        states: paths of the parameters and buffers used.
        constants: values of other tensors that the network brought.
        sources: numbers of those among all such tensors.
        replaced: buffers that it puts another tensor in the place of, and those.
        changed: paths of the parameters and buffers that it changes.
        output: the logits.
        logits: their values.
    """

    input: Ref
    training: bool
    steps: list[Step | Guard] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    states: dict[Ref, str] = field(default_factory=dict)
    constants: dict[Ref, Tensor] = field(default_factory=dict)
    sources: dict[Ref, int] = field(default_factory=dict)
    replaced: dict[Ref, Ref] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    output: Ref = field(default_factory=lambda: Ref(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Shape of a tensor, of the example."""
        return self.shapes[ref.number]

    def constant_name(self, ref: Ref) -> str:
        """Name of a constant."""
        return f"{'training' if self.training else 'eval'}_{list(self.constants).index(ref)}"


def _plain(value: Any) -> Any:
    """Arguments without identities, to be compared."""
    if isinstance(value, Extent):
        return value.expression
    if isinstance(value, Ref):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, slice):
        return ("slice", _plain(value.start), _plain(value.stop), _plain(value.step))
    if isinstance(value, float):
        return repr(value)  # a NaN equals itself
    return value


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to what containers hold."""
    if isinstance(value, Ref):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(each, function) for key, each in value.items()}
    if isinstance(value, list):
        return [mapped(each, function) for each in value]
    if isinstance(value, tuple):
        return tuple(mapped(each, function) for each in value)
    if isinstance(value, slice):
        bounds = (value.start, value.stop, value.step)
        return slice(*(mapped(each, function) for each in bounds))
    return function(value)
