"""What each operation of a traced network does to channels: how its layers slim, and its program.

Operations are visited in order. Each finds the layouts of its inputs, says what must slim alike, and
gives the layout of its output. Only when all are visited is it known how many channels a width keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx, nn

from dynams.slimmable import operations as ops
from dynams.slimmable.channels import Axis, Block, Layout, MisfitError, split_groups
from dynams.slimmable.network import Operation, Program, Value
from dynams.slimmable.rules import KNOWN, Call, Constant, flattened, is_one, maps, outcome
from dynams.slimmable.trace import Place, Trace

Blocks = tuple[Block, ...] | None


@dataclass(frozen=True)
class Slimming:
    """How one layer slims.

    Attributes:
        place: where it stands.
        rows: blocks of its outputs; None keeps all.
        columns: blocks of its inputs (of one group); None keeps all.
    """

    place: Place
    rows: Blocks
    columns: Blocks = None


@dataclass(frozen=True)
class Findings:
    """What `convert` builds.

    Attributes:
        layers: how each layer slims, by path.
        modules: paths of the other modules called.
        attributes: paths of the parameters and buffers that the forward reads.
        head: path of the classifier.
        program: from images to features.
    """

    layers: dict[str, Slimming]
    modules: frozenset[str]
    attributes: frozenset[str]
    head: str
    program: Program


def analyse(trace: Trace) -> Findings:
    """Find out how every layer of the traced network slims.

    Raises:
        ValueError: an operation that cannot be slimmed; the message names its module, type and line.
    """
    return _Analysis(trace).findings()


class _Analysis:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.values: dict[fx.Node, Any] = {}
        self.results: dict[fx.Node, int] = {}
        self.operations: list[Operation] = []
        self.layers: dict[str, Slimming] = {}
        self.modules: set[str] = set()
        self.attributes: set[str] = set()
        self.owners: dict[int, str] = {}

    def findings(self) -> Findings:
        *nodes, output = self.trace.nodes
        head = self._head(output)
        for node in nodes:
            if node is head:
                continue
            if head in node.all_input_nodes:
                raise _place(head).refusal("the logits must be used by nothing else")
            try:
                self.values[node] = self._visit(node)
            except MisfitError as error:
                raise _place(node).refusal(str(error)) from error
        (features,) = head.all_input_nodes
        path = str(head.target)
        try:
            columns = _linear_inputs(self.values[features], cast(nn.Linear, self._module(head)))
            self._add_layer(path, Slimming(_place(head), None, columns))
        except MisfitError as error:
            raise _place(head).refusal(str(error)) from error
        operations = _with_last_uses(self.operations, self.results[features])
        return Findings(
            self.layers,
            frozenset(self.modules),
            frozenset(self.attributes),
            path,
            Program(operations, len(self.results), self.results[features]),
        )

    def _head(self, output: fx.Node) -> fx.Node:
        logits = output.args[0]
        told = "several values"
        if isinstance(logits, fx.Node):
            told = f"the result of {_name(logits)}"
            if logits.op == "call_module":
                kind = type(self._module(logits))
                if kind is nn.Linear:
                    return logits
                told += f" ({kind.__name__})"
        raise Place("", type(self.trace.model).__name__).refusal(
            f"it must return the logits of an nn.Linear, its classifier; it returns {told}"
        )

    def _module(self, node: fx.Node) -> nn.Module:
        return self.trace.model.get_submodule(str(node.target))

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            self.results[node] = 0
            return Layout(None)
        if node.op == "get_attr":
            return self._attribute(node)
        args = _values(node.args, self.values)
        kwargs = _values(node.kwargs, self.values)
        if node.op == "call_module":
            given = (*args, *kwargs.values())
            if len(given) != 1 or not isinstance(given[0], Layout):
                raise MisfitError("it must be called with one tensor")
            return self._call_module(node, given[0])
        result = outcome(Call(node.target, args, kwargs, bool(node.users)))
        if isinstance(result.value, Layout):
            kind = "method" if node.op == "call_method" and not result.instead else "function"
            args, kwargs = node.args, node.kwargs
            if result.rest is not None:
                tensor = args[0] if args else kwargs["input"]
                args, kwargs = (tensor, *result.rest), {}
            self._emit(node, kind, result.instead or node.target, args, kwargs)
        return result.value

    def _emit(self, node: fx.Node, kind: Any, target: Any, args: Any, kwargs: Any) -> None:
        places = {each: Value(index) for each, index in self.results.items()}
        args, kwargs = _values(args, places), _values(kwargs, places)
        by_mode = node in self.trace.by_mode
        if by_mode:
            args = args[:2]
            kwargs.pop("training", None)
        self.results[node] = len(self.results)
        self.operations.append(Operation(kind, target, args, kwargs, self.results[node], by_mode))

    def _attribute(self, node: fx.Node) -> Constant:
        path = str(node.target)
        owner, _, name = path.rpartition(".")
        model = self.trace.model
        tensor = (dict(model.named_parameters()) | dict(model.named_buffers())).get(path)
        if tensor is None:
            raise MisfitError(
                "it uses a tensor that is neither a parameter nor a buffer, or has two names"
            )
        if type(model.get_submodule(owner)) in ops.LEARNT:
            raise MisfitError(f"it uses {name} of the layer {owner!r}, besides the layer itself")
        self._own(tensor, path)
        self.attributes.add(path)
        self._emit(node, "attribute", path, (), {})
        return Constant(tensor.numel())

    def _call_module(self, node: fx.Node, source: Layout) -> Layout:
        module = self._module(node)
        if type(module) in ops.LEARNT:
            result = self._learnt(node, module, source)
        else:
            result = _unlearnt(module, source)
        if isinstance(module, nn.Flatten):
            self._emit(node, "function", torch.flatten, (node.all_input_nodes[0], 1), {})
            return result
        if type(module) not in ops.LEARNT:
            self.modules.add(str(node.target))
        # Positional, because the width follows.
        self._emit(node, "module", node.target, (node.all_input_nodes[0],), {})
        return result

    def _learnt(self, node: fx.Node, module: nn.Module, source: Layout) -> Layout:
        place = _place(node)
        if isinstance(module, nn.Conv2d):
            blocks = maps(source).elements(module.in_channels)
            rows = _convolved(module, blocks)
            slimming = Slimming(place, rows, blocks if module.groups == 1 else None)
            result = Layout(rows, 4)
        elif isinstance(module, nn.Linear):
            rows = (Block(Axis(module.out_features), module.out_features),)
            slimming = Slimming(place, rows, _linear_inputs(source, module))
            result = Layout(rows, 2)
        elif isinstance(module, nn.GroupNorm):
            blocks = source.elements(module.num_channels)
            if blocks is not None:
                split_groups(blocks, module.num_groups)
            slimming, result = Slimming(place, blocks), source
        else:
            norm = cast(nn.modules.batchnorm._BatchNorm, module)
            slimming, result = Slimming(place, source.elements(norm.num_features)), source
        self._add_layer(str(node.target), slimming)
        return result

    def _add_layer(self, path: str, slimming: Slimming) -> None:
        module = self.trace.model.get_submodule(path)
        if path in self.layers:
            raise MisfitError(
                "it is called more than once; every call must have a layer of its own"
            )
        for parameter in module.parameters():
            self._own(parameter, path)
        hooks = (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        if any(hooks):
            raise MisfitError("it has hooks, which would be lost; remove them first")
        self.layers[path] = slimming

    def _own(self, tensor: torch.Tensor, path: str) -> None:
        owner = self.owners.setdefault(id(tensor), path)
        if owner != path:
            raise MisfitError(
                f"it shares a parameter with {owner!r}; every layer must have its own"
            )


def _unlearnt(module: nn.Module, source: Layout) -> Layout:
    kind = type(module)
    if isinstance(module, nn.Flatten):
        return flattened(source, module.start_dim, module.end_dim)
    if kind in ops.SPATIAL_MODULES:
        if getattr(module, "return_indices", False):
            raise MisfitError("return_indices: got True, want False")
        return maps(source, pooled=kind in ops.ADAPTIVE and is_one(module.output_size))
    if kind in ops.ELEMENTWISE_MODULES:
        if isinstance(module, nn.PReLU) and module.num_parameters != 1:
            raise MisfitError(
                f"num_parameters: got {module.num_parameters}, want 1, for all channels"
            )
        return source
    raise MisfitError(f"{kind.__name__} is not supported; known are {KNOWN}")


def _linear_inputs(source: Any, module: nn.Linear) -> Blocks:
    if not isinstance(source, Layout):
        raise MisfitError("it must be called with one tensor")
    if source.rank not in (2, None):
        raise MisfitError(
            f"its input: got {source.rank} dimensions, want features (B, D): flatten(1) it"
        )
    return source.elements(module.in_features)


def _convolved(module: nn.Conv2d, blocks: Blocks) -> tuple[Block, ...]:
    """Return the blocks of a convolution's outputs, given those of its inputs."""
    if module.groups == 1 or blocks is None:
        # Groups of the network's input all stay, and what they give with them.
        axis = Axis(module.out_channels, fixed=module.groups > 1)
        return (Block(axis, module.out_channels),)
    size = module.out_channels // module.groups
    counts = split_groups(blocks, module.groups)
    return tuple(
        Block(block.axis, count * size) for block, count in zip(blocks, counts, strict=True)
    )


def _place(node: fx.Node) -> Place:
    return cast(Place, node.meta["place"])


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _values(arguments: Any, values: dict[fx.Node, Any]) -> Any:
    """Put values in the place of nodes, and plain containers in that of fx's own."""
    if isinstance(arguments, fx.Node):
        return values[arguments]
    if isinstance(arguments, dict):
        return {name: _values(each, values) for name, each in arguments.items()}
    if isinstance(arguments, tuple):
        return tuple(_values(each, values) for each in arguments)
    if isinstance(arguments, list):
        return [_values(each, values) for each in arguments]
    return arguments


def _with_last_uses(operations: Sequence[Operation], kept: int) -> tuple[Operation, ...]:
    last: dict[int, int] = {}
    for at, operation in enumerate(operations):
        for index in (operation.result, *operation.inputs()):
            last[index] = at
    last.pop(kept, None)
    return tuple(
        replace(operation, last_uses=tuple(index for index, use in last.items() if use == at))
        for at, operation in enumerate(operations)
    )
