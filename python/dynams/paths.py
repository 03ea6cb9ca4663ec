"""Paths as people tell them, and as they can be typed again."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def told_path(path: str | os.PathLike[str]) -> Path:
    """The path that was told: `~` and `~user` are a home directory, where there is one."""
    return Path(os.path.expanduser(os.fspath(path)))


def shell_word(path: str | os.PathLike[str]) -> str:
    r"""Quote a path so that it can be typed at a shell, also where a terminal cannot show it.

    Bytes that are no text, and letters that standard error cannot show, are escaped as bash and zsh
    read them: $'caf\xe9'.
    """
    text = os.fspath(path)
    encoding = getattr(sys.stderr, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
        shown = text.isprintable()
    except UnicodeEncodeError:
        shown = False
    if shown:
        return shlex.quote(text)
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"
        for byte in os.fsencode(text)
    )
    return f"$'{escaped}'"
