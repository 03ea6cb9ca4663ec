"""The one error for data that cannot be used."""

from __future__ import annotations


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
