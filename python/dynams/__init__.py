"""Training on the samples nearest the decision boundary: a trainer of slimmable networks over `dynams_kernels`.

From the top down, each package importing from those after it only: `cli` (the command line), `compare` (many
runs beside each other) and `bench` (the kernels' speed), `training` (one run), `report` (its log and page),
`cost` (the clock and the forecast), `selection` (which samples an epoch trains on), `data`, `slimmable` (any
network made slimmable) and `models` (slimmable ResNets).
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dynams-kernels")
except PackageNotFoundError:
    __version__ = "0.0.0+unknown"

__all__ = ["__version__"]
