"""The one error for data that cannot be used, and the one for a package that is not installed."""

from __future__ import annotations

import importlib
from typing import Any

from dynams.packages import not_installed


class DataError(ValueError):
    """Data are missing, damaged or mislabelled.

    The message names the file and, where there is one, the row or record (counted from 0), what is
    wrong with it and what is wanted. Names of files that are no UTF-8 have escapes in it, so that it can be printed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return text with escapes for the surrogates that stand for bytes of a name that is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def needed(module: str, package: str) -> Any:
    """Import ``module``, which only training needs and which ``package`` brings.

    Raises:
        ImportError: ``package`` is not installed; the message says how to install it. Other missing
            modules are reported as they are.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise ImportError(not_installed(module, package), name=error.name) from error
