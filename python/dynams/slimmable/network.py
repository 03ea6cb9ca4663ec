"""The network that `convert` makes, which runs at several widths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynams.checks import plain
from dynams.slimmable.base import (
    Blueprint,
    Forward,
    Head,
    ProgrammedNetwork,
    flat,
)
from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.slimmable.places import value_at
from dynams.slimmable.plain import PlainNetwork, plain_at
from dynams.slimmable.program import Program
from dynams.slimmable.weights import Slices
from dynams.slimmable.widths import check_width

SlimHead = Literal["shared", "own", "probe"]


class Moulds(dict[Any, Any]):
    """What a network keeps to be frozen with, see `dynams.slimmable.moulds`; its copies begin without."""

    def __deepcopy__(self, memo: object) -> Moulds:
        return Moulds()

    def __reduce__(self) -> Any:
        return Moulds, ()


class SlimmableNetwork(ProgrammedNetwork):
    """A network that runs at any of `widths` with one set of weights, made by `convert`.

    At width w every layer uses its leading channels only, so gradients at w reach only the leading
    block of every weight. Batch-norms are separate for each width; of a nested network (see
    `dynams.slimmable.nested`) they are shared.

    Attributes:
        widths: ascending, the last one 1.0.
        network: the user's module, with batch-norms for every width in the place of its own.
        own_head: weight, and bias if it has one, of a classifier of the slim width's own; None: its logits
            are those of the full width's columns.
        moulds: kept by whoever freezes it.
    """

    def __init__(
        self,
        network: nn.Module,
        constants: nn.Module,
        blueprint: Blueprint,
        widths: tuple[float, ...],
        *,
        head: SlimHead = "shared",
    ) -> None:
        super().__init__(network, constants, blueprint)
        self.widths = widths
        self._detached = head == "probe"
        self.own_head: nn.ParameterDict | None = None
        if head != "shared":
            weight, bias = blueprint.head
            paths = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
            parts = {name: self.part(path, widths[0]) for name, path in paths.items()}
            self.own_head = nn.ParameterDict(
                {name: nn.Parameter(part.detach().clone()) for name, part in parts.items()}
            )
        self.moulds = Moulds()
        self._logits_hooks: OrderedDict[int, Callable[[float, Tensor], None]] = OrderedDict()

    def head_at(self, width: float) -> Head:
        """Return the classifier at a width: the columns that it uses, uncopied where they are adjacent.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        width = check_width(width, self.widths)
        program = self._forwards((width,))[0].logits
        ((tensors, _),) = self.taken([program], (width,), head=True)
        known = dict(zip(program.tensors, tensors, strict=True))
        weight, bias = self._blueprint.head
        return Head(flat(known[weight]), None if bias is None else known[bias])

    def features(self, images: Tensor, width: float | None = None) -> Tensor:
        """Map images to what the head takes at that width, (B, D_w).

        Args:
            images: what the original network takes.
            width: one of `widths`; None is the full width.

        Raises:
            ValueError: `width` is unknown; the message lists the known ones.
        """
        widths = (check_width(1.0 if width is None else width, self.widths),)
        program = self._forwards(widths)[0].features
        self._check(images)
        self._check_training(widths)
        (taken,) = self.taken([program], widths)
        return flat(program.run(images, *taken))

    def forward(
        self, images: Tensor, width: float | Sequence[float] | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Map images to logits (B, C).

        Args:
            images: what the original network takes.
            width: one of `widths`; None is the full width. A sequence gives a tuple of logits, one
                for each width in its order, in one forward: DDP sees one forward, and the slim
                gradients are added into the full ones at next to no cost. A nested network runs
                the layers once for all of them.

        Raises:
            ValueError: a width is unknown (the message lists the known ones), the sequence is
                empty, or a nested network in training mode is asked for its slim width alone.
        """
        if not isinstance(width, (int, float)):
            width = 1.0 if width is None else plain(width)
        if isinstance(width, (int, float)):
            return self._logits(images, (width,))[0]
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
        plain = plain_at(self.network, self.constants, self._blueprint, width, self._own(width))
        plain.training = self.training
        return plain

    @property
    def nested(self) -> bool:
        """Whether slim channels depend on slim channels alone."""
        return self._blueprint.nesting is not None

    @property
    def slim_head(self) -> SlimHead:
        """Which classifier a slim width has, see `convert`."""
        if self.own_head is None:
            return "shared"
        return "probe" if self._detached else "own"

    @property
    def changes_itself(self) -> bool:
        """Whether the forward changes parameters or buffers, those of norms aside."""
        return bool(self._blueprint.changes)

    def part(self, path: str, width: float) -> Tensor:
        """Return what a width uses of a parameter or buffer; a copy where that is not all of it."""
        own = self._own(width)
        if path in own:
            return own[path]
        return self._blueprint.slices[path].part(value_at(self, path), width)

    def register_logits_hook(self, hook: Callable[[float, Tensor], None]) -> RemovableHandle:
        """Call ``hook(width, logits)`` with the logits of each width as they come."""
        handle = RemovableHandle(self._logits_hooks)
        self._logits_hooks[handle.id] = hook
        return handle

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Not a hook before loading, which the oldest torch that is served lacks.
        _under_network(state_dict, prefix)
        if self._blueprint.nesting is not None:
            misfits = self._blueprint.nesting.misfits(state_dict, prefix)
            *_, errors = args
            errors.extend(
                f"{name}: got weights from other channels to slim ones, want those of a nested network of this width"
                for name in misfits
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _logits(self, images: Tensor, widths: tuple[float, ...]) -> tuple[Tensor, ...]:
        self._check(images)
        widths = tuple(check_width(width, self.widths) for width in widths)
        self._check_training(widths)
        nesting = self._blueprint.nesting
        if nesting is not None and 1.0 in widths:
            (forward,) = self._forwards((1.0,))
            (body,) = self.taken([forward.features], (1.0,))
            features = forward.features.run(images, *body)
            taken = {1.0: features, self.widths[0]: nesting.part(features)}
            return tuple(self._classified(taken[width], width) for width in widths)
        forwards = self._forwards(widths)
        # All weights before the head first: a slim part and the whole share one gradient.
        bodies = self.taken([each.features for each in forwards], widths)
        outputs = []
        for width, forward, body in zip(widths, forwards, bodies, strict=True):
            given = images.clone() if self._blueprint.changes_input and len(widths) > 1 else images
            outputs.append(self._classified(forward.features.run(given, *body), width))
        return tuple(outputs)

    def _classified(self, features: Tensor, width: float) -> Tensor:
        (forward,) = self._forwards((width,))
        if self._detached and width != 1.0:
            features = features.detach()  # a probe learns what is there, and changes nothing
        # The head's when its turn comes: gradients of its columns are then added last width first.
        (head,) = self.taken([forward.logits], (width,), head=True)
        logits = forward.logits.run(features, *head)
        for hook in self._logits_hooks.values():
            hook(width, logits)
        return logits

    def _check_training(self, widths: tuple[float, ...]) -> None:
        if self.nested and self.network.training and 1.0 not in widths:
            raise ValueError(
                f"width: got {widths[0]} alone in training mode, want 1.0 with it: of a nested network both come of one pass"
            )

    def _own(self, width: float) -> dict[str, nn.Parameter]:
        """The slim width's own parameters, by the path of what they stand for."""
        if self.own_head is None or width == 1.0:
            return {}
        given = zip(self._blueprint.head, ("weight", "bias"), strict=True)
        return {path: self.own_head[name] for path, name in given if path is not None}

    def _forwards(self, widths: tuple[float, ...]) -> list[Forward]:
        forwards = self._blueprint.forwards
        return [forwards[width, self.network.training] for width in widths]

    def taken(
        self, programs: Sequence[Program], widths: tuple[float, ...], *, head: bool = False
    ) -> list[tuple[list[Tensor], list[Any]]]:
        """Return what the program of each width takes of the network: parts of tensors, and modules."""
        # Programs that differ by the width alone take the same.
        tensors, modules = programs[0].taken(self)
        nesting = self._blueprint.nesting
        own = self._own(widths[0]) if head else {}
        parts: list[Sequence[Tensor]] = []
        for path, tensor in zip(programs[0].tensors, tensors, strict=True):
            slices = self._blueprint.slices[path]
            if path in own:
                parts.append((own[path],))
                continue
            if path in self._blueprint.changes:
                parts.append(tuple(_lent(slices, tensor, width) for width in widths))
                continue
            if nesting is not None and not head and widths == (1.0,):
                parts.append((nesting.held(path, tensor),))
                continue
            # A head's matrix product reads leading columns in place.
            parts.append(
                [slices.view(tensor, width) for width in widths]
                if head
                else slices.parts(tensor, widths)
            )
        return [
            (
                [each[at] for each in parts],
                [
                    each.at(width) if isinstance(each, SwitchableBatchNorm) else each
                    for each in modules
                ],
            )
            for at, width in enumerate(widths)
        ]


def _lent(slices: Slices, tensor: Tensor, width: float) -> Tensor:
    """What a width uses of a tensor that the forward changes: what the slim ones change of it is forgotten."""
    return tensor if width == 1.0 else slices.part(tensor, width).clone()


def _under_network(state: dict[str, Any], prefix: str) -> None:
    """Take a state whose names begin at the network, as those of the residual networks once did."""
    names = [each for each in state if each.startswith(prefix)]
    if any(each.startswith((f"{prefix}network.", f"{prefix}constants.")) for each in names):
        return
    for name in names:
        state[f"{prefix}network.{name.removeprefix(prefix)}"] = state.pop(name)
