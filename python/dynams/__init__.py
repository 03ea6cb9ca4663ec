"""Training on the samples nearest the decision boundary: a thin slimmable-ResNet trainer over
`dynams_kernels`. Subpackages: `models` (slimmable ResNets), `selection` (budget schedules and the
margin sampler), `data`, `training`, `report` and `cli`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dynams-kernels")
except PackageNotFoundError:
    __version__ = "0.0.0+unknown"

__all__ = ["__version__"]
