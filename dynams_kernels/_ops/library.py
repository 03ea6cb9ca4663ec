"""Where the primitives are defined as torch operators, and who serves them on which device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dynams_kernels._backends import eager, registry

LIBRARY = torch.library.Library("dynams_kernels", "DEF")


def define(name: str, signature: str) -> Callable[..., Any]:
    """The operator `dynams_kernels::name`, each backend's method of that name behind it."""
    LIBRARY.define(f"{name}{signature}")
    LIBRARY.impl(name, getattr(eager, name), "CompositeExplicitAutograd")
    LIBRARY.impl(name, getattr(registry.gpu, name), "CUDA")
    if registry.cpu is not eager:
        LIBRARY.impl(name, getattr(registry.cpu, name), "CPU")
    operator: Callable[..., Any] = getattr(torch.ops.dynams_kernels, name).default
    return operator
