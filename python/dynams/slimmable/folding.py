"""Batch-norms folded into the layers before them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from dynams.slimmable.places import owner_of, value_at
from dynams.slimmable.program import Program, Within, emitted
from dynams.slimmable.record import Step, mapped
from dynams.slimmable.recorder import Recorder
from dynams.slimmable.rules import refs

_FUSE: dict[Any, Any] = {
    torch.conv1d: fuse_conv_bn_weights,
    torch.conv2d: fuse_conv_bn_weights,
    torch.conv3d: fuse_conv_bn_weights,
    functional.linear: fuse_linear_bn_weights,
}


class Fold(NamedTuple):
    """A layer that a batch-norm was folded into.

    Attributes:
        weight: path of its weight.
        bias: path of its bias.
        had_bias: whether it had one before.
        norm: path of the norm.
        fuse: makes the new weight and bias.
    """

    weight: str
    bias: str
    had_bias: bool
    norm: str
    fuse: Any

    def apply(self, weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
        """Make the weight and bias of both in one."""
        mean, variance, scale, shift = norm.running_mean, norm.running_var, norm.weight, norm.bias
        # Without a scale or a shift torch fuses convolutions alone.
        scale = torch.ones_like(mean) if scale is None else scale
        shift = torch.zeros_like(mean) if shift is None else shift
        fused: tuple[Tensor, Tensor] = self.fuse(
            weight, bias, mean, variance, norm.eps, scale, shift
        )
        return fused


def folded(program: Program, network: nn.Module) -> tuple[Program, list[Fold]]:
    """Fold what can be: weights and biases of ``network`` are changed, and the program no longer calls the norms.

    What a class derived of a batch-norm does besides, such as an activation, stays.
    """
    folds: list[Fold] = []
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    placeholders = [each for each in graph.nodes if each.op == "placeholder"][1:]
    split = len(program.tensors)
    tensors = dict(zip(placeholders[:split], program.tensors, strict=True))
    modules = dict(zip(placeholders[split:], program.modules, strict=True))
    for node in list(graph.nodes):
        if node.op != "call_method" or node.target != "__call__":
            continue
        path, layer = modules[node.args[0]], node.args[1]
        if isinstance(path, Within) or not isinstance(layer, fx.Node):
            continue
        norm = network.get_submodule(path)
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.training:
            continue
        fuse = _FUSE.get(layer.target) if layer.op == "call_function" else None
        if fuse is None or len(layer.users) != 1:
            continue
        weight, bias = _argument(layer, 1, "weight"), _argument(layer, 2, "bias")
        # A weight that is computed, or that something else takes too, stays.
        if any(each not in tensors or len(each.users) != 1 for each in (weight, bias) if each):
            continue
        values = [
            None if each is None else value_at(network, tensors[each]) for each in (weight, bias)
        ]
        rest = _rest(norm, cast(Tensor, values[0]).dim() - 2)
        if rest is None:
            continue
        if bias is None:
            with graph.inserting_after(list(tensors)[-1]):
                bias = graph.placeholder(f"{weight.name}_bias")
            tensors[bias] = _bias_beside(network, tensors[weight])
            if len(layer.args) > 2:
                layer.args = (*layer.args[:2], bias, *layer.args[3:])
            else:
                layer.kwargs = {**layer.kwargs, "bias": bias}
        fold = Fold(tensors[weight], tensors[bias], values[1] is not None, path, fuse)
        folds.append(fold)
        new_values = fold.apply(cast(Tensor, values[0]), values[1], norm)
        for each, value in zip((weight, bias), new_values, strict=True):
            owner, name = owner_of(network, tensors[each])
            owner._parameters[name] = cast(nn.Parameter, value)
        with graph.inserting_before(node):
            output = _inlined(graph, layer, rest)
        node.replace_all_uses_with(output)
        graph.erase_node(node)
    for placeholder in modules:
        if not placeholder.users:
            graph.erase_node(placeholder)
    left = [path for node, path in modules.items() if node in graph.nodes]
    graph.lint()
    made = fx.GraphModule(nn.Module(), graph, "Folded")
    return Program(made, tuple(tensors.values()), tuple(left)), folds


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def _bias_beside(network: nn.Module, weight: str) -> str:
    """Name the bias that a weight has none of: as torch's layers do, where that name is free."""
    owner, name = owner_of(network, weight)
    free = name == "weight" and owner._parameters.get("bias") is None
    return f"{weight.removesuffix(name)}{'bias' if free else f'{name}_bias'}"


def _inlined(graph: fx.Graph, layer: fx.Node, rest: Sequence[Step]) -> fx.Node:
    """Add to a graph what followed a norm, whose own step is the first, to the result of a layer."""
    known: dict[Any, fx.Node] = {}
    output = layer
    for step in rest:
        if known:
            args, kwargs = mapped((step.args, step.kwargs), lambda each: known.get(each, each))
            output = emitted(graph, step.target, args, kwargs)
        known[step.results[0]] = output
    return output


def _rest(norm: _BatchNorm, dims: int) -> list[Step] | None:
    """What a batch-norm does after its norm, as a class derived of it may; None: it cannot be told apart."""
    if type(norm).forward is _BatchNorm.forward or isinstance(norm, nn.SyncBatchNorm):
        return []
    assert norm.running_mean is not None
    like = norm.running_mean.new_zeros((2, norm.num_features, *(4,) * dims))
    try:
        record = Recorder(copy.deepcopy(norm), leaves=()).run(like)
    except ValueError:
        return None
    steps = [each for each in record.steps if isinstance(each, Step)]
    if not steps or steps[0].name != "batch_norm" or steps[0].args[0] != record.input:
        return None
    known = {steps[0].results[0]}
    for step in steps[1:]:
        taken = set(refs((step.args, step.kwargs)))
        if not taken <= known or step.packed or step.region is not None:
            return None
        known.update(step.results)
    return steps if record.output in known else None
