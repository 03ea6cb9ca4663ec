"""The kernels' speed on this machine: beside torch's way to the same answer, and beside a plain copy.

`dynams bench` prints what `measure` returns. The names load on first use, so that reading a
configuration does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams._lazy import lazy_names

if TYPE_CHECKING:
    from dynams.bench.config import BenchConfig as BenchConfig
    from dynams.bench.timing import Measurement as Measurement
    from dynams.bench.timing import Result as Result
    from dynams.bench.timing import measure as measure
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "config": "BenchConfig",
            "timing": "Measurement Result measure",
        },
    )
