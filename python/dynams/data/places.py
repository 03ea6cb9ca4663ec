"""What lies at a path, in words, and the files below a folder: links are followed, each file counts once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynams.data.errors import DataError

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

_NOTHING = "nothing"


def what_is(path: Path) -> str:
    """Say what lies at ``path``, such as "a pipe" or "a link to nowhere.png, which is not there"."""
    try:
        kind = _kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        kind = _NOTHING
    except OSError as error:
        kind = (error.strerror or str(error)).lower()
    if not os.path.islink(path):
        return kind
    return f"a link to {os.readlink(path)}, {'which is not there' if kind == _NOTHING else kind}"


def _kind(mode: int) -> str:
    return next((words for test, words in _KINDS if test(mode)), "nothing that can be read")


def want_file(path: Path, wanted: str = "a file") -> None:
    """Refuse what is no file, unopened: opening a pipe would wait for whoever writes to it.

    Raises:
        DataError: naming the path and what it is.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: got {what_is(path)}, want {wanted}")


def want_directory(path: Path, looked_for: str) -> None:
    """Refuse what is no directory.

    Raises:
        DataError: naming the path, what it is and what was looked for in it.
    """
    if not os.path.isdir(path):
        kind = what_is(path)
        came = "no such directory" if kind == _NOTHING else f"got {kind}, want a directory"
        raise DataError(f"{path}: {came}; looked for {looked_for}")


def cannot_be_read(path: Path | str, error: OSError) -> DataError:
    """Make the error for a file or folder that the system does not let read."""
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


@dataclass(frozen=True)
class FilesBelow:
    """What a search found.

    Attributes:
        files: those that were wanted, sorted; pipes and broken links of such names too.
        unreadable: folders that could not be looked into, and why.
    """

    files: list[Path]
    unreadable: list[str]


def files_below(root: Path, wanted: Callable[[Path], bool]) -> FilesBelow:
    """Find files anywhere below ``root``, also behind links, each once.

    A link to a folder that ``root`` lies in is not followed: it leads out of the data.

    Args:
        root: a directory.
        wanted: tells files by their names. Under a wanted name, a link to a file of any name counts.
    """
    inside = os.path.join(os.path.realpath(root), "")
    found = FilesBelow([], [])
    folders, linked_folders, linked_files = [root], list[Path](), list[Path]()
    seen: set[str] = set()
    while folders or linked_folders:
        # What lies there comes before what is linked to it.
        folder = folders.pop() if folders else linked_folders.pop(0)
        real = os.path.realpath(folder)
        leads_out = folder != root and inside.startswith(os.path.join(real, ""))
        if real in seen or leads_out:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append(f"{folder} ({error.strerror})")
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):
                linked_folders.append(path)
            elif entry.is_symlink() and wanted(path):
                linked_files.append(path)
            elif wanted(path):
                seen.add(os.path.join(real, entry.name))
                found.files.append(path)
    for path in linked_files:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            found.files.append(path)
    found.files.sort()
    return found
