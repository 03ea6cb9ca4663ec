"""Packages whose names load on first use: the names are those that type checkers see, and none else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dynams.bench
import dynams.compare
import dynams.selection
import dynams.selection.methods
import dynams.training

FACADE = """
from typing import TYPE_CHECKING
from dynams._lazy import lazy_names
if TYPE_CHECKING:
    from {0}.heavy import Thing as Thing
    from {0}.heavy import other as other
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "lazily_named"
    folder.mkdir()
    (folder / "__init__.py").write_text(FACADE.format(folder.name))
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


def test_a_package_without_its_source_is_refused(package: str, tmp_path: Path) -> None:
    import py_compile

    source = tmp_path / package / "__init__.py"
    py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")))
    source.unlink()
    importlib.invalidate_caches()
    with pytest.raises(ImportError, match="got no source of its"):
        importlib.import_module(package)


@pytest.mark.parametrize(
    "facade",
    [
        dynams.bench,
        dynams.compare,
        dynams.selection,
        dynams.selection.methods,
        dynams.training,
    ],
)
def test_every_public_name_is_there_and_no_other_is(facade) -> None:
    for name in facade.__all__:
        assert getattr(facade, name) is not None
    assert dir(facade) == sorted(facade.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        facade.Nonsense  # noqa: B018
