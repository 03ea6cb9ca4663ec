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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from dynams_kernels._backends import eager, native_modules
from dynams_kernels._backends.fallback import Fallback, how_to_build
from dynams_kernels._backends.gpu import Gpu
from dynams_kernels._checks import check_label_range

if TYPE_CHECKING:
    from dynams_kernels._backends.native_cpu import NativeCpu
    from dynams_kernels._backends.triton import Triton

_BACKEND_CHOICES = ("auto", "native", "triton", "eager")
_ISA_CHOICES = ("avx512", "avx2", "baseline")


class DigitCounter(Protocol):
    """Counts the digits of keys of values (n,): signed integers of `width` bits in the order of selection."""

    width: int

    def count(self, prefix: Tensor | None, shift: int, bits: int) -> Tensor:
        """How many keys have each value of the digit of `bits` at `shift`: (2^bits,) int64, in the order of the keys.

        Others than those whose bits above it are the prefix, 0-dimensional int64, do not count. Called from the top digit (None) down.
        """
        ...

    def smallest(self, k: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """`Backend.smallest_k` in index order, where this key is known: k keys are below it, or with some of those equal to it."""
        ...


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

    def linear_states(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        kinds: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor | None]: ...

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]: ...

    def smallest_k_into(
        self, values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
    ) -> None: ...

    def digit_counter(self, values: Tensor) -> DigitCounter: ...

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
    choice = os.environ.get(variable) or None
    if choice is not None and choice not in choices:
        raise ValueError(f"{variable}: got {choice!r}, want one of {', '.join(choices)}")
    return choice


_choice = _from_environment("DYNAMS_KERNELS_BACKEND", _BACKEND_CHOICES) or "auto"
_ASKED_FOR = f"DYNAMS_KERNELS_BACKEND={_choice}"


def _load_native_cpu() -> tuple[NativeCpu | None, Status]:
    isa = _from_environment("DYNAMS_KERNELS_ISA", _ISA_CHOICES)
    found = native_modules.load("_cpu")
    if found.module is None:
        if _choice == "native":
            raise ImportError(
                f"DYNAMS_KERNELS_BACKEND=native, but the compiled CPU module: {found.why_not}"
            )
        return None, Status(compiled=found.present, usable=False, why_not=found.why_not)
    from dynams_kernels._backends.native_cpu import NativeCpu

    backend = NativeCpu(found.module, isa)
    details = {
        "isa": backend.isa,
        "isas": list(found.module.supported_isas()),
        "threads": found.module.team_kind(),
    }
    if _choice == "eager":
        return None, Status(True, False, _ASKED_FOR, details)
    return backend, Status(True, True, None, details)


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
_cuda = native_modules.load("_cuda")
_triton_version, _why_no_triton = _find_triton()


class _Telling:
    """Plain torch, which tells at its first call what it stands for."""

    def __init__(self, fallback: Fallback) -> None:
        self._fallback = fallback

    def __getattr__(self, name: str) -> Callable[..., Any]:
        primitive: Callable[..., Any] = getattr(eager, name)

        @wraps(primitive)
        def telling(*arguments: Any, **named: Any) -> Any:
            self._fallback.tell()
            return primitive(*arguments, **named)

        return telling


def _cpu_fallback() -> Fallback | None:
    if _native_cpu is not None:
        return None
    if _choice == "eager":
        return Fallback(f"plain torch stands for the compiled CPU kernels: {_ASKED_FOR}", True)
    return Fallback(
        f"no compiled CPU kernels: {_native_cpu_status.why_not}. Plain torch stands for them, several times slower. "
        + how_to_build("DYNAMS_BUILD_CPU", "a C++ compiler")
    )


_fallback_of_cpu = _cpu_fallback()


def _cpu_backend() -> tuple[str, Backend]:
    # Interpreted, Triton's kernels run on the CPU: that is how they are tested where there is no GPU.
    if _choice == "triton" and _why_no_triton is None and os.environ.get("TRITON_INTERPRET") == "1":
        return "triton", _load_triton()
    if _native_cpu is not None:
        return "native_cpu", _native_cpu
    assert _fallback_of_cpu is not None
    return "eager", eager if _choice == "eager" else cast(Backend, _Telling(_fallback_of_cpu))


# The backends that serve tensors on the CPU and on CUDA devices; every other device is served by `eager`.
_cpu_name, cpu = _cpu_backend()
gpu = Gpu(
    _cuda.module, None if _why_no_triton else _load_triton, _choice, _cuda.why_not or "not built"
)


def tell_fallback(
    device: torch.device | str = "cpu", tell: Callable[[str], object] | None = None
) -> None:
    """Tell, once a process, where a device is served by something slower than the compiled kernels: why, and what to type.

    The first call of a kernel does it by itself, with a RuntimeWarning in one process of a machine. Nothing is told of
    devices that the compiled kernels serve, or have never served.

    Args:
        device: the device.
        tell: takes the line, which begins with "warning: " unless DYNAMS_KERNELS_BACKEND asks for the slower kernels; None: the
            RuntimeWarning, of which that is not worth one.
    """
    device = torch.device(device)
    fallback = _fallback_of_cpu if device.type == "cpu" else None
    if device.type == "cuda" and torch.cuda.is_available():
        index = torch.cuda.current_device() if device.index is None else device.index
        fallback = gpu.fallback(index)
    if fallback is not None:
        fallback.tell(tell)


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


def _gpu_status(found: native_modules.Found, why_not: str, details: Any) -> Status:
    if found.why_not is not None:
        return Status(found.present, False, found.why_not, details)
    if not torch.cuda.is_available():
        return Status(True, False, "torch finds no CUDA device", details)
    return Status(True, why_not == "", why_not or None, details)


def describe() -> dict[str, dict[str, Any]]:
    """Every backend's status by name, and under "serves" the backend in use for each kind of device (CUDA: the current one)."""
    with_gpu = torch.cuda.is_available()
    device = torch.cuda.current_device() if with_gpu else 0
    cuda_details = None
    if _cuda.module is not None:
        cuda_details = {
            "architectures": list(_cuda.module.ARCHITECTURES),
            "cuda": _cuda.module.CUDA_VERSION,
            "linear_scores": _cuda.module.HOPPER or "for compute capability 9.0",
        }
        if with_gpu and not gpu.why_not_native(device):
            cuda_details["linear_scores"] = gpu.why_not_native_linear(device) or "usable"
    native_cuda = _gpu_status(
        _cuda,
        gpu.why_not_native(device) if with_gpu else "",
        cuda_details,
    )
    triton = _gpu_status(
        native_modules.Found(None, _why_no_triton is None, _why_no_triton),
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
