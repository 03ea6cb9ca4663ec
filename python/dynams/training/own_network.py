"""The door for a user's own network: converted where a proxy is wanted, otherwise taken as it is.

What is taken as it is stays the user's module, hooks and all: it is trained in place, and scored by itself in
eval mode, each of its modules getting its mode back. Its head is found by watching one example: a linear layer
whose output is the network's output. Where none is, it is scored by its logits.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dynams.selection.evaluating import evaluating
from dynams.selection.signals import VALIDATION
from dynams.slimmable import SlimmableNetwork, convert
from dynams.slimmable.network import SlimHead
from dynams.slimmable.recorder import logits_in

_LOG = logging.getLogger(__name__)
# What logits alone do not give.
FROM_FEATURES = frozenset({"features", "grand", "distance"})


class OwnNetwork(nn.Module):
    """A user's network as it is, which has one width.

    Args:
        network: gives logits (B, C).
        head: path of the linear layer whose output they are; None: no layer's.

    Attributes:
        network: as given.
    """

    def __init__(self, network: nn.Module, head: str | None) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        self._head = head
        # Put in eval mode by the user inside a network in training mode: meant to stay so.
        self._resting = [each for each in network.modules() if network.training > each.training]

    @property
    def head(self) -> nn.Linear | None:
        """The classifier: `weight` (C, D) and `bias` (C,) or None; None where it cannot be told apart."""
        if self._head is None:
            return None
        head = self.network.get_submodule(self._head)
        assert isinstance(head, nn.Linear)
        return head

    def forward(self, images: Tensor, width: float | None = None) -> Any:
        """Map images to logits (B, C)."""
        _check_width(width)
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        mode = " in training mode" if self.training else ""
        return _logits(self.network(images), f"images {tuple(images.shape)}{mode}")

    def features(self, images: Tensor, width: float | None = None) -> Tensor:
        """Map images to what the head takes, (B, D); to logits where there is none.

        The head computes too, since the whole network runs.
        """
        _check_width(width)
        head, taken = self.head, []
        if head is None:
            return self._logits(images)
        hook = head.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            self.network(images)
        finally:
            hook.remove()
        features: Tensor = taken[-1]
        return features

    def train(self, mode: bool = True) -> OwnNetwork:
        """As of `nn.Module`; what the user had put in eval mode inside it stays so."""
        super().train(mode)
        for module in self._resting:
            module.training = False
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Be in eval mode for a block, without gradients."""
        # Not inference mode: what a module keeps for later, such as a table of positions, must serve training too.
        with torch.no_grad(), evaluating([self], watch=False):
            yield


def check_model(model: object) -> None:
    """Refuse what no data make a network to train.

    Raises:
        TypeError: it is no `nn.Module`.
        ValueError: it spreads a network over devices, has no values, or none that can be trained.
    """
    if not isinstance(model, nn.Module):
        came = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model: got {came}, want an nn.Module")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"model: got a {type(model).__name__}, want the network inside it: run.devices spreads it"
        )
    if any(each.is_meta for each in _state(model)):
        raise ValueError(
            "model: got parameters or buffers on the meta device, want them with values: to_empty gives them room"
        )
    if any(not is_lazy(each) and each.is_inference() for each in _state(model)):
        raise ValueError(
            "model: got parameters or buffers made in torch.inference_mode, want it made outside: they cannot be trained"
        )


def admit(
    model: nn.Module,
    images: Tensor,
    *,
    classes: int,
    proxy_width: float | None,
    nested: bool = False,
    head: SlimHead = "shared",
    needs: Iterable[str] = (),
    strategy: str = "a strategy",
) -> SlimmableNetwork | OwnNetwork:
    """Make a user's network one that is trained and scored here, on the device of ``images``.

    Args:
        model: a network that is slimmable already is taken as it is; lazy modules are initialised.
        images: an example (B, ...) of what it is going to take.
        classes: C, of the data.
        proxy_width: width of the proxy; None: none is wanted.
        nested: the proxy is to be nested in the full width.
        head: classifier of a nested proxy.
        needs: what a scoring pass is to give.
        strategy: who needs it.

    Raises:
        ValueError: it cannot be converted, fails on the example, has not a column of logits for each class, has
            no head that could be told apart where ``needs`` want features, or nothing to train.
    """
    _initialise(model, images)
    slimmable = _with_width(model, proxy_width, images, classes, nested=nested, head=head)
    network: SlimmableNetwork | OwnNetwork
    if slimmable is None:
        model.to(images.device)
        path = _check_example(model, images, classes)
        missing = {each.removeprefix(VALIDATION) for each in needs} & FROM_FEATURES
        if path is None and missing:
            raise ValueError(
                f"model: got {type(model).__name__}, whose logits are not the output of one nn.Linear, want "
                f"one: {strategy} needs {', '.join(sorted(missing))}"
            )
        network = OwnNetwork(model, path)
    else:
        network = slimmable.to(images.device)
        _check_example(network, images, classes)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            f"model: got {type(model).__name__} with no parameter that requires gradients"
        )
    return network


def copy_for_holdout(network: nn.Module) -> OwnNetwork:
    """Copy a network at full width, with the weights it has now.

    Raises:
        ValueError: it cannot be copied.
    """
    if isinstance(network, SlimmableNetwork):
        return OwnNetwork(network.plain(1.0), None)
    assert isinstance(network, OwnNetwork)
    try:
        return OwnNetwork(copy.deepcopy(network.network), network._head)
    except Exception as error:  # whatever a module of the user's raises
        raise ValueError(
            f"model: got {type(network.network).__name__}, which cannot be copied for a network of the held-out "
            f"samples: {error}"
        ) from error


@contextmanager
def returned(model: nn.Module | None, network: nn.Module) -> Iterator[None]:
    """Give a user's module, at the end of the block and whatever ends it, its modes and the trained weights.

    Args:
        model: the user's; None: there is none.
        network: what `admit` made of it.
    """
    modes = {} if model is None else {each: each.training for each in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        if model is not None and isinstance(network, SlimmableNetwork) and network is not model:
            _write_back(model, network)


def layout(model: nn.Module) -> torch.memory_format:
    """Return the memory order of a network's convolutions: channels last where the user brought one to it."""
    weights = [each for each in model.parameters() if not is_lazy(each) and each.dim() == 4]
    last = any(
        each.is_contiguous(memory_format=torch.channels_last) and not each.is_contiguous()
        for each in weights
    )
    return torch.channels_last if last else torch.contiguous_format


def _state(model: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())


def _initialise(model: nn.Module, images: Tensor) -> None:
    """Let lazy modules see an example, of which they make their weights."""
    lazy = [each for each in _state(model) if is_lazy(each)]
    if lazy:
        _run(model, images.to(lazy[0].device))


def _with_width(
    model: nn.Module,
    width: float | None,
    images: Tensor,
    classes: int,
    *,
    nested: bool,
    head: SlimHead,
) -> SlimmableNetwork | None:
    """The network that runs at ``width``; None: the model as it is will do."""
    if isinstance(model, SlimmableNetwork):
        if width is not None and width not in model.widths:
            raise ValueError(
                f"model: got one of widths {model.widths}, want {width} among them, as proxy.width says"
            )
        if width is not None and (model.nested, model.slim_head) != (nested, head):
            raise ValueError(
                f"model: got a slimmable network with nested={model.nested}, head={model.slim_head}, want "
                f"nested={nested}, head={head}, as proxy.nested and proxy.recipe say"
            )
        return model
    if width is None:
        return None
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            f"model: got an {type(model).__name__}, want the network inside it, which is converted: run.compile "
            "compiles what comes of it"
        )
    example = images.to(next((each.device for each in _state(model)), images.device))
    try:
        return convert(model, (width, 1.0), example=example, nested=nested, head=head)
    except ValueError as error:
        # What cannot be trained as it is either is not sent the way out.
        _check_example(model, example, classes)
        raise ValueError(
            f"model: {error}; proxy.recipe: none trains it as it is, and scores with all of it"
        ) from error


def _check_example(model: nn.Module, images: Tensor, classes: int) -> str | None:
    """See one example through; return the path of the head if there is one.

    Raises:
        ValueError: the model fails, or gives something else than logits.
    """
    calls: list[tuple[str, tuple[Any, ...], Any]] = []

    def watched(path: str) -> Any:
        return lambda _, given, result: calls.append((path, given, result))

    linears = {each: path for path, each in model.named_modules() if isinstance(each, nn.Linear)}
    hooks = [each.register_forward_hook(watched(path)) for each, path in linears.items()]
    shape = tuple(images.shape)
    try:
        logits = _logits(_run(model, images), f"images {shape}")
    finally:
        for hook in hooks:
            hook.remove()
    if logits.shape != (len(images), classes):
        raise ValueError(
            f"model: got logits {tuple(logits.shape)} of images {shape}, want {(len(images), classes)}: a column "
            "for each class of the data"
        )
    if bool((logits >= 0).all()) and torch.allclose(
        logits.sum(1).float(), torch.ones(len(logits), dtype=torch.float32, device=logits.device)
    ):
        _LOG.warning(
            "model: got outputs that sum to 1 (%s), want logits: the loss takes the softmax",
            type(model).__name__,
        )
    for path, given, result in reversed(calls):
        if result is logits and len(given) == 1:
            head = model.get_submodule(path)
            assert isinstance(head, nn.Linear)
            same = nn.functional.linear(given[0], head.weight, head.bias)
            return path if torch.allclose(same, logits, equal_nan=True) else None
    return None


def _run(model: nn.Module, images: Tensor) -> Any:
    """What the network gives in eval mode.

    Raises:
        ValueError: whatever it raises.
    """
    try:
        with torch.no_grad(), evaluating([model], watch=False):
            return model(images)
    except Exception as error:
        kinds = {each.dtype for each in model.parameters() if each.is_floating_point()}
        other = ", ".join(
            sorted(str(each).removeprefix("torch.") for each in kinds - {torch.float32})
        )
        raise ValueError(
            f"model: got an error on images {tuple(images.shape)}, want logits: {error}"
            + (f"; it has parameters of {other}: model.float() takes what is read" if other else "")
        ) from error


def _logits(given: Any, source: str) -> Tensor:
    """Logits, also of an object that holds them, as the networks of transformers return.

    Raises:
        ValueError: it holds none.
    """
    logits = logits_in(given)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"model: got {type(given).__name__} of {source}, want logits (B, C), or an object whose logits they "
            "are: a module around it can return them"
        )
    return logits


@torch.no_grad()
def _write_back(model: nn.Module, network: SlimmableNetwork) -> None:
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    trained = network.plain(1.0).network
    for name, value in (*trained.named_parameters(), *trained.named_buffers()):
        own[name].copy_(value)


def _check_width(width: float | None) -> None:
    if width not in (None, 1.0):
        raise ValueError(f"width: got {width}, want 1.0: the network is not slimmable")
