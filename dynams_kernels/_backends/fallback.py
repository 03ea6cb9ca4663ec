"""What is told where slower kernels stand for the compiled ones: why, and what to type. Once a process, and once a machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch

# Who calls the kernels is the first caller outside of these.
_BETWEEN = ("dynams_kernels", "torch")


class Fallback:
    """A device that the compiled kernels do not serve, though they could.

    Args:
        text: who serves it and why, in one line.
        asked_for: whether the user's own setting says so: then it is no warning.
    """

    def __init__(self, text: str, asked_for: bool = False) -> None:
        self._text = text
        self._asked_for = asked_for
        self._told = False

    def tell(self, tell: Callable[[str], object] | None = None) -> None:
        """Say it, unless it was said before; by default as a RuntimeWarning, where it is worth one."""
        if self._told or (tell is None and (self._asked_for or _another_process_tells())):
            return
        self._told = True
        if tell is None:
            warnings.warn(self._text, RuntimeWarning, stacklevel=_callers_level())
        else:
            tell(self._text if self._asked_for else f"warning: {self._text}")


def how_to_build(switch: str, needs: str) -> str:
    """The command that builds a module into this installation, or ends with what is in its way."""
    source, editable = _source()
    if source is None:
        where, folder = "in the folder of its source: ", "."
    else:
        where, folder = "", shlex.quote(str(source))
    option = "-e " if editable else ""
    return f"To build them, with {needs}: {where}{switch}=required pip install -v {option}{folder}"


def _source() -> tuple[Path | None, bool]:
    """The folder that the package was installed from, and whether it is imported from there."""
    here = Path(__file__).parents[2]
    if _is_source(here):
        return here, True
    try:
        text = importlib.metadata.distribution("dynams-kernels").read_text("direct_url.json")
        folder = Path(url2pathname(urlsplit(json.loads(text or "{}").get("url", "")).path))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None, False
    return (folder, False) if folder.is_absolute() and _is_source(folder) else (None, False)


def _is_source(folder: Path) -> bool:
    return (folder / "setup.py").is_file() and (folder / "csrc").is_dir()


def _another_process_tells() -> bool:
    """Whether this is one of several processes of a machine, and not the first."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return (os.environ.get("LOCAL_RANK") or str(distributed.get_rank())) != "0"


def _callers_level() -> int:
    """The `stacklevel` at which whoever calls this function warns of its first caller outside the package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _package(frame.f_globals) in _BETWEEN:
        level, frame = level + 1, frame.f_back
    return level


def _package(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
