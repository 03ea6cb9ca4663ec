"""Errors as a user of the command line sees them: one line and an exit status, no traceback."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

from dynams.files import StorageError
from dynams.packages import not_installed
from dynams.training.launched import rank_here

OK = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count

DEBUG_SWITCH = "DYNAMS_DEBUG"


class UsageError(Exception):
    """The command line or a configuration file is wrong."""


class PlainParser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise UsageError(message.removeprefix("argument "))


def tell(text: str) -> None:
    """Say one line on standard error, under the program's name, if it is still there."""
    with suppress(OSError):
        sys.stderr.write(f"dynams: {text}\n")


def tell_error(error: BaseException) -> int:
    """Tell an error in one line on standard error, with its traceback if ``DYNAMS_DEBUG=1``.

    Returns:
        The exit status: 2 for input that is refused, 1 for a run that failed.
    """
    if os.environ.get(DEBUG_SWITCH, "") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    if not getattr(error, "speaks", True):  # another process tells it
        return FAILED
    rank = rank_here()
    where = f" (process {rank})" if rank else ""
    tell(f"error{where}: {one_line(error)}")
    return BAD_INPUT if _is_bad_input(error) else FAILED


def one_line(error: BaseException) -> str:
    """Return the error's message without line breaks; its type's name when it has no message."""
    text = " ".join(str(error).split())
    if isinstance(error, StorageError):
        return text
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.strerror}: {error.filename}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        text = not_installed(error.name)
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".strip()
    return text


def _is_bad_input(error: BaseException) -> bool:
    if isinstance(error, StorageError):
        return False
    return isinstance(error, (UsageError, ValueError, TypeError, OSError, ImportError))
