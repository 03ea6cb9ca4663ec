"""The package's names: one table of strategies, known without importing torch."""

from __future__ import annotations

import os
import subprocess
import sys

import dynams.selection
from dynams.selection import methods


def test_there_is_one_table_of_strategies() -> None:
    assert dynams.selection.STRATEGIES is methods.STRATEGIES
    assert all(callable(methods.STRATEGIES[name]) for name in methods.STRATEGIES)


def test_names_and_configurations_are_known_without_torch() -> None:
    code = (
        "import sys\n"
        "from dynams.selection import STRATEGIES\n"
        "from dynams.training import SelectionConfig, TrainConfig\n"
        "configs = [TrainConfig(selection=SelectionConfig(strategy=name)) for name in STRATEGIES]\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
