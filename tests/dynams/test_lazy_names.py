"""Packages whose names load on first use: the names are those that type checkers see, and none else."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import py_compile
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import dynams.bench
import dynams.compare
import dynams.cost
import dynams.selection
import dynams.selection.methods
import dynams.training

FACADES = [
    dynams.bench,
    dynams.compare,
    dynams.cost,
    dynams.selection,
    dynams.selection.methods,
    dynams.training,
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "lazily_named"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from dynams._lazy import lazy_names\n"
        "__all__, __getattr__, __dir__ = lazy_names(__name__, {'heavy': 'other Thing'})\n"
    )
    (folder / "heavy.py").write_text("Thing = 3\ndef other(): return 4\nhidden = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_name_loads_its_module_when_it_is_first_asked_for(package: str) -> None:
    facade = importlib.import_module(package)
    assert facade.__all__ == dir(facade) == ["Thing", "other"]
    assert f"{package}.heavy" not in sys.modules
    assert facade.Thing == 3
    assert facade.other() == 4
    with pytest.raises(AttributeError, match="module 'lazily_named' has no attribute 'hidden'"):
        facade.hidden  # noqa: B018


def test_a_package_needs_no_source(package: str, tmp_path: Path) -> None:
    for source in (tmp_path / package).glob("*.py"):
        py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")))
        source.unlink()
    importlib.invalidate_caches()
    facade = importlib.import_module(package)
    assert (facade.__all__, facade.Thing) == (["Thing", "other"], 3)


@pytest.mark.parametrize("facade", FACADES)
def test_a_package_has_the_names_that_type_checkers_see(facade: ModuleType) -> None:
    homes = {
        alias.name: statement.module
        for block in ast.parse(inspect.getsource(facade)).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if alias.asname == alias.name  # else it is not exported
    }
    assert facade.__all__ == dir(facade) == sorted(homes)
    for name, home in homes.items():
        assert home is not None
        assert getattr(facade, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        facade.Nonsense  # noqa: B018


@pytest.mark.parametrize("facade", FACADES)
def test_no_public_name_is_a_submodules(facade: ModuleType) -> None:
    # Whoever imports the submodule would put it in the name's place.
    assert not {each.name for each in pkgutil.iter_modules(facade.__path__)} & set(facade.__all__)
