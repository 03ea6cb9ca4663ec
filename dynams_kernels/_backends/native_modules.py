"""The compiled modules as they are found: loaded where they fit the Python code beside them, else why not."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

PACKAGE = "dynams_kernels"
_LIBRARIES = (".so", ".pyd")


@dataclass(frozen=True)
class Found:
    """A compiled module, or why there is none to use; `present`: whether there is a file of it for this Python."""

    module: ModuleType | None
    present: bool
    why_not: str | None = None


def load(name: str) -> Found:
    """Load `_cpu` or `_cuda`; one that was compiled for another interface than the Python code's would be handed wrong arguments."""
    try:
        module = importlib.import_module(f"{PACKAGE}.{name}")
    except ImportError as error:
        told = " ".join(str(error).split())
        if not isinstance(error, ModuleNotFoundError):
            return Found(None, True, f"cannot be loaded: {told}")
        others = _for_other_pythons(name)
        built = f"not built for this Python, only as {', '.join(others)}" if others else "not built"
        return Found(None, False, f"{built} ({told})")
    wanted = _interface(name)
    if wanted is not None and getattr(module, "INTERFACE", None) != wanted:
        where = getattr(module, "__file__", module.__name__)
        return Found(None, True, f"of another version than the Python code: {where}")
    return Found(module, True)


def _interface(name: str) -> str | None:
    """The number that a module compiled for this package's stub has, as setup.py makes it; None: there is no stub to ask."""
    try:
        text = _folder().joinpath(f"{name}.pyi").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(text).hexdigest()[:16]


def _for_other_pythons(name: str) -> list[str]:
    try:
        entries = sorted(path.name for path in _folder().iterdir())
    except OSError:
        return []
    libraries = [entry for entry in entries if entry.startswith(f"{name}.")]
    ours = {name + suffix for suffix in EXTENSION_SUFFIXES}
    return [entry for entry in libraries if entry.endswith(_LIBRARIES) and entry not in ours]


def _folder() -> Path:
    return Path(__file__).parents[1]
