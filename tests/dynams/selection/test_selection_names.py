"""The package's names: one table of strategies, known without importing torch."""

from __future__ import annotations

import os
import subprocess
import sys

from dynams.selection import STRATEGIES, BatchStrategy, Strategy, build_strategy, methods


def test_the_table_names_every_strategy_once() -> None:
    classes = {getattr(methods, name) for name in methods.__all__ if not name.islower()}
    strategies = {each for each in classes if hasattr(each, "select") or hasattr(each, "keep")}
    assert len(STRATEGIES) == len(strategies)
    assert {STRATEGIES[name] for name in STRATEGIES} == strategies
    for name in STRATEGIES:
        made = build_strategy(name)
        assert isinstance(made, Strategy) != isinstance(made, BatchStrategy)


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
