"""What a network must give to be trained and scored, and how it is frozen for scoring and evaluation.

On a CPU a frozen network is 1.3 to 2.2 times as fast as the slimmable one at the same width: its
weights need no slicing and a layer is one pass over memory instead of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from dynams.slimmable import SlimmableNetwork
from dynams.slimmable.moulds import filled, frozen_copy
from dynams.training.own_network import OwnNetwork

_Self = TypeVar("_Self")


class Classifier(Protocol):
    """A linear classifier."""

    @property
    def weight(self) -> Tensor:
        """(C, D)."""

    @property
    def bias(self) -> Tensor | None:
        """(C,), or None."""


class Frozen(Protocol):
    """An ordinary network of one width, which only evaluates."""

    @property
    def head(self) -> Classifier | None:
        """The classifier; None: features are logits."""

    def __call__(self, images: Tensor) -> Tensor:
        """Map images to logits (B, C)."""

    def features(self, images: Tensor) -> Tensor:
        """Map images to what the head takes, (B, D)."""


class Network(Protocol):
    """A network that is trained, an `nn.Module` whose parts the trainer knows.

    A slimmable one runs at several widths; another has width 1 alone.
    """

    training: bool

    @property
    def head(self) -> Classifier | None:
        """The classifier; None where it cannot be told apart: features are logits."""

    # Positional in every implementation: images, then the width.
    @property
    def __call__(self) -> Any:
        """Map images to logits (B, C) at ``width``, 1 if left out; a tuple of widths gives a tuple."""

    def features(self, images: Tensor, width: float | None = None) -> Tensor:
        """Map images to what the head takes at that width, (B, D)."""

    def plain(self, width: float) -> Any:
        """Make a `Frozen` of that width, a module in the same mode, with copies of the weights."""

    def train(self: _Self, mode: bool = True) -> _Self:
        """As of `nn.Module`."""

    def eval(self: _Self) -> _Self:
        """As of `nn.Module`."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As of `nn.Module`."""

    def state_dict(self) -> dict[str, Any]:
        """As of `nn.Module`."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """As of `nn.Module`."""


def as_module(network: Network) -> nn.Module:
    """The same network, as the type that torch's functions ask for."""
    return cast(nn.Module, network)


def compiled(network: Network, *, even: bool = False) -> nn.Module:
    """Let torch.compile compile what a training step calls.

    A slimmable network of one width is compiled as the module that it was made of, which computes the same: the
    code of that belongs to its class, so that the next run's network finds it compiled. Code of a program is each
    network's own, and compiled again for each.

    Args:
        network: what is trained.
        even: its batches are of few sizes, each of which is compiled for itself; otherwise a second size makes
            torch compile for any.
    """
    module = as_module(network)
    if isinstance(module, SlimmableNetwork) and module.widths == (1.0,):
        module = module.network
    return cast(nn.Module, torch.compile(module, dynamic=False if even else None))


def frozen(
    network: Network,
    width: float,
    memory_format: torch.memory_format = torch.contiguous_format,
    autocast: torch.dtype | None = None,
) -> Frozen:
    """Make an ordinary network that computes what ``network`` does at ``width`` when evaluating.

    Batch-norms are folded into the convolutions, so outputs agree up to rounding. Weights are
    copies in ``memory_format``; nothing has gradients. Those of layers before the head have the dtype
    ``autocast``, which is then cast to once, not at every batch: autocast remembers only casts of what
    has gradients. It gives the same bits.
    """
    made, _ = frozen_copy(cast(SlimmableNetwork, network), width, memory_format, autocast)
    return cast(Frozen, made)


@contextmanager
def evaluated(
    network: Network,
    width: float,
    memory_format: torch.memory_format = torch.contiguous_format,
    autocast: torch.dtype | None = None,
) -> Iterator[Frozen]:
    """Give a block what evaluates at ``width`` as ``network`` does, and let it compute without gradients.

    A user's own network, which nobody but itself knows, evaluates by itself and has its modes back afterwards;
    of others it is a frozen copy, which is made once and filled with the weights anew.
    """
    if isinstance(network, OwnNetwork):
        with network.evaluating():
            yield cast(Frozen, network)
        return
    slimmable = cast(SlimmableNetwork, network)
    with filled(slimmable, width, memory_format, autocast) as copy, torch.inference_mode():
        yield cast(Frozen, copy)
