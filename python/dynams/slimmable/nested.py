"""A slim width nested in the full one: slim channels depend on slim channels alone.

The weights from other inputs to slim outputs are zero and stay so. Then the slim width's activations are the
leading channels of the full width's, and one forward gives the logits of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dynams.slimmable.analysis import Slimming
from dynams.slimmable.axes import Axis, Ranges
from dynams.slimmable.places import value_at
from dynams.slimmable.record import Step

Blocks = tuple[tuple[int, int, int, int], ...]
"""Of a weight: (start, stop) along its first axis, then along its second."""

# Where the weights of layers that mix channels have their outputs and their inputs.
_MIXING = dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), (0, 1))
_MIXING |= {f"conv_transpose{n}d": (1, 0) for n in (1, 2, 3)}


@dataclass(frozen=True)
class Nesting:
    """How a slim width is nested in the full one.

    Attributes:
        absent: the blocks of weights that are zero, by path.
        axis: of the features, along which they slim, counted from the end.
        kept: the features that the slim width has.
    """

    absent: Mapping[str, Blocks]
    axis: int
    kept: Ranges

    def part(self, features: Tensor) -> Tensor:
        """Cut the slim width's features (B, D_w, ...) from the full width's, uncopied where they are adjacent."""
        parts = [features.narrow(self.axis, start, stop - start) for start, stop in self.kept]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)

    def held(self, path: str, weight: Tensor) -> Tensor:
        """Keep the gradient of a full-width weight out of its absent blocks."""
        blocks = self.absent.get(path)
        if blocks is None or not (weight.requires_grad and torch.is_grad_enabled()):
            return weight
        return cast(Tensor, cast(Any, _Held).apply(weight, blocks))

    def clear(self, network: nn.Module) -> None:
        """Make the absent blocks of a network's weights zero."""
        with torch.no_grad():
            for path, blocks in self.absent.items():
                _clear(value_at(network, path), blocks)

    def misfits(self, state: Mapping[str, Any], prefix: str) -> list[str]:
        """Return the names of a state's weights whose absent blocks are not zero."""
        return [
            prefix + path
            for path, blocks in self.absent.items()
            if (weight := state.get(prefix + path)) is not None
            and any(weight[a:b, c:d].any() for a, b, c, d in blocks)
        ]


class _Held(torch.autograd.Function):
    """The weight itself; its gradient is zero in some blocks."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, blocks: Blocks) -> Tensor:
        ctx.blocks = blocks
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.compiler.is_compiling():
            grad = grad.clone()
        # In place: it is fresh from the one operation that used the weight.
        _clear(grad, ctx.blocks)
        return grad, None


def _clear(weight: Tensor, blocks: Blocks) -> None:
    for a, b, c, d in blocks:
        weight[a:b, c:d] = 0


def nesting_of(found: Slimming, width: float) -> Nesting:
    """Find the weights that lead from other channels to those of a slim width."""
    absent: dict[str, Blocks] = {}
    record, head = found.record, found.head
    for step in record.steps[: head.step]:
        if not isinstance(step, Step) or step.name not in _MIXING:
            continue
        weight = step.args[1] if len(step.args) > 1 else step.kwargs["weight"]
        if weight not in record.states:
            continue
        layout, dims = found.layouts[weight], _MIXING[step.name]
        if layout[dims[0]].fixed:
            continue  # outputs that every width has all of: only the classifier's may depend on all
        ranges = [layout[dims[0]].ranges(width), _others(layout[dims[1]], width)]
        first, second = (ranges[dims.index(dim)] for dim in (0, 1))
        blocks = tuple((*one, *other) for one in first for other in second)
        if blocks:
            absent[f"network.{record.states[weight]}"] = blocks
    layout = found.layouts[head.features]
    axis = -1 if record.steps[head.step].name == "linear" else 1 - len(layout)
    return Nesting(absent, axis, layout[axis].ranges(width))


def _others(axis: Axis, width: float) -> Ranges:
    """The positions that a width does not keep."""
    edges = [0, *(edge for kept in axis.ranges(width) for edge in kept), axis.size]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((start, stop) for start, stop in pairs if start < stop)
