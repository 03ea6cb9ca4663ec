"""The benchmarks' helpers are scripts beside each other, no package: their folder is put on the path, and this one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "bench")]


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """bench/gpu.sh in a folder of its own."""
    from faked_script import Script

    return Script(tmp_path)
