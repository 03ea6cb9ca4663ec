"""The ordinary network of one width."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dynams.slimmable.base import (
    Blueprint,
    Forward,
    ProgrammedNetwork,
    flat,
)
from dynams.slimmable.casting import layer_weights
from dynams.slimmable.folding import Fold, folded
from dynams.slimmable.fusing import fused
from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.slimmable.places import owner_of, value_at
from dynams.slimmable.program import Program


class PlainNetwork(ProgrammedNetwork):
    """An ordinary network of one width: to score with, to export, to compare with.

    `SlimmableNetwork.plain` makes it.

    Attributes:
        network: the user's module, with the weights of that width under the names they had.
    """

    def features(self, images: Tensor) -> Tensor:
        """Map images to what the head takes, (B, D)."""
        self._check(images)
        return flat(self._run(self._forward().features, images))

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits (B, C)."""
        self._check(images)
        forward = self._forward()
        return self._run(forward.logits, self._run(forward.features, images))

    def fold_batch_norms(self) -> list[Fold]:
        """Fold every batch-norm that follows a convolution or linear layer into it, for eval mode.

        Outputs stay the same up to rounding. A batch-norm without running statistics, and one whose
        input is used elsewhere too, stay.

        Returns:
            What was folded into what.

        Raises:
            ValueError: the network is in training mode.
        """
        if self.training:
            raise ValueError("fold_batch_norms: got a network in training mode, want eval mode")
        forward = self._forward()
        features, folds = folded(forward.features, self)
        self._blueprint = replace(
            self._blueprint, forwards={(1.0, False): Forward(features, forward.logits)}
        )
        return folds

    def cast_layers(self, dtype: torch.dtype) -> None:
        """Cast the weights of layers before the classifier, once, as autocast does at every call."""
        forward = self._forward()
        for path in layer_weights(forward.features):
            owner, name = owner_of(self, path)
            weight = owner._parameters.get(name)
            if weight is not None and path not in forward.logits.tensors:
                cast_weight = weight.detach().to(dtype)
                owner._parameters[name] = nn.Parameter(cast_weight, weight.requires_grad)

    def fuse_activations(self) -> None:
        """Join sums and rectifiers to the convolutions before them, for half precision on a GPU.

        Elsewhere nothing is computed differently. Weights are cast before (`cast_layers`), batch-norms folded.
        """
        forward = self._forward()
        self._blueprint = replace(
            self._blueprint,
            forwards={
                **self._blueprint.forwards,
                (1.0, self.network.training): forward._replace(features=fused(forward.features)),
            },
        )

    @property
    def programs(self) -> Forward:
        """What runs in the present mode."""
        return self._forward()

    def _forward(self) -> Forward:
        return self._blueprint.forwards[1.0, self.network.training]

    def _run(self, program: Program, input: Tensor) -> Tensor:
        return program.run(input, *program.taken(self))


def plain_at(
    network: nn.Module,
    constants: nn.Module,
    blueprint: Blueprint,
    width: float,
    own: Mapping[str, Tensor],
) -> PlainNetwork:
    """Make the ordinary network of a width of a slimmable one, with copies of the weights, and of its ``own`` by path."""
    parts = nn.ModuleDict({"network": network, "constants": constants})
    # What stands in a copy for what it is made of: so nothing is copied only to be cut or left out.
    made: dict[int, Any] = {
        id(module): module.copy_at(width)
        for module in network.modules()
        if isinstance(module, SwitchableBatchNorm)
    }
    for path, slices in blueprint.slices.items():
        if path in own or not slices.whole(width):
            value = value_at(parts, path)
            part = own[path] if path in own else slices.part(value, width)
            part = part.detach().clone()
            is_parameter = isinstance(value, nn.Parameter)
            made[id(value)] = nn.Parameter(part, value.requires_grad) if is_parameter else part
    parts = copy.deepcopy(parts, made)
    _describe(parts["network"])
    forwards = {(1.0, mode): blueprint.forwards[width, mode] for mode in (True, False)}
    blueprint = replace(blueprint, forwards=forwards, slices={}, nesting=None)
    return PlainNetwork(parts["network"], parts["constants"], blueprint)


def replace_module(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` stands."""
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


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
