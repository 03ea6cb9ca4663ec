"""Packages whose names load on first use, so that knowing them does not import torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

Lazy = tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]


def lazy_names(package: str, modules: Mapping[str, str]) -> Lazy:
    """Return `__all__`, `__getattr__` and `__dir__` of a package.

    Type checkers follow none of them: for them the package imports the same names under
    `if TYPE_CHECKING`, and a test compares the two.

    Args:
        package: its name.
        modules: modules of the package, each with the names that it gives, blanks between them.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}
    public = sorted(homes)

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return public, load, public.copy
