"""The networks that `convert` makes: one that runs at several widths, and the ordinary one of a width.

Both run the same program, a straight line of operations: the traced forward of the caller's network up to
its head. An operation that calls a layer hands it what follows the images: the width (and weights made for
it) in the slimmable network, nothing in the ordinary one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from dynams.models.layers import SwitchableBatchNorm2d, check_width
from dynams.slimmable.layers import SlicedGroupNorm, SlicedLayer, SlicedLinear

_SLIM_LAYERS = (SlicedLayer, SwitchableBatchNorm2d, SlicedGroupNorm)


@dataclass(frozen=True)
class Value:
    """Stands for an earlier result among the arguments of an operation."""

    index: int


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: "module" (its path is the target, its input the one argument), "function", "method" of
            the first argument, or "attribute" of the network.
        target: what to call.
        args: positional arguments, perhaps nested, with `Value` for results.
        kwargs: keyword arguments likewise.
        result: index of the result.
        by_mode: hand over `training`, whether the network is in training mode.
        last_uses: indices of the results that nobody needs afterwards.
    """

    kind: Literal["module", "function", "method", "attribute"]
    target: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: int
    by_mode: bool = False
    last_uses: tuple[int, ...] = ()

    def inputs(self) -> list[int]:
        """Return the indices of the results that it takes."""
        return _values((*self.args, *self.kwargs.values()))


@dataclass(frozen=True)
class Program:
    """Steps from the images, which are result 0, to the features.

    Attributes:
        operations: in order.
        results: how many results there are, with the images.
        features: index of the result that the head takes.
    """

    operations: tuple[Operation, ...]
    results: int
    features: int

    def run(self, network: nn.Module, images: Tensor, *context: Any) -> Tensor:
        """Run the operations with the modules of `network`."""
        values: list[Any] = [None] * self.results
        values[0] = images
        for operation in self.operations:
            output: Any
            if operation.kind == "module":
                module = _module(network, cast(str, operation.target))
                source = values[operation.args[0].index]
                if isinstance(module, SlicedLayer):
                    output = module(source, *context)
                elif isinstance(module, _SLIM_LAYERS):
                    output = module(source, *context[:1])
                else:
                    output = module(source)
            elif operation.kind == "attribute":
                owner, _, name = cast(str, operation.target).rpartition(".")
                output = getattr(_module(network, owner), name)
            else:
                args = tuple(_filled(each, values) for each in operation.args)
                kwargs = {name: _filled(each, values) for name, each in operation.kwargs.items()}
                if operation.by_mode:
                    kwargs["training"] = network.training
                if operation.kind == "function":
                    output = cast(Callable[..., Any], operation.target)(*args, **kwargs)
                else:
                    output = getattr(args[0], cast(str, operation.target))(*args[1:], **kwargs)
            values[operation.result] = output
            for index in operation.last_uses:
                values[index] = None
        return cast(Tensor, values[self.features])


class SlimmableNetwork(nn.Module):
    """A network that runs at any of `widths` with one set of weights, made by `convert`.

    At width w every layer uses its leading channels only, so gradients at w reach only the leading
    block of every weight. Batch-norms are separate for each width.

    Attributes:
        widths: ascending, the last one 1.0.
        network: the converted layers, under the paths they had.
    """

    def __init__(
        self, network: nn.Module, program: Program, head: str, widths: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.widths = widths
        self.network = network
        self._program = program
        self._head = head

    @property
    def head(self) -> SlicedLinear:
        """The classifier: `weight` (C, D) and `bias` (C,) or None."""
        return cast(SlicedLinear, self.network.get_submodule(self._head))

    def features(self, images: Tensor, width: float | None = None) -> Tensor:
        """Map images to what the head takes at that width, (B, D_w).

        Args:
            images: what the original network takes.
            width: one of `widths`; None is the full width.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        return self._program.run(
            self.network, images, check_width(1.0 if width is None else width, self.widths)
        )

    def forward(
        self, images: Tensor, width: float | Sequence[float] | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Map images to logits (B, C).

        Args:
            images: what the original network takes.
            width: one of `widths`; None is the full width. A sequence gives a tuple of logits, one
                for each width in its order, in one forward: DDP sees one forward, and the slim
                gradients are added into the full ones at next to no cost.

        Raises:
            ValueError: a width is unknown (the message lists the known ones), or the sequence is
                empty.
        """
        if width is None or isinstance(width, (int, float)):
            width = 1.0 if width is None else width
            logits: Tensor = self.head(self.features(images, width), width)
            return logits
        widths = [check_width(each, self.widths) for each in width]
        if not widths:
            raise ValueError("width: got an empty sequence, want at least one width")
        weights: list[dict[nn.Module, Tensor]] = [{} for _ in widths]
        for module in self.network.modules():
            if isinstance(module, SlicedLayer):
                for known, weight in zip(weights, module.weights_at(widths), strict=True):
                    known[module] = weight
        return tuple(
            self.head(self._program.run(self.network, images, each, known), each, known)
            for each, known in zip(widths, weights, strict=True)
        )

    def plain(self, width: float) -> PlainNetwork:
        """Make an ordinary network of that width with copies of the weights: the same outputs.

        It shares nothing with this network and keeps its device, dtypes, memory format and mode
        (train or eval). At full width its `network` has the state of the original one, under the
        same names. Making it draws no random numbers.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        width = check_width(width, self.widths)
        return PlainNetwork(_plain(self.network, width), self._program, self._head).train(
            self.training
        )


class PlainNetwork(nn.Module):
    """An ordinary network of one width: to score with, to export, to compare with.

    `SlimmableNetwork.plain` makes it.

    Attributes:
        network: the layers, all of torch's own classes, under the paths of the original network.
    """

    def __init__(self, network: nn.Module, program: Program, head: str) -> None:
        super().__init__()
        self.network = network
        self._program = program
        self._head = head

    @property
    def head(self) -> nn.Linear:
        """The classifier."""
        return cast(nn.Linear, self.network.get_submodule(self._head))

    def features(self, images: Tensor) -> Tensor:
        """Map images to what the head takes, (B, D)."""
        return self._program.run(self.network, images)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits (B, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def fold_batch_norms(self) -> None:
        """Fold every batch-norm that follows a convolution or linear layer into it, for eval mode.

        Outputs stay the same up to rounding. A batch-norm without running statistics, and one whose
        input is used elsewhere too, stay.

        Raises:
            ValueError: the network is in training mode.
        """
        if self.training:
            raise ValueError("fold_batch_norms: got a network in training mode, want eval mode")
        makers = {
            operation.result: operation
            for operation in self._program.operations
            if operation.kind == "module"
        }
        uses = [index for operation in self._program.operations for index in operation.inputs()]
        uses.append(self._program.features)
        for operation in makers.values():
            norm = self.network.get_submodule(cast(str, operation.target))
            maker = makers.get(operation.inputs()[0])
            if (
                maker is None
                or uses.count(maker.result) != 1
                or not isinstance(norm, nn.modules.batchnorm._BatchNorm)
                or norm.running_mean is None
            ):
                continue
            layer = self.network.get_submodule(cast(str, maker.target))
            if isinstance(layer, nn.Conv2d):
                folded: nn.Module = fuse_conv_bn_eval(layer, norm)
            elif isinstance(layer, nn.Linear):
                folded = fuse_linear_bn_eval(layer, norm)
            else:
                continue
            place(self.network, cast(str, maker.target), folded)
            place(self.network, cast(str, operation.target), nn.Identity())


def container(network: nn.Module, path: str) -> nn.Module:
    """Return the module at `path`, making the containers that are not there yet."""
    for name in path.split(".") if path else ():
        if name not in network._modules:
            network._modules[name] = nn.Module()
        network = cast(nn.Module, network._modules[name])
    return network


def place(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at `path`, making the containers on the way."""
    owner, _, name = path.rpartition(".")
    container(network, owner)._modules[name] = module


def _plain(module: nn.Module, width: float) -> nn.Module:
    if isinstance(module, (SlicedLayer, SlicedGroupNorm)):
        return cast(nn.Module, cast(Any, module).plain(width))
    if isinstance(module, SwitchableBatchNorm2d):
        return copy.deepcopy(module.at(width))
    if not module._modules:
        return copy.deepcopy(module)
    plain = nn.Module()
    for name, parameter in module._parameters.items():
        plain.register_parameter(name, copy.deepcopy(parameter))
    for name, buffer in module._buffers.items():
        plain.register_buffer(name, copy.deepcopy(buffer))
    for name, child in module._modules.items():
        plain._modules[name] = None if child is None else _plain(child, width)
    return plain


def _filled(argument: Any, values: list[Any]) -> Any:
    kind = type(argument)
    if kind is Value:
        return values[argument.index]
    if kind is tuple or kind is list:
        return kind(_filled(each, values) for each in argument)
    return argument


def _values(arguments: Any) -> list[int]:
    if isinstance(arguments, Value):
        return [arguments.index]
    if isinstance(arguments, (tuple, list)):
        return [index for each in arguments for index in _values(each)]
    return []


def _module(network: nn.Module, path: str) -> nn.Module:
    # get_submodule asks three questions a level: a third of a small network's time.
    for name in path.split(".") if path else ():
        network = cast(nn.Module, network._modules[name])
    return network
