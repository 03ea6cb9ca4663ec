"""The forward at one width, as a torch.fx graph: a function of the input, the weights it uses and its modules.

It holds nothing itself. So the modules of the network may be moved, copied or replaced (by synchronised
batch-norms, say), and several widths run the same way with different slices of the weights.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dynams.slimmable.analysis import Slimming
from dynams.slimmable.extents import Expression, Extent
from dynams.slimmable.places import Places
from dynams.slimmable.record import Guard, Leaf, Ref, Region, Step
from dynams.slimmable.recordings import Varying
from dynams.slimmable.rules import Scaled, refs
from dynams.slimmable.stored import address, addressed, loaded, stored


class Within(NamedTuple):
    """A function called with gradients or autocast switched, as the forward had it.

    Attributes:
        function: what to call; the name of a method of the first argument; "" calls that itself.
        region: how they are switched.
    """

    function: Callable[..., Any] | str
    region: Region

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        function, args = _called(self.function, args)
        autocast: Any = nullcontext()
        if self.region.autocast is not None:
            device, enabled, dtype = self.region.autocast
            # Where the network is now, not where the example was.
            device = next((each.device.type for each in args if isinstance(each, Tensor)), device)
            autocast = torch.autocast(device, enabled=enabled, dtype=dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.region.grad), autocast:
            return function(*args, **kwargs)


def _called(function: Callable[..., Any] | str, args: Any) -> tuple[Any, Any]:
    if not isinstance(function, str):
        return function, args
    return (getattr(args[0], function) if function else args[0]), args[1:]


@dataclass
class Program:
    """A part of a forward at one width.

    Attributes:
        graph: the function: of a tensor, then `tensors`, then `modules`.
        tensors: paths of the parameters and buffers it takes.
        modules: paths of the modules it calls, and functions called in a region.
    """

    graph: fx.GraphModule
    tensors: tuple[str, ...]
    modules: tuple[str | Within, ...]
    _places: Places = field(init=False, repr=False)

    def __post_init__(self) -> None:
        paths = [each for each in self.modules if isinstance(each, str)]
        self._places = Places(self.tensors, paths)

    def taken(self, network: nn.Module) -> tuple[list[Tensor], list[Any]]:
        """Find `tensors` and `modules` in a network as it is now."""
        tensors, modules = self._places.find(network)
        if len(modules) == len(self.modules):
            return tensors, modules
        left = iter(modules)
        return tensors, [each if isinstance(each, Within) else next(left) for each in self.modules]

    def run(self, input: Tensor, tensors: Sequence[Tensor], modules: Sequence[Any]) -> Tensor:
        """Call the function."""
        # Not the module itself, whose wrapping of a call costs as much as a small layer.
        output: Tensor = self.graph.forward(input, *tensors, *modules)
        return output

    def __deepcopy__(self, memo: object) -> Program:
        return self  # nothing changes it

    def __reduce__(self) -> Any:
        return _loaded, (stored(self.graph.graph), self.tensors, _stored_modules(self.modules))


def _stored_modules(modules: Sequence[str | Within]) -> list[Any]:
    return [
        (address(each.function), each.region) if isinstance(each, Within) else each
        for each in modules
    ]


def _loaded(nodes: Sequence[Any], tensors: tuple[str, ...], modules: Sequence[Any]) -> Program:
    called = [
        each if isinstance(each, str) else Within(addressed(each[0]), each[1]) for each in modules
    ]
    return Program(fx.GraphModule(nn.Module(), loaded(nodes), "Width"), tensors, tuple(called))


def features_of(found: Slimming, width: float, varying: Varying) -> Program:
    """Make the program from the network's input to what the classifier takes."""
    return features_and_nodes(found, width, varying)[0]


def features_and_nodes(
    found: Slimming, width: float, varying: Varying
) -> tuple[Program, dict[Ref, fx.Node]]:
    """As `features_of`; tells too which node of its graph gives a tensor of the record."""
    head = found.head
    steps = found.record.steps[: head.step]
    builder = _Builder(found, width, varying)
    program = builder.build(steps, found.record.input, head.features, found.record.replaced)
    return program, builder.nodes


def logits_of(found: Slimming, width: float, varying: Varying) -> Program:
    """Make the program from what the classifier takes to the logits."""
    head = found.head
    steps = found.record.steps[head.step :]
    return _Builder(found, width, varying).build(steps, head.features, found.record.output)


def compare_sizes(name: str, one: int, other: int, outcome: bool, told: str) -> None:
    """Check what the forward decided by when it was recorded.

    Raises:
        ValueError: it would decide otherwise.
    """
    if bool(getattr(operator, name)(one, other)) != outcome:
        raise ValueError(
            f"images: got sizes for which {told} decides otherwise than for what the network was converted for "
            f"({one} {name} {other} is {not outcome}); convert(..., example=...) takes another"
        )


class _Builder:
    def __init__(self, found: Slimming, width: float, varying: Varying) -> None:
        self.found, self.width, self.varying = found, width, varying
        self.record = found.record
        self.graph = fx.Graph()
        self.nodes: dict[Ref, fx.Node] = {}
        self.sizes: dict[tuple[Ref, int], fx.Node] = {}
        self.computed: dict[Expression, Any] = {}
        self.modules: dict[str | Within, fx.Node] = {}
        self.input = self.record.input
        self.device: fx.Node | None = None

    def build(
        self,
        steps: Sequence[Step | Guard],
        input: Ref,
        output: Ref,
        replaced: Mapping[Ref, Ref] = MappingProxyType({}),
    ) -> Program:
        self.input = input
        live = self._live(steps, {output, *replaced.values()})
        self.nodes[input] = self.graph.placeholder("input")
        tensors: dict[Ref, str] = {}
        for step in live:
            for ref in refs(self._arguments(step)):
                if ref in self.record.states:
                    tensors[ref] = f"network.{self.record.states[ref]}"
                elif ref in self.record.constants:
                    tensors[ref] = f"constants.{self.record.constant_name(ref)}"
        for ref in replaced:
            tensors[ref] = f"network.{self.record.states[ref]}"
        for ref, path in tensors.items():
            self.nodes[ref] = self._parameter(path)
        buffers = {ref: self.nodes[ref] for ref in replaced}
        for step in live:
            for called in self._called_modules(step):
                if called not in self.modules:
                    name = called if isinstance(called, str) else f"within_{len(self.modules)}"
                    self.modules[called] = self._parameter(name)
        for ref, node in buffers.items():
            # What was computed of its old value may need that for its gradient.
            self.nodes[ref] = self.graph.call_method("clone", (node,))
        wanted = set(self._leaves(live))
        for ref in (input, *tensors):
            self._read_sizes(ref, wanted)
        self._read_batch(live, wanted)
        for step in live:
            if isinstance(step, Guard):
                self._guard(step)
            else:
                self._emit(step)
                for ref in step.results:
                    self._read_sizes(ref, wanted)
        for ref, node in buffers.items():
            value = self.graph.call_method("detach", (self.nodes[replaced[ref]],))
            self.graph.call_method("copy_", (node, value))
        self.graph.output(self.nodes[output])
        self.graph.lint()
        graph = fx.GraphModule(nn.Module(), self.graph, "Width")
        return Program(graph, tuple(tensors.values()), tuple(self.modules))

    def _parameter(self, path: str) -> fx.Node:
        # Names of modules may be anything without a dot; numbered, they stay apart.
        return self.graph.placeholder(re.sub(r"\W", "_", path) + f"_{len(self.graph.nodes)}")

    def _live(self, steps: Sequence[Step | Guard], needed: set[Ref]) -> list[Step | Guard]:
        """What is needed, what changes a tensor in place, and modules, which may count calls."""
        made = {
            self.input,
            *(ref for each in steps if isinstance(each, Step) for ref in each.results),
        }
        live: list[Step | Guard] = []
        for step in reversed(steps):
            if isinstance(step, Guard):
                leaves = list(_leaves(step.args))
                known = all(ref in made for ref, _ in leaves)
                if known and any(each in self.varying for each in leaves):
                    live.append(step)
                    needed.update(ref for ref, _ in leaves)
            elif (
                needed.intersection(step.results)
                or _in_place(step)
                or isinstance(step.target, Leaf)
            ):
                live.append(step)
                arguments = self._arguments(step)
                needed.update(refs(arguments))
                needed.update(ref for ref, _ in _leaves(arguments))
        return live[::-1]

    def _arguments(self, step: Step | Guard) -> Any:
        if isinstance(step, Guard):
            return step.args
        outcome = self.found.outcomes[step]
        if outcome.args is None:
            return step.args, step.kwargs
        return outcome.args, dict(outcome.kwargs or {})

    def _leaves(self, steps: Sequence[Step | Guard]) -> Iterator[tuple[Ref, int]]:
        for step in steps:
            yield from (each for each in _leaves(self._arguments(step)) if each in self.varying)

    def _read_sizes(self, ref: Ref, wanted: set[tuple[Ref, int]]) -> None:
        # At once, so that the tensor is not held for a size of it that is used later.
        for dim in range(len(self.record.shape(ref))):
            if (ref, dim) in wanted:
                self.sizes[ref, dim] = self.graph.call_method("size", (self.nodes[ref], dim))

    def _read_batch(self, live: Sequence[Step | Guard], wanted: set[tuple[Ref, int]]) -> None:
        """Read the number of samples of the input, where the logits are given that of an earlier tensor."""
        made = {
            self.input,
            *(ref for each in live if isinstance(each, Step) for ref in each.results),
        }
        for ref, dim in wanted:
            if ref in made or ref in self.nodes:
                continue
            samples = self.record.shape(self.input)[0]
            if dim != 0 or self.record.shape(ref)[0] != samples:
                raise live[-1].place.refusal(
                    "its logits are given a size of a tensor before the classifier; want -1, or logits as the "
                    "classifier gives them"
                )
            self.sizes[ref, dim] = self.graph.call_method("size", (self.nodes[self.input], 0))

    def _size(self, value: Any) -> Any:
        """A size as the full width has it: a number, or a node where another input may change it."""
        if isinstance(value, Extent):
            value = value.expression
        if not isinstance(value, Expression):
            return value
        if value not in self.computed:
            self.computed[value] = self._compute(value)
        return self.computed[value]

    def _compute(self, value: Expression) -> Any:
        if value.name == "size":
            ref, dim = value.args
            full = self.record.shape(ref)[dim]
            if (ref, dim) not in self.varying:
                return full
            node = self.sizes[ref, dim]
            axis = self.found.layouts[ref][dim]
            return node if axis.fixed else self._ratio(node, axis.size, axis.count(self.width))
        operands = tuple(map(self._size, value.args))
        function = getattr(operator, value.name)
        if any(isinstance(each, fx.Node) for each in operands):
            return self.graph.call_function(function, operands)
        return function(*operands)

    def _scaled(self, value: Scaled) -> Any:
        size = self._size(value.value)
        if value.axis.fixed or self.width == 1.0:
            return size
        return self._ratio(size, value.axis.count(self.width), value.axis.size)

    def _ratio(self, size: Any, times: int, by: int) -> Any:
        if times == by:
            return size
        if isinstance(size, int):
            return size * times // by
        product = self.graph.call_function(operator.mul, (size, times))
        return self.graph.call_function(operator.floordiv, (product, by))

    def _valued(self, value: Any) -> Any:
        if isinstance(value, Scaled):
            return self._scaled(value)
        if isinstance(value, Ref):
            return self.nodes[value]
        if isinstance(value, Extent):
            return self._size(value)
        if isinstance(value, torch.device):
            # Made where the input is, not where the example was.
            self.device = self.device or self.graph.call_function(
                getattr, (self.nodes[self.input], "device")
            )
            return self.device
        if isinstance(value, dict):
            return {key: self._valued(each) for key, each in value.items()}
        if isinstance(value, slice):
            return slice(*map(self._valued, (value.start, value.stop, value.step)))
        if isinstance(value, (tuple, list)):
            return (list if isinstance(value, list) else tuple)(map(self._valued, value))
        return value

    def _guard(self, step: Guard) -> None:
        one, other = map(self._size, step.args)
        if isinstance(one, fx.Node) or isinstance(other, fx.Node):
            args = step.name, one, other, step.outcome, step.place.told
            self.graph.call_function(compare_sizes, args)

    def _called_modules(self, step: Step | Guard) -> list[str | Within]:
        """What is called of what is handed over: a module, a function in its region, or both."""
        if isinstance(step, Guard):
            return []
        leaf = isinstance(step.target, Leaf)
        called: list[str | Within] = [f"network.{step.target.path}"] if leaf else []  # type: ignore[union-attr]
        if step.region is not None:
            called.insert(0, Within("" if leaf else self._target(step), step.region))
        return called

    def _target(self, step: Step) -> Any:
        return _named(self.found.outcomes[step].target or step.target)

    def _emit(self, step: Step) -> None:
        args, kwargs = self._valued(self._arguments(step))
        called = [self.modules[each] for each in self._called_modules(step)]
        if called:
            node = self.graph.call_method("__call__", (*called, *args), kwargs)
        else:
            node = emitted(self.graph, self._target(step), args, kwargs)
        if step.name == "linear" and self.found.sequences.intersection(step.results):
            # A norm of the tokens, not of what the layer puts out: kept apart, it is not folded into it.
            node = self.graph.call_method("view_as", (node, node))
        if not step.packed:
            for ref in step.results:
                self.nodes[ref] = node
            return
        for at, ref in enumerate(step.results):
            self.nodes[ref] = self.graph.call_function(operator.getitem, (node, at))


def emitted(graph: fx.Graph, target: Any, args: Any, kwargs: Any) -> fx.Node:
    """Add a call of a function, or of a method by name, to a graph."""
    target = _named(target)
    if isinstance(target, str):
        return graph.call_method(target, args, kwargs)
    return graph.call_function(target, args, kwargs)


def _named(target: Any) -> Any:
    """A method of a tensor by its name, which a graph can be stored with; other functions as they are."""
    name = getattr(target, "__name__", "")
    if name in ("__getitem__", "__setitem__"):
        return getattr(operator, name.strip("_"))
    # What `**` calls is wrapped under the method's name, by which its own module does not know it.
    method = getattr(torch.Tensor, name, None)
    return name if method in (target, getattr(target, "__wrapped__", target)) else target


def _in_place(step: Step) -> bool:
    name = step.name
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _leaves(value: Any) -> Iterator[tuple[Ref, int]]:
    """The axes whose sizes arguments use."""
    if isinstance(value, Extent):
        value = value.expression
    if isinstance(value, Expression):
        if value.name == "size":
            yield value.args
        else:
            for each in value.args:
                yield from _leaves(each)
    elif isinstance(value, Scaled):
        yield from _leaves(value.value)
    elif isinstance(value, slice):
        for each in (value.start, value.stop, value.step):
            yield from _leaves(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, (tuple, list)) and not isinstance(value, Ref):
        for each in value:
            yield from _leaves(each)
