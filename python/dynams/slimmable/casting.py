"""Weights that can be cast once to the dtype that autocast would cast them to at every call."""

from __future__ import annotations

import torch
from torch import fx
from torch.nn import functional

from dynams.slimmable.program import Program

_LAYERS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d, functional.linear})


def layer_weights(program: Program) -> list[str]:
    """Return the paths of the tensors that only layers take, as weight or bias."""
    placeholders = [each for each in program.graph.graph.nodes if each.op == "placeholder"]
    tensors = placeholders[1 : 1 + len(program.tensors)]
    return [
        path
        for node, path in zip(tensors, program.tensors, strict=True)
        if all(_is_layer(user) and user.args[0] is not node for user in node.users)
    ]


def _is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _LAYERS
