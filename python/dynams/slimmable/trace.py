"""From a network to the operations of its forward, each with the module and the line it stands in."""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

_TORCH = str(Path(torch.__file__).parent)

DROPOUTS: frozenset[Callable[..., Any]] = frozenset(
    {
        nn.functional.dropout,
        nn.functional.dropout2d,
        nn.functional.alpha_dropout,
        nn.functional.feature_alpha_dropout,
    }
)


@dataclass(frozen=True)
class Place:
    """Where an operation stands.

    Attributes:
        path: of the module whose forward it is in, or that it calls; "" is the network itself.
        kind: name of the module's class.
        line: file name and number; "" if unknown.
    """

    path: str
    kind: str
    line: str = ""

    def refusal(self, problem: str) -> ValueError:
        """Make the error that refuses what stands here."""
        name = f"module {self.path!r}" if self.path else "the network itself"
        line = f", at {self.line}" if self.line else ""
        return ValueError(f"cannot make {name} ({self.kind}{line}) slimmable: {problem}")


@dataclass(frozen=True)
class Trace:
    """The forward of a network, as a straight line of operations.

    Attributes:
        model: a copy of the network, whose modules the operations name.
        nodes: the operations in order; each has its `Place` under `meta["place"]`.
        by_mode: those functional dropouts among them that act in training mode only.
    """

    model: nn.Module
    nodes: tuple[fx.Node, ...]
    by_mode: frozenset[fx.Node]


def trace(model: nn.Module) -> Trace:
    """Trace a copy of `model` with one input, other arguments having their defaults.

    Raises:
        ValueError: what the network does depends on its input, or on its mode in other ways than
            dropout and batch-norm do.
    """
    try:
        model = copy.deepcopy(model)
    except RuntimeError as error:
        raise Place("", type(model).__name__).refusal(f"it cannot be copied: {error}") from error
    modes = [module.training for module in model.modules()]
    training, evaluating = (_nodes(model.train(mode)) for mode in (True, False))
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    by_mode = set()
    index = {node: str(at) for nodes in (training, evaluating) for at, node in enumerate(nodes)}
    for one, other in zip(training, evaluating, strict=False):
        if _described(one, index) == _described(other, index):
            continue
        if one.target in DROPOUTS and _described(one, index, False) == _described(
            other, index, False
        ):
            by_mode.add(one)
            continue
        raise one.meta["place"].refusal(
            f"from here ({_told(one)}) its forward is not the same in training and eval mode; "
            "only dropout and batch-norm may differ between them"
        )
    if len(training) != len(evaluating):
        raise Place("", type(model).__name__).refusal(
            "its forward is not the same in training and eval mode"
        )
    return Trace(model, training, frozenset(by_mode))


class _OneInput(nn.Module):
    """Calls the network with one argument, so that the others are constants of the trace."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Tensor) -> Any:
        return self.model(input)


class _Tracer(fx.Tracer):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[nn.Module] = []
        self.failed: nn.Module = model

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is not self.model and super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self.calls.append(m)
        self.failed = m
        output = super().call_module(m, forward, args, kwargs)
        self.calls.pop()
        self.failed = self.calls[-1] if self.calls else self.model
        return output

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        if kind in ("call_module", "get_attr"):
            node.target = str(target).removeprefix("model.")
        node.meta["place"] = self.place(_user_line(sys._getframe()))
        return node

    def place(self, line: str) -> Place:
        # The innermost call that is part of the network: a module made on the fly is not.
        known = set(self.model.modules())
        inner = next((m for m in (self.failed, *reversed(self.calls)) if m in known), self.model)
        path = self.path_of_module(inner)
        return Place(path.removeprefix("model").removeprefix("."), type(inner).__name__, line)


def _nodes(model: nn.Module) -> tuple[fx.Node, ...]:
    tracer = _Tracer(model)
    try:
        return tuple(tracer.trace(_OneInput(model)).nodes)
    except Exception as error:
        lines = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if not _inner(frame.filename)
        ]
        raise tracer.place(lines[-1] if lines else "").refusal(
            f"its forward cannot be traced: {error}. It must be a fixed sequence of operations on "
            "one input, whatever the input's values and shape"
        ) from error


def _described(node: fx.Node, index: dict[fx.Node, str], modes: bool = True) -> Any:
    """Describe a node without its identity; without `modes`, also without a dropout's training flag."""
    arguments: dict[Any, Any] = dict(enumerate(node.args)) | node.kwargs
    if not modes:
        arguments.pop("training", None)
        arguments.pop(2, None)
    named = fx.node.map_arg(arguments, lambda each: index[each])
    return node.op, node.target, repr(named)


def _told(node: fx.Node) -> str:
    return getattr(node.target, "__name__", None) or str(node.target)


def _inner(filename: str) -> bool:
    return filename.startswith((_TORCH, "<eval_with_key")) or filename == __file__


def _user_line(frame: FrameType | None) -> str:
    for each in _outwards(frame):
        if not _inner(each.f_code.co_filename):
            # Beyond this frame begins whoever asked for the conversion.
            if Path(each.f_code.co_filename).parent == Path(__file__).parent:
                return ""
            return f"{Path(each.f_code.co_filename).name}:{each.f_lineno}"
    return ""


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
