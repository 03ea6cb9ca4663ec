"""What the networks that `convert` makes have in common: the user's module, and programs that run in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from dynams.slimmable.nested import Nesting
from dynams.slimmable.places import value_at
from dynams.slimmable.program import Program
from dynams.slimmable.weights import Slices


class Head(NamedTuple):
    """A classifier.

    Attributes:
        weight: (C, D).
        bias: (C,), or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, features: Tensor) -> Tensor:
        """Map features (..., D) to logits (..., C)."""
        return nn.functional.linear(features, self.weight, self.bias)


class Forward(NamedTuple):
    """The programs of one width and mode.

    Attributes:
        features: from the input to what the classifier takes.
        logits: from there to the logits.
    """

    features: Program
    logits: Program


@dataclass(frozen=True)
class Blueprint:
    """How a network runs at its widths.

    Attributes:
        forwards: by width and mode (True: training).
        slices: what each width uses of parameters and buffers, by path.
        head: paths of the classifier's weight and bias, if it has one.
        shape: of the input; None where another size may come.
        resting: modules that stay in eval mode when the network trains.
        changes_input: the forward changes its input in place.
        changes: paths of the parameters and buffers that the forward changes: at full width for good, at
            others for the time of a call.
        nesting: how the slim width is nested in the full one; None: it is not.
    """

    forwards: Mapping[tuple[float, bool], Forward]
    slices: Mapping[str, Slices]
    head: tuple[str, str | None]
    shape: tuple[int | None, ...]
    resting: tuple[str, ...]
    changes_input: bool
    changes: frozenset[str]
    nesting: Nesting | None = None


class ProgrammedNetwork(nn.Module):
    """A module of the user's whose forward is run by programs.

    Args:
        network: the module.
        constants: tensors that it brought besides.
        blueprint: the programs.

    Attributes:
        network: as given.
        constants: as given.
    """

    def __init__(self, network: nn.Module, constants: nn.Module, blueprint: Blueprint) -> None:
        super().__init__()
        self.network = network
        self.constants = constants
        self._blueprint = blueprint
        self.training = network.training

    def train(self, mode: bool = True) -> Any:
        """As of `nn.Module`; what was in eval mode inside a network that trained stays so."""
        super().train(mode)
        for path in self._blueprint.resting:
            self.network.get_submodule(path).eval()
        return self

    def _check(self, images: Tensor) -> None:
        shape = self._blueprint.shape
        if len(shape) != images.dim() or any(
            want is not None and want != size
            for want, size in zip(shape, images.shape, strict=True)
        ):
            told = ", ".join(
                "B" if at == 0 else "*" if each is None else str(each)
                for at, each in enumerate(shape)
            )
            raise ValueError(
                f"images: got shape {tuple(images.shape)}, want ({told}): what the network was converted for; "
                "convert(..., example=...) takes another"
            )

    @property
    def head(self) -> Head:
        """The classifier."""
        weight, bias = (
            None if path is None else value_at(self, path) for path in self._blueprint.head
        )
        assert weight is not None
        return Head(flat(weight), bias)


def flat(features: Tensor) -> Tensor:
    """Flatten what a 1x1 convolution of pooled features takes, or its weight."""
    return features.flatten(1) if features.dim() == 4 else features
