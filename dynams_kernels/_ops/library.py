"""Where the primitives are defined as torch operators, and who serves them on which device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import eager, registry

LIBRARY = torch.library.Library("dynams_kernels", "DEF")


def define(
    name: str, signature: str, served: Callable[[Any], Callable[..., Any]] | None = None
) -> Callable[..., Any]:
    """The operator `dynams_kernels::name`.

    `served` gives what a backend computes it with; None: its method of that name.
    """
    LIBRARY.define(f"{name}{signature}")
    for backend, key in (
        (eager, "CompositeExplicitAutograd"),
        (registry.gpu, "CUDA"),
        (registry.cpu, "CPU"),
    ):
        if key != "CPU" or backend is not eager:
            LIBRARY.impl(name, served(backend) if served else getattr(backend, name), key)
    operator: Callable[..., Any] = getattr(torch.ops.dynams_kernels, name).default
    return operator


def for_callers(scores: Tensor) -> Tensor:
    """Scores that callers may write into: an operator's own where no gradient is wanted, else a copy.

    The backward pass may keep the operator's, and torch forbids to write into views of them.
    """
    return scores.clone() if scores.requires_grad else scores
