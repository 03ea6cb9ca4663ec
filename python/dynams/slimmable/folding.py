"""Batch-norms folded into the layers before them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

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


def folded(program: Program, network: nn.Module) -> Program:
    """Fold what can be: weights and biases of ``network`` are changed, and the program no longer calls the norms.

    What a class derived of a batch-norm does besides, such as an activation, stays.
    """
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
        rest = _rest(norm, network.get_parameter(tensors[layer.args[1]]).dim() - 2)
        if rest is None or not _fold(graph, layer, norm, fuse, tensors, network):
            continue
        with graph.inserting_before(node):
            output = _inlined(graph, layer, rest)
        node.replace_all_uses_with(output)
        graph.erase_node(node)
    for placeholder in modules:
        if not placeholder.users:
            graph.erase_node(placeholder)
    left = [path for node, path in modules.items() if node in graph.nodes]
    graph.lint()
    return Program(
        fx.GraphModule(nn.Module(), graph, "Folded"), tuple(tensors.values()), tuple(left)
    )


def _fold(
    graph: fx.Graph,
    layer: fx.Node,
    norm: _BatchNorm,
    fuse: Any,
    tensors: dict[fx.Node, str],
    network: nn.Module,
) -> bool:
    args: list[Any] = list(layer.args) + [None] * (3 - len(layer.args))
    weight: Any = args[1]
    bias: Any = layer.kwargs.get("bias", args[2])
    if weight not in tensors or len(weight.users) != 1 or not (bias is None or bias in tensors):
        return False
    owner, _, name = tensors[weight].rpartition(".")
    module = network.get_submodule(owner)
    values = [module._parameters[name], None if bias is None else _get(network, tensors[bias])]
    folded_weight, folded_bias = fuse(
        *values, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    module._parameters[name] = folded_weight
    if bias is None:
        with graph.inserting_after(list(tensors)[-1]):
            bias = graph.placeholder(f"{weight.name}_bias")
        place = f"{owner}.bias"
        module._parameters["bias"] = folded_bias
        tensors[bias] = place
    else:
        owner, _, name = tensors[bias].rpartition(".")
        network.get_submodule(owner)._parameters[name] = folded_bias
    args[2] = bias
    layer.args = tuple(args)
    layer.kwargs = {key: value for key, value in layer.kwargs.items() if key != "bias"}
    return True


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


def _get(network: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    return cast(Tensor, network.get_submodule(owner)._parameters[name])


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
