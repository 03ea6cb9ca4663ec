"""Whether every operation of a nested network gives its slim channels what the slim width gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dynams.slimmable.analysis import Slimming
from dynams.slimmable.network import SlimmableNetwork
from dynams.slimmable.program import Program, features_and_nodes
from dynams.slimmable.record import Ref, Step
from dynams.slimmable.recordings import Recording
from dynams.slimmable.rules import Layout

# Of the largest value: far more than rounding, far less than what other channels would change.
_TOLERANCE = 1e-3


class _Watched(fx.Interpreter):
    """Runs a graph and keeps what each node gave, before a later one changes it in place."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.seen[n] = value.clone() if isinstance(value, Tensor) else value
        return value


@torch.no_grad()
def check_nested(network: SlimmableNetwork, found: Slimming, recording: Recording) -> None:
    """Compare, operation by operation, both widths of a nested network in eval mode, on noise like the example.

    Raises:
        ValueError: one has slim results that depend on other channels.
    """
    example = recording.example
    if example.is_floating_point():
        # Of zeros, say, nothing would tell channels apart.
        noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0), device="cpu")
        example = noise.to(example)
    slim, whole = (
        _results(network, features_and_nodes(found, width, recording.varying), example, width)
        for width in network.widths
    )
    for step in found.record.steps:
        for ref in step.results if isinstance(step, Step) else ():
            if ref not in slim or ref not in whole:
                continue
            ours = _cut(whole[ref], found.layouts[ref], network.widths[0])
            if not _close(slim[ref], ours):
                raise step.place.refusal(
                    f"{step.name} gives its slim channels something else where there are more, so that a slim width "
                    "cannot be nested in the full one; want nested=False"
                )


def _results(
    network: SlimmableNetwork,
    traced: tuple[Program, dict[Ref, fx.Node]],
    example: Tensor,
    width: float,
) -> dict[Ref, Tensor]:
    program, nodes = traced
    watched = _Watched(program.graph)
    ((tensors, modules),) = network.taken([program], (width,))
    watched.run(example.clone(), *tensors, *modules)
    values = {ref: watched.seen.get(node) for ref, node in nodes.items()}
    return {ref: value for ref, value in values.items() if isinstance(value, Tensor)}


def _cut(value: Tensor, layout: Layout, width: float) -> Tensor:
    for dim, axis in enumerate(layout):
        if not axis.fixed:
            kept = torch.from_numpy(axis.kept(width)).to(value.device)
            value = value.index_select(dim, kept.nonzero().flatten())
    return value


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point():
        return one.shape == other.shape and torch.equal(one, other)
    scale = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)
