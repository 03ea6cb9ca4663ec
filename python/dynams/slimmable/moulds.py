"""Ordinary networks of a slimmable one, made once and filled with its weights of the time.

Making one anew takes the host as long as an H100 takes to score 10,000 images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynams.slimmable.casting import layer_weights
from dynams.slimmable.folding import Fold
from dynams.slimmable.network import SlimmableNetwork
from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.slimmable.places import owner_of
from dynams.slimmable.plain import PlainNetwork


class Mould:
    """An evaluating network of one width whose weights come and go.

    Its batch-norms are folded, its layers cast and its activations joined to them. Empty it holds no weights of layers.

    Args:
        network: the slimmable one.
        width: one of its widths.
        memory_format: of the weights.
        layers: dtype of layers before the head; None: as they are.
    """

    def __init__(
        self,
        network: SlimmableNetwork,
        width: float,
        memory_format: torch.memory_format,
        layers: torch.dtype | None,
    ) -> None:
        self._width, self._memory_format, self._layers = width, memory_format, layers
        self.network, folds = frozen_copy(network, width, memory_format, layers)
        programs = self.network.programs
        self._folds = {each.weight: each for each in folds}
        self._kinds = {each.norm: type(_norm(network, each, width)) for each in folds}
        self._paths = list(dict.fromkeys(path for each in programs for path in each.tensors))
        self._cast = frozenset(layer_weights(programs.features)) - {*programs.logits.tensors}
        called = [each for program in programs for each in program.modules if isinstance(each, str)]
        # A norm that is called, or a tensor that the forward changes, is more than a weight.
        self._can_be_refilled = (
            not any(self.network.get_submodule(path).state_dict() for path in called)
            and not network.changes_itself
            and all(_is_ordinary(kind) for kind in self._kinds.values())
        )

    def serves(self, network: SlimmableNetwork) -> bool:
        """Whether `fill` will do; what may have changed is the class of a norm, or that it keeps statistics."""
        return self._can_be_refilled and all(
            type(norm) is self._kinds[fold.norm] and norm.running_mean is not None
            for fold in self._folds.values()
            for norm in [_norm(network, fold, self._width)]
        )

    @torch.no_grad()
    def fill(self, network: SlimmableNetwork) -> PlainNetwork:
        """Give the network the weights that another one has now."""
        given: dict[str, Tensor] = {}
        for path in self._paths:
            if path in given:
                continue
            fold = self._folds.get(path)
            if fold is None:
                part = network.part(path, self._width)
                # The bias of a layer comes with its weight.
                given.setdefault(path, part)
                continue
            bias = network.part(fold.bias, self._width) if fold.had_bias else None
            norm = _norm(network, fold, self._width)
            weight, bias = fold.apply(network.part(path, self._width), bias, norm)
            given |= {path: weight, fold.bias: bias}
        for path, value in given.items():
            dtype = self._layers if path in self._cast and self._layers else value.dtype
            layout = self._memory_format if value.dim() in (4, 5) else torch.preserve_format
            # Copies: the network may train on while its weights are read here.
            made = value.detach().to(dtype, memory_format=layout, copy=True)
            owner, name = owner_of(self.network, path)
            if name in owner._parameters:
                owner._parameters[name] = nn.Parameter(made, requires_grad=False)
            else:
                owner._buffers[name] = made
        return self.network

    def empty(self) -> None:
        """Hold no weights of layers any more."""
        for path in self._paths:
            owner, name = owner_of(self.network, path)
            (owner._parameters if name in owner._parameters else owner._buffers)[name] = None


def filled_copy(
    network: SlimmableNetwork,
    width: float,
    memory_format: torch.memory_format,
    layers: torch.dtype | None,
) -> PlainNetwork:
    """Return the evaluating network of a width, with the weights of the time: until the next call for it."""
    key = width, memory_format, layers
    mould: Mould | None = network.moulds.get(key)
    if mould is not None and mould.serves(network):
        return mould.fill(network)
    network.moulds[key] = mould = Mould(network, width, memory_format, layers)
    return mould.network


@contextmanager
def filled(
    network: SlimmableNetwork,
    width: float,
    memory_format: torch.memory_format,
    layers: torch.dtype | None,
) -> Iterator[PlainNetwork]:
    """Give a block the evaluating network of a width, with the weights of the time."""
    made = filled_copy(network, width, memory_format, layers)
    try:
        yield made
    finally:
        network.moulds[width, memory_format, layers].empty()


def frozen_copy(
    network: SlimmableNetwork,
    width: float,
    memory_format: torch.memory_format,
    layers: torch.dtype | None,
) -> tuple[PlainNetwork, list[Fold]]:
    """Make an evaluating network of a width, and tell which norms were folded."""
    plain = network.plain(width).eval().requires_grad_(False)
    folds = plain.fold_batch_norms()
    cast(Any, plain).to(memory_format=memory_format)
    if layers is not None:
        plain.cast_layers(layers)
    plain.fuse_activations()
    return plain, folds


def _norm(network: SlimmableNetwork, fold: Fold, width: float) -> Any:
    norm = network.get_submodule(fold.norm)
    return norm.at(width) if isinstance(norm, SwitchableBatchNorm) else norm


def _is_ordinary(kind: type) -> bool:
    return cast(Any, kind).forward is _BatchNorm.forward or issubclass(kind, nn.SyncBatchNorm)
