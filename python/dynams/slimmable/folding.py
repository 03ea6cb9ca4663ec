"""Batch-norms folded into the layers before them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from dynams.slimmable.program import Program, Within

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
        rest = _rest(norm)
        if rest is None or not _fold(graph, layer, norm, fuse, tensors, network):
            continue
        with graph.inserting_before(node):
            (argument,) = (each for each in rest.nodes if each.op == "placeholder")
            output = graph.graph_copy(rest, {argument: layer})
        node.replace_all_uses_with(cast(fx.Node, output))
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


def _get(network: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    return cast(Tensor, network.get_submodule(owner)._parameters[name])


def _rest(norm: _BatchNorm) -> fx.Graph | None:
    """What a batch-norm does after its norm; None: it is not told apart."""
    graph = fx.Graph()
    if type(norm).forward is _BatchNorm.forward or isinstance(norm, nn.SyncBatchNorm):
        graph.output(graph.placeholder("input"))
        return graph
    return None
