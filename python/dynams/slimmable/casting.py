"""Weights that can be cast once to the dtype that autocast would cast them to at every call."""

from __future__ import annotations

import torch
from torch import fx
from torch.nn import functional

from dynams.slimmable.fusing import conv2d_add_relu, conv2d_relu
from dynams.slimmable.program import Program

_LAYERS = frozenset(
    {torch.conv1d, torch.conv2d, torch.conv3d, functional.linear, conv2d_relu, conv2d_add_relu}
)


def layer_weights(program: Program) -> list[str]:
    """Return the paths of the tensors that only layers take, as weight or bias."""
    placeholders = [each for each in program.graph.graph.nodes if each.op == "placeholder"]
    tensors = placeholders[1 : 1 + len(program.tensors)]
    return [
        path
        for node, path in zip(tensors, program.tensors, strict=True)
        if all(_is_layer(user) and not _is_input(node, user) for user in node.users)
    ]


def _is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _LAYERS


def _is_input(node: fx.Node, layer: fx.Node) -> bool:
    """Whether a layer takes a tensor as its input, or as what it adds to its result."""
    return node is layer.args[0] or node in layer.args[3:]
