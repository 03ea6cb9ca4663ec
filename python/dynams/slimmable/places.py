"""Parameters, buffers and modules found by their paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn


class Places:
    """Where tensors and modules stand in a network, with each module on the way looked up once.

    They are looked up at every call, so that the network may meanwhile be moved, copied, loaded or have
    modules replaced; a walk for each path would take longer than a small network's slim layers.

    Args:
        tensors: paths of parameters and buffers.
        modules: paths of modules.
    """

    def __init__(self, tensors: Sequence[str], modules: Sequence[str]) -> None:
        numbers = {"": 0}
        steps: list[tuple[int, str]] = []

        def number(path: str) -> int:
            if path not in numbers:
                parent, _, name = path.rpartition(".")
                steps.append((number(parent), name))
                numbers[path] = len(steps)
            return numbers[path]

        split = [path.rpartition(".") for path in tensors]
        self._tensors = [(number(owner), name) for owner, _, name in split]
        self._modules = [number(path) for path in modules]
        # A module and its name in the module of that number; 0 is the network.
        self._steps = steps

    def find(self, network: nn.Module) -> tuple[list[Tensor], list[nn.Module]]:
        """Return the tensors and the modules that stand there now."""
        known = [network]
        for parent, name in self._steps:
            known.append(cast(nn.Module, known[parent]._modules[name]))
        tensors = []
        for owner, name in self._tensors:
            value = known[owner]._parameters.get(name)
            tensors.append(known[owner]._buffers[name] if value is None else value)
        return cast("list[Tensor]", tensors), [known[each] for each in self._modules]


def owner_of(network: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that a parameter or buffer belongs to, and its name there."""
    owner, _, name = path.rpartition(".")
    return network.get_submodule(owner), name


def value_at(network: nn.Module, path: str) -> Tensor:
    """Return a parameter or buffer."""
    owner, name = owner_of(network, path)
    value: Tensor | None = owner._parameters.get(name)
    return cast(Tensor, owner._buffers[name] if value is None else value)
