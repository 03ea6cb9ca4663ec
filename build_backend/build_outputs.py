"""What an earlier build left: removed where this one writes what is packaged, only told of beside the source."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_LIBRARIES = (".so", ".pyd", ".dylib")


def remove_modules(folder: Path, name: str) -> list[Path]:
    """Remove the compiled modules of a name, for any Python, from a folder of build products."""
    found = [path for path in _files(folder) if _is_module(path, (name,))]
    for path in found:
        path.unlink()
    return found


def importable(folder: Path, name: str) -> list[Path]:
    """The compiled modules of a name that this Python would import from a folder."""
    names = {name + suffix for suffix in EXTENSION_SUFFIXES}
    return [path for path in _files(folder) if path.name in names]


def remove_others(folder: Path, outputs: Iterable[str], modules: Collection[str]) -> list[Path]:
    """Remove the files below a folder of build products that are neither among the outputs nor compiled modules of these names."""
    kept = {Path(output).absolute() for output in outputs}
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.absolute() not in kept and not _is_module(path, modules)
    ]
    for path in found:
        path.unlink()
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []


def _is_module(path: Path, names: Collection[str]) -> bool:
    return path.name.partition(".")[0] in names and path.suffix in _LIBRARIES
