"""The networks that `convert` makes: one that runs at several widths, and the ordinary one of a width."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynams.slimmable.folding import folded
from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.slimmable.program import Program, Within
from dynams.slimmable.weights import Slices
from dynams.slimmable.widths import check_width


class Head(NamedTuple):
    """A classifier.

    Attributes:
        weight: (C, D).
        bias: (C,), or None.
    """

    weight: Tensor
    bias: Tensor | None


class Forward(NamedTuple):
    """The programs of one width and mode.

    Attributes:
        features: from the input to what the classifier takes.
        logits: from there to the logits.
    """

    features: Program
    logits: Program


@dataclass(frozen=True)
class Plan:
    """How a network runs at its widths.

    Attributes:
        forwards: by width and mode (True: training).
        slices: what each width uses of parameters and buffers, by path.
        head: path of the classifier.
        resting: modules that stay in eval mode when the network trains.
        changes_input: the forward changes its input in place.
    """

    forwards: Mapping[tuple[float, bool], Forward]
    slices: Mapping[str, Slices]
    head: str
    resting: tuple[str, ...]
    changes_input: bool


class _Network(nn.Module):
    """What both have in common: the user's module, and the programs that run in its place."""

    def __init__(self, network: nn.Module, constants: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.network = network
        self.constants = constants
        self._plan = plan
        self.training = network.training

    def train(self, mode: bool = True) -> Any:
        """As of `nn.Module`; what was in eval mode inside a network that trained stays so."""
        super().train(mode)
        for path in self._plan.resting:
            self.network.get_submodule(path).eval()
        return self

    def _head(self) -> nn.Module:
        return self.network.get_submodule(self._plan.head)


class SlimmableNetwork(_Network):
    """A network that runs at any of `widths` with one set of weights, made by `convert`.

    At width w every layer uses its leading channels only, so gradients at w reach only the leading
    block of every weight. Batch-norms are separate for each width.

    Attributes:
        widths: ascending, the last one 1.0.
        network: the user's module, with batch-norms for every width in the place of its own.
    """

    def __init__(
        self, network: nn.Module, constants: nn.Module, plan: Plan, widths: tuple[float, ...]
    ) -> None:
        super().__init__(network, constants, plan)
        self.widths = widths
        self._logits_hooks: OrderedDict[int, Callable[[float, Tensor], None]] = OrderedDict()
        self.register_load_state_dict_pre_hook(_under_network)  # type: ignore[no-untyped-call]

    @property
    def head(self) -> Head:
        """The classifier at full width."""
        return _matrix(self._head())

    def head_at(self, width: float) -> Head:
        """Return the classifier at a width: a copy of the columns that it uses.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        head = self._head()
        (known,) = self._weights(self._forwards((width,)), (width,), "logits")
        weight = known[f"network.{self._plan.head}.weight"]
        return Head(weight.flatten(1), _bias(head))

    def features(self, images: Tensor, width: float | None = None) -> Tensor:
        """Map images to what the head takes at that width, (B, D_w).

        Args:
            images: what the original network takes.
            width: one of `widths`; None is the full width.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        widths = (check_width(1.0 if width is None else width, self.widths),)
        forwards = self._forwards(widths)
        (weights,) = self._weights(forwards, widths, "features")
        return _flat(self._run(forwards[0].features, images, weights, widths[0]))

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
            return self._logits(images, (1.0 if width is None else width,))[0]
        if not len(width):
            raise ValueError("width: got an empty sequence, want at least one width")
        return self._logits(images, tuple(width))

    def plain(self, width: float) -> PlainNetwork:
        """Make an ordinary network of that width with copies of the weights: the same outputs.

        It shares nothing with this network and keeps its device, dtypes, memory format and mode
        (train or eval). At full width its `network` has the state of the original one, under the
        same names. Making it draws no random numbers.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        width = check_width(width, self.widths)
        holder = nn.Module()
        holder.network, holder.constants = (
            _slim_copy(self.network, width),
            copy.deepcopy(self.constants),
        )
        for path, slices in self._plan.slices.items():
            if slices.whole(width):
                continue
            owner, name = _place(holder, path)
            with torch.no_grad():
                value = _value(owner, name)
                part = slices.part(value, width).clone()
            if name in owner._parameters:
                owner._parameters[name] = nn.Parameter(part, value.requires_grad)
            else:
                owner._buffers[name] = part
        _describe(holder.network)
        modes = {mode: self._plan.forwards[width, mode] for mode in (True, False)}
        plan = Plan(
            {(1.0, mode): each for mode, each in modes.items()},
            {},
            self._plan.head,
            self._plan.resting,
            False,
        )
        plain = PlainNetwork(holder.network, holder.constants, plan)
        plain.training = self.training
        return plain

    def register_logits_hook(self, hook: Callable[[float, Tensor], None]) -> RemovableHandle:
        """Call ``hook(width, logits)`` with the logits of each width as they come."""
        handle = RemovableHandle(self._logits_hooks)
        self._logits_hooks[handle.id] = hook
        return handle

    def _logits(self, images: Tensor, widths: tuple[float, ...]) -> tuple[Tensor, ...]:
        forwards = self._forwards(widths)
        known = self._weights(forwards, widths)
        outputs = []
        for width, forward, weights in zip(widths, forwards, known, strict=True):
            given = images.clone() if self._plan.changes_input and len(widths) > 1 else images
            features = self._run(forward.features, given, weights, width)
            logits = self._run(forward.logits, features, weights, width)
            for hook in self._logits_hooks.values():
                hook(width, logits)
            outputs.append(logits)
        return tuple(outputs)

    def _forwards(self, widths: tuple[float, ...]) -> list[Forward]:
        forwards = self._plan.forwards
        return [
            forwards[check_width(width, self.widths), self.network.training] for width in widths
        ]

    def _weights(
        self, forwards: Sequence[Forward], widths: tuple[float, ...], *parts: str
    ) -> list[dict[str, Tensor]]:
        """What each width uses of the parameters and buffers, by path."""
        known: list[dict[str, Tensor]] = [{} for _ in widths]
        for part in parts or ("features", "logits"):
            for path in cast(Program, getattr(forwards[0], part)).tensors:
                tensor = _value(*_place(self, path))
                parts_ = self._plan.slices[path].parts(tensor, widths)
                for weights, each in zip(known, parts_, strict=True):
                    weights[path] = each
        return known

    def _run(
        self, program: Program, input: Tensor, weights: Mapping[str, Tensor], width: float
    ) -> Tensor:
        modules = []
        for path in program.modules:
            module = path if isinstance(path, Within) else _module(self, path)
            modules.append(module.at(width) if isinstance(module, SwitchableBatchNorm) else module)
        return program.run(input, [weights[path] for path in program.tensors], modules)


class PlainNetwork(_Network):
    """An ordinary network of one width: to score with, to export, to compare with.

    `SlimmableNetwork.plain` makes it.

    Attributes:
        network: the user's module, with the weights of that width under the names they had.
    """

    @property
    def head(self) -> Head:
        """The classifier."""
        return _matrix(self._head())

    def features(self, images: Tensor) -> Tensor:
        """Map images to what the head takes, (B, D)."""
        return _flat(self._run(self._forward().features, images))

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits (B, C)."""
        forward = self._forward()
        return self._run(forward.logits, self._run(forward.features, images))

    def fold_batch_norms(self) -> None:
        """Fold every batch-norm that follows a convolution or linear layer into it, for eval mode.

        Outputs stay the same up to rounding. A batch-norm without running statistics, and one whose
        input is used elsewhere too, stay.

        Raises:
            ValueError: the network is in training mode.
        """
        if self.training:
            raise ValueError("fold_batch_norms: got a network in training mode, want eval mode")
        forward = self._forward()
        features = folded(forward.features, self)
        forwards = {(1.0, False): Forward(features, forward.logits)}
        self._plan = Plan(forwards, {}, self._plan.head, self._plan.resting, False)

    def _forward(self) -> Forward:
        return self._plan.forwards[1.0, self.network.training]

    def _run(self, program: Program, input: Tensor) -> Tensor:
        modules = [
            path if isinstance(path, Within) else _module(self, path) for path in program.modules
        ]
        return program.run(
            input, [_value(*_place(self, path)) for path in program.tensors], modules
        )


def replace_module(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` stands."""
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _slim_copy(network: nn.Module, width: float) -> nn.Module:
    """Copy a module with the batch-norms of one width."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        if isinstance(module, SwitchableBatchNorm):
            replace_module(network, module, module.at(width))
    return network


def _describe(network: nn.Module) -> None:
    """Give torch's own layers the sizes that their weights have."""
    for module in network.modules():
        weight = module._parameters.get("weight")
        if weight is None:
            continue
        if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
            module.groups = max(1, module.groups * weight.shape[0] // module.out_channels)
            module.out_channels = weight.shape[0]
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = weight.shape[1]
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(weight.shape)
        elif isinstance(module, nn.GroupNorm):
            if module.num_groups > 1:
                module.num_groups = module.num_groups * weight.shape[0] // module.num_channels
            module.num_channels = weight.shape[0]


def _under_network(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take a state whose names begin at the network, as those of the residual networks once did."""
    names = [each for each in state if each.startswith(prefix)]
    if any(each.startswith((f"{prefix}network.", f"{prefix}constants.")) for each in names):
        return
    for name in names:
        state[f"{prefix}network.{name.removeprefix(prefix)}"] = state.pop(name)


def _matrix(head: nn.Module) -> Head:
    return Head(_flat(head.get_parameter("weight")), _bias(head))


def _bias(head: nn.Module) -> Tensor | None:
    return cast("Tensor | None", getattr(head, "bias", None))


def _flat(features: Tensor) -> Tensor:
    # What a 1x1 convolution takes, and its weight.
    return features.flatten(1) if features.dim() == 4 else features


def _module(network: nn.Module, path: str) -> nn.Module:
    # get_submodule asks three questions a level: a third of a small network's time.
    for name in path.split(".") if path else ():
        network = cast(nn.Module, network._modules[name])
    return network


def _place(network: nn.Module, path: str) -> tuple[nn.Module, str]:
    owner, _, name = path.rpartition(".")
    return _module(network, owner), name


def _value(owner: nn.Module, name: str) -> Tensor:
    value: Tensor | None = owner._parameters.get(name)
    return cast(Tensor, owner._buffers[name] if value is None else value)
