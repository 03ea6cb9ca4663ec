"""The kernels' speed on this machine: beside torch's way to the same answer, and beside a plain copy.

`dynams bench` prints what `measure` returns. The names load on first use, so that reading a
configuration does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.bench.config import BenchConfig
    from dynams.bench.timing import Measurement, Result, measure

__all__ = ["BenchConfig", "Measurement", "Result", "measure"]

_MODULES = {
    "BenchConfig": "config",
    "Measurement": "timing",
    "Result": "timing",
    "measure": "timing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
