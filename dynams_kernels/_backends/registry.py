"""Which backends are compiled in, which can be used on this machine, and which one serves each device.

The choice is made once, at import, and can be narrowed through the environment:
DYNAMS_KERNELS_BACKEND = auto (default) | native | eager; DYNAMS_KERNELS_ISA = baseline | avx2 | avx512 (default: the best this CPU has).
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from dynams_kernels._backends import eager

_BACKEND_CHOICES = ("auto", "native", "eager")
_ISA_CHOICES = ("avx512", "avx2", "baseline")


class Backend(Protocol):
    """What a backend offers: the three primitives, on checked arguments."""

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor: ...

    def linear_row_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kind: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor]: ...

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Status:
    """Whether a backend is part of this installation, whether it can run here, and if not, why."""

    compiled: bool
    usable: bool
    why_not: str | None = None
    details: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The status as plain values, details last."""
        plain: dict[str, Any] = {
            "compiled": self.compiled,
            "usable": self.usable,
            "why_not": self.why_not,
        }
        return {**plain, **(self.details or {})}


def _from_environment(variable: str, choices: tuple[str, ...]) -> str | None:
    choice = os.environ.get(variable)
    if choice is not None and choice not in choices:
        raise ValueError(f"{variable}: got {choice!r}, want one of {', '.join(choices)}")
    return choice


def _load_native_cpu() -> tuple[Backend | None, Status]:
    choice = _from_environment("DYNAMS_KERNELS_BACKEND", _BACKEND_CHOICES)
    isa = _from_environment("DYNAMS_KERNELS_ISA", _ISA_CHOICES)
    try:
        module: ModuleType = importlib.import_module("dynams_kernels._cpu")
    except ImportError as error:
        if choice == "native":
            raise ImportError(
                "DYNAMS_KERNELS_BACKEND=native, but the compiled CPU module cannot be imported: "
                f"{error}"
            ) from error
        why_not = f"{error}: not built, or the package is imported from a source tree"
        return None, Status(compiled=False, usable=False, why_not=why_not)
    from dynams_kernels._backends.native_cpu import NativeCpu

    backend = NativeCpu(module, isa)
    details = {
        "isa": backend.isa,
        "isas": list(module.supported_isas()),
        "threads": module.team_kind(),
    }
    if choice == "eager":
        return None, Status(True, False, "DYNAMS_KERNELS_BACKEND=eager", details)
    return backend, Status(True, True, None, details)


_native_cpu, _native_cpu_status = _load_native_cpu()

# The backend that serves tensors on the CPU; every other device is served by `eager`.
cpu: Backend = _native_cpu if _native_cpu is not None else eager


def describe() -> dict[str, dict[str, Any]]:
    """Every backend's status by name, and under "serves" the backend in use for each kind of device."""
    on_cpu = "native_cpu" if _native_cpu is not None else "eager"
    return {
        "native_cpu": _native_cpu_status.as_dict(),
        "eager": Status(compiled=True, usable=True).as_dict(),
        "serves": {"cpu": on_cpu, "other": "eager"},
    }
