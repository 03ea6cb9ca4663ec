"""Files being written under another name, so that they are there whole or not at all, and what killed runs left of such.

Whoever writes one holds a lock on it, which ends with its process, however that ends. A leftover has none.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except (
    ImportError
):  # No POSIX system: there nothing is locked, and no leftover is told from a file in use.
    fcntl = None  # type: ignore[assignment]

_ENDING = ".part"
# Locks of another machine on a shared file system may not show here; one that writes does so more often than this.
_ABANDONED_SECONDS = 24 * 3600


@contextmanager
def unfinished(file: Path) -> Iterator[BinaryIO]:
    """Give what will be ``file`` to be written; it takes its place once it is on the disk.

    Where anything goes wrong it is removed, and ``file`` is what it was.

    Raises:
        OSError: it cannot be written.
    """
    path, opened = _made(file)
    try:
        with opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
            if fcntl is not None:
                path.replace(file)  # Before the lock ends.
        if fcntl is None:
            path.replace(file)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def removed_unfinished(directory: Path, ending: str) -> list[Path]:
    """Remove what killed processes left in ``directory`` of files with this ending.

    Files that are being written are left alone, also those of other machines, as long as they are written to.

    Returns:
        What was removed.
    """
    removed = []
    for path in directory.glob(f"*{ending}.*{_ENDING}"):
        with contextlib.suppress(OSError):
            if _abandoned(path):
                path.unlink()
                removed.append(path)
    return removed


def _made(file: Path) -> tuple[Path, BinaryIO]:
    """Open a new file of this host and lock it."""
    while True:
        path = file.with_name(f"{file.name}.{_host()}.{uuid.uuid4().hex}{_ENDING}")
        opened = path.open("xb")
        if _lock(opened):
            # Another process may have taken it for a leftover before it was locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(opened.fileno())):
                    return path, opened
        opened.close()


def _lock(opened: BinaryIO) -> bool:
    """Lock a file unless another process has; where nothing can be locked it passes for locked."""
    if fcntl is not None:
        try:
            fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True


def _abandoned(path: Path) -> bool:
    if fcntl is None:
        return False
    # Locks over a network want files open for writing.
    with path.open("r+b") as opened:
        try:
            fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        ours = path.name.split(".")[-3:-2] == [_host()]
        return ours or time.time() - os.fstat(opened.fileno()).st_mtime > _ABANDONED_SECONDS


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"
