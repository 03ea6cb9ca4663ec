"""What training costs: the clock that measures it by purpose, and the forecast from what was measured.

The names load on first use, so that reports can read the purposes without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.cost.clock import Clock
    from dynams.cost.forecast import Estimate, Forecast, Outline, estimate, fit
    from dynams.cost.purposes import PURPOSES
    from dynams.cost.rates import Rates, Work, measured

__all__ = [
    "PURPOSES",
    "Clock",
    "Estimate",
    "Forecast",
    "Outline",
    "Rates",
    "Work",
    "estimate",
    "fit",
    "measured",
]

_MODULES = {
    "clock": ("Clock",),
    "forecast": ("Estimate", "Forecast", "Outline", "estimate", "fit"),
    "purposes": ("PURPOSES",),
    "rates": ("Rates", "Work", "measured"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
