"""The package's names: one table of strategies, known without importing torch."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys

import pytest

from dynams.selection import STRATEGIES, BatchStrategy, Strategy, build_strategy, methods


def test_the_table_names_every_strategy_once() -> None:
    classes = {getattr(methods, name) for name in methods.__all__ if not name.islower()}
    strategies = {each for each in classes if hasattr(each, "select") or hasattr(each, "keep")}
    assert len(STRATEGIES) == len(strategies)
    assert {STRATEGIES[name] for name in STRATEGIES} == strategies
    for name in STRATEGIES:
        made = build_strategy(name)
        assert isinstance(made, Strategy) != isinstance(made, BatchStrategy)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_s_file_begins_with_what_any_loop_can_call(name: str) -> None:
    module = inspect.getmodule(STRATEGIES[name])
    assert module is not None
    definitions = (ast.FunctionDef, ast.ClassDef)
    first = next(
        each for each in ast.parse(inspect.getsource(module)).body if isinstance(each, definitions)
    )
    assert first.name in methods.__all__
    assert first.name not in {kind.__name__ for kind in STRATEGIES.values()}
    told = ast.get_docstring(first) or ""
    assert all(word in told for word in ("Source:", "Cost:", "Does not pay:"))


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
