"""Packages whose names load on first use, so that knowing them does not import torch.

A name and its home are stated once, where type checkers look too: in an import under `if TYPE_CHECKING`.

    if TYPE_CHECKING:
        from package.module import Name as Name
    else:
        __all__, __getattr__, __dir__ = lazy_names(__name__)
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

Lazy = tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]


def lazy_names(package: str) -> Lazy:
    """Return `__all__`, `__getattr__` and `__dir__` of a package that is being imported.

    Its public names are those that the `if TYPE_CHECKING` block of its `__init__.py` imports; each is
    imported from there when it is first asked for.

    Raises:
        ImportError: the source of its `__init__.py` is not there.
    """
    homes = dict(_imported_for_types(package))
    names = sorted(homes)

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return names, load, names.copy


def _imported_for_types(package: str) -> list[tuple[str, str]]:
    """Names and their modules."""
    spec = importlib.util.find_spec(package)
    source = spec.loader.get_source(package) if spec and spec.loader else None  # type: ignore[attr-defined]
    if source is None:
        raise ImportError(
            f"{package}: got no source of its __init__.py, want it beside the package"
        )
    return [
        (alias.name, statement.module)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    ]
