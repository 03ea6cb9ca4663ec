"""Files that are there whole or not at all, and errors of storage that say what to do.

A file is written aside, under `NAME.HOST.HEX.tmp` and a lock, flushed to the disk and renamed. The lock
ends with its process, however that ends: so a leftover is told from what a live process is writing.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # no POSIX system: nothing is locked there, but an open file cannot be removed
    fcntl = None  # type: ignore[assignment]

# Locks of another machine on a shared file system may not show here; one that writes does so more often than this.
_ABANDONED_SECONDS = 24 * 3600

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
    with storing(path):
        temporary, file = _made(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                # Under the lock: without it whoever cleans up may take it for left over.
                if fcntl is not None:
                    temporary.replace(path)
            if fcntl is None:
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


@contextmanager
def claimed(folder: Path, patience: float = 0.0) -> Iterator[bool]:
    """Have ``folder`` for this process alone as long as the block lasts, however the process ends.

    Gives False where another process has it, also ``patience`` seconds later: what a killed one has started may
    hold on to it for some. Where folders cannot be locked everybody has it.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + patience
        while not (mine := _lock(handle)) and time.monotonic() < end:
            time.sleep(0.1)
        yield mine
        if mine:
            # Processes that this one has forked share the handle, and may outlive the block.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically: on any error the file is as it was before.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(content)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in ``folder``; live ones keep what is theirs.

    What another machine was writing goes only once it was left alone for a day.
    """
    for left in folder.glob("*.tmp"):
        named = re.fullmatch(r".+\.([A-Za-z0-9-]+)\.[0-9a-f]{32}\.tmp", left.name)
        with suppress(OSError):
            if named is not None and _is_abandoned(left, ours=named[1] == _host()):
                left.unlink()


def aside(path: Path) -> Path:
    """A new name that ``path`` may be written under."""
    return path.with_name(f"{path.name}.{_host()}.{uuid.uuid4().hex}.tmp")


def _made(path: Path) -> tuple[Path, BinaryIO]:
    """Open a new file and lock it."""
    while True:
        temporary = aside(path)
        file = temporary.open("xb")
        if _lock(file.fileno()):
            # Another process may have taken it for a leftover before it was locked.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(temporary), os.fstat(file.fileno())):
                    return temporary, file
        file.close()


def _lock(handle: int) -> bool:
    """Lock a file unless another process has; where nothing can be locked it passes for locked."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True


def _is_abandoned(path: Path, *, ours: bool) -> bool:
    if fcntl is None:
        return True
    # Locks over a network want files open for writing.
    with path.open("r+b") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return ours or time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED_SECONDS


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"


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
