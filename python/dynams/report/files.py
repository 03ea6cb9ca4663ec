"""Files that are there whole or not at all, and errors of storage that say what to do.

A file is written aside, under `NAME.PID.tmp` and a lock, flushed to the disk and renamed. What a
killed process leaves of that has no lock any more: it is told from what a live one is writing.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_REMEDIES = {
    errno.ENOSPC: "make space on that disk",
    errno.EDQUOT: "make space in your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or write to another disk",
    errno.EROFS: "write to another disk, or have this one mounted for writing",
    errno.EACCES: "allow writing there",
    errno.EPERM: "allow writing there",
    errno.ENOENT: "its folder was removed or renamed: put it back",
    errno.ENOTDIR: "its folder was replaced by a file: put it back",
    errno.EISDIR: "a folder has its name: move that away",
    errno.EIO: "the disk fails: write to another one",
    errno.ESTALE: "the network folder went away: mount it again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has too many files open",
    errno.ENAMETOOLONG: "take a shorter name",
}


class StorageError(OSError):
    """Something could not be written: says what, why, and what to do.

    Args:
        path: the file, or the folder.
        reason: what the system said.

    Attributes:
        path: the file, or the folder.
        afterwards: what to do once the cause is gone; empty where nobody said.
    """

    def __init__(self, path: str | Path, reason: OSError) -> None:
        super().__init__(reason.errno, reason.strerror or str(reason), str(path))
        self.path = Path(path)
        self.afterwards = ""

    def __str__(self) -> str:
        remedy = _REMEDIES.get(self.errno or 0, "")
        todo = ", ".join(part for part in (remedy, self.afterwards) if part)
        return f"{self.path}: cannot be written: {self.strerror}" + (f"; {todo}" if todo else "")

    def __reduce__(self) -> tuple[type[StorageError], tuple[Path, OSError], dict[str, str]]:
        reason = OSError(self.errno, self.strerror)
        return type(self), (self.path, reason), {"afterwards": self.afterwards}


@contextmanager
def storing(path: str | Path) -> Iterator[None]:
    """Write to ``path`` inside this block.

    Raises:
        StorageError: in place of any OSError.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which becomes ``path`` when the block ends: on any error ``path`` is as before.

    Raises:
        StorageError: it cannot be written, as told by any OSError of the block too.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with storing(path):
        try:
            with temporary.open("wb") as file:
                _lock(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
                # Under the lock: without it whoever cleans up may take it for left over.
                if os.name != "nt":
                    temporary.replace(path)
            if os.name == "nt":
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically: on any error the file is as it was before.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(content)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in ``folder``; live ones keep what is theirs."""
    for left in folder.glob("*.tmp"):
        if re.fullmatch(r".+\.\d+\.tmp", left.name) and not _is_locked(left):
            with suppress(OSError):
                left.unlink()


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems know no such thing; the file itself is flushed.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):  # where there are no locks, nothing is taken for left over either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path) -> bool:
    """Whether a live process writes the file; True where that cannot be known."""
    if sys.platform == "win32":
        return False  # an open file cannot be removed there
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
