"""The benchmarks' helpers are scripts beside each other, no package: their folder is put on the path."""

from __future__ import annotations

import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
