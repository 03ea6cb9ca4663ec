"""Which backends are compiled in, which can be used on this machine, and which one serves each device.

The choice is made at import (for a GPU: at its first call) and can be narrowed through the environment:
DYNAMS_KERNELS_BACKEND = auto (default) | native: the compiled modules or an error | triton: on GPUs, Triton alone | eager:
plain torch. DYNAMS_KERNELS_ISA = baseline | avx2 | avx512 (default: the best this CPU has).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dynams_kernels._backends import eager
from dynams_kernels._backends.gpu import Gpu
from dynams_kernels._checks import check_label_range

if TYPE_CHECKING:
    from dynams_kernels._backends.native_cpu import NativeCpu
    from dynams_kernels._backends.triton import Triton

_BACKEND_CHOICES = ("auto", "native", "triton", "eager")
_ISA_CHOICES = ("avx512", "avx2", "baseline")


class Backend(Protocol):
    """What a backend offers: the primitives, on checked arguments.

    A label outside [0, C) makes the label-based scores of its row NaN.
    """

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor: ...

    def row_score(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
    ) -> Tensor: ...

    def linear_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        widths: Sequence[int],
        kinds: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor | None]: ...

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]: ...

    def smallest_k_into(
        self, values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
    ) -> None: ...

    def smallest_k_grouped(
        self,
        values: Tensor,
        groups: Tensor,
        k: Tensor | None,
        fraction: float,
        total: int,
        by_value: bool,
    ) -> tuple[Tensor, Tensor]: ...


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


_choice = _from_environment("DYNAMS_KERNELS_BACKEND", _BACKEND_CHOICES) or "auto"


def _load_native_cpu() -> tuple[NativeCpu | None, Status]:
    isa = _from_environment("DYNAMS_KERNELS_ISA", _ISA_CHOICES)
    try:
        module: ModuleType = importlib.import_module("dynams_kernels._cpu")
    except ImportError as error:
        if _choice == "native":
            raise ImportError(
                "DYNAMS_KERNELS_BACKEND=native, but the compiled CPU module cannot be imported: "
                f"{error}"
            ) from error
        return None, Status(compiled=False, usable=False, why_not=_not_built(error))
    from dynams_kernels._backends.native_cpu import NativeCpu

    backend = NativeCpu(module, isa)
    details = {
        "isa": backend.isa,
        "isas": list(module.supported_isas()),
        "threads": module.team_kind(),
    }
    if _choice == "eager":
        return None, Status(True, False, "DYNAMS_KERNELS_BACKEND=eager", details)
    return backend, Status(True, True, None, details)


def _not_built(error: ImportError) -> str:
    return f"{error}: not built, or the package is imported from a source tree"


def _load_native_cuda() -> tuple[ModuleType | None, str | None]:
    try:
        return importlib.import_module("dynams_kernels._cuda"), None
    except ImportError as error:
        return None, _not_built(error)


def _find_triton() -> tuple[str | None, str | None]:
    """Triton's version, and why it cannot be used; without importing it, which takes half a second."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        # torch's nightly builds bring it under another distribution's name.
        if importlib.util.find_spec("triton") is None:
            return None, "triton is not installed"
        version = importlib.import_module("triton").__version__
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < (3, 4):
        return version, f"triton {version}, want 3.4 or newer"
    return version, None


def _load_triton() -> Triton:
    from dynams_kernels._backends.triton import Triton

    return Triton()


_native_cpu, _native_cpu_status = _load_native_cpu()
_cuda_module, _why_no_cuda_module = _load_native_cuda()
_triton_version, _why_no_triton = _find_triton()


def _cpu_backend() -> tuple[str, Backend]:
    # Interpreted, Triton's kernels run on the CPU: that is how they are tested where there is no GPU.
    if _choice == "triton" and _why_no_triton is None and os.environ.get("TRITON_INTERPRET") == "1":
        return "triton", _load_triton()
    return ("eager", eager) if _native_cpu is None else ("native_cpu", _native_cpu)


# The backends that serve tensors on the CPU and on CUDA devices; every other device is served by `eager`.
_cpu_name, cpu = _cpu_backend()
gpu = Gpu(_cuda_module, None if _why_no_triton else _load_triton, _choice)


def serving(tensor: Tensor) -> Backend:
    """The backend of a tensor's device."""
    if tensor.is_cpu:
        return cpu
    return gpu if tensor.is_cuda else eager


def check_labels(labels: Tensor, classes: int, ignored: int) -> None:
    """Labels in [0, C) or ignored, where they can be read without waiting for a device.

    Raises:
        ValueError: naming the lowest label if it is negative, else the highest.
    """
    if not labels.is_cpu:
        return
    if _native_cpu is None:
        check_label_range(labels, classes, ignored)
    else:
        _native_cpu.check_labels(labels, classes, ignored)


def _gpu_status(compiled: bool, why_absent: str | None, why_not: str, details: Any) -> Status:
    if not compiled:
        return Status(False, False, why_absent, details)
    if not torch.cuda.is_available():
        return Status(True, False, "torch finds no CUDA device", details)
    return Status(True, why_not == "", why_not or None, details)


def describe() -> dict[str, dict[str, Any]]:
    """Every backend's status by name, and under "serves" the backend in use for each kind of device (CUDA: the current one)."""
    with_gpu = torch.cuda.is_available()
    device = torch.cuda.current_device() if with_gpu else 0
    cuda_details = None
    if _cuda_module is not None:
        cuda_details = {
            "architectures": list(_cuda_module.ARCHITECTURES),
            "cuda": _cuda_module.CUDA_VERSION,
            "linear_scores": _cuda_module.HOPPER or "for compute capability 9.0",
        }
        if with_gpu and not gpu.why_not_native(device):
            cuda_details["linear_scores"] = gpu.why_not_native_linear(device) or "usable"
    native_cuda = _gpu_status(
        _cuda_module is not None,
        _why_no_cuda_module,
        gpu.why_not_native(device) if with_gpu else "",
        cuda_details,
    )
    triton = _gpu_status(
        _why_no_triton is None,
        _why_no_triton,
        gpu.why_not_triton(device) if with_gpu else "",
        {"version": _triton_version},
    )
    return {
        "native_cpu": _native_cpu_status.as_dict(),
        "native_cuda": native_cuda.as_dict(),
        "triton": triton.as_dict(),
        "eager": Status(compiled=True, usable=True).as_dict(),
        "serves": {
            "cpu": _cpu_name,
            "cuda": gpu.serves(device).names() if with_gpu else {},
            "other": "eager",
        },
    }
