"""Images in folders, one a class, for an index: a folder is a shard, and a file is found by its name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError, printable
from dynams.data.places import cannot_be_read, want_directory, what_is
from dynams.data.shards import (
    Kind,
    Lengths,
    Part,
    ShardState,
    as_lengths,
    as_rows,
    changed_since,
)
from dynams.data.source import Rows

# No file system has longer names.
_LONGEST_NAME = 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderShards:
    """Folders, in the order of their labels. See `dynams.data.shards.Layout`."""

    root: Path
    shards: tuple[str, ...]
    classes: tuple[str, ...]
    columns: tuple[str, ...] = ()
    kind: Kind = field(default="folder", init=False)

    def scan(self, shard: int) -> Part:
        """List a folder, in the order of names; no file is opened.

        Hidden files are left out, and links to files of the same folder; warnings count them.

        Raises:
            DataError: it is empty, or has something in it that is no file.
        """
        folder = self.root / self.shards[shard]
        found: list[tuple[str, int]] = []
        links, hidden = [], 0
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        hidden += 1
                    elif not entry.is_file():
                        came = what_is(folder / entry.name)
                        raise DataError(f"{folder / entry.name}: got {came}, want an image")
                    else:
                        found.append((entry.name, entry.stat().st_size))
                        if entry.is_symlink():
                            links.append(entry.name)
        except OSError as error:
            raise cannot_be_read(folder, error) from error
        again = _again(folder, links)
        found = sorted(each for each in found if each[0] not in again)
        for count, what in (
            (hidden, "hidden files (named .something)"),
            (len(again), "links to images that are there already"),
        ):
            if count:
                _LOG.warning("%s: left out %d %s", printable(str(folder)), count, what)
        if not found:
            raise DataError(f"{folder}: it is empty, want images")
        names = [os.fsencode(name) + b"\0" for name, _ in found]
        offsets = np.cumsum([0, *map(len, names)])[:-1].astype(np.int64)
        lengths = as_lengths([size for _, size in found], lambda at: str(folder / found[at][0]))
        return Part(as_rows([shard] * len(found)), offsets, lengths, b"".join(names))

    def reader(self, states: tuple[ShardState, ...], names: NDArray[np.uint8]) -> FolderReader:
        """Make a reader; nothing is opened yet."""
        return FolderReader([self.root / name for name in self.shards], names)


class FolderReader:
    """Reads files, each opened and closed again. See `dynams.data.shards.ShardReader`."""

    def __init__(self, folders: Sequence[Path], names: NDArray[np.uint8]) -> None:
        self._folders, self._names = folders, names

    def read(self, shard: int, offsets: Rows, lengths: Lengths) -> Iterator[bytes]:
        """Yield the files of one folder whose names begin at ``offsets``."""
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
            path = self._path(shard, offset)
            try:
                with open(path, "rb") as opened:
                    # One byte more than there should be tells a file that has grown.
                    encoded = opened.read(length + 1)
            except OSError as error:
                raise cannot_be_read(path, error) from error
            if len(encoded) != length:
                raise changed_since(path)
            yield encoded

    def where(self, shard: int, offset: int) -> str:
        """Name the file."""
        return str(self._path(shard, offset))

    def close(self) -> None:
        """Nothing stays open."""

    def _path(self, shard: int, offset: int) -> Path:
        name = self._names[offset : offset + _LONGEST_NAME].tobytes().partition(b"\0")[0]
        return self._folders[shard] / os.fsdecode(name)


def folder_shards(root: Path, directory: Path) -> FolderShards:
    """Find the classes in ``directory``, in the order of their names; folders that are hidden are none.

    Args:
        root: directory that the folders are named relative to.
        directory: has a folder for each class.

    Raises:
        DataError: it is no directory, has something else in it, or fewer than two folders.
    """
    want_directory(directory, "a folder for each class")
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise cannot_be_read(directory, error) from error
    for name in names:
        if not os.path.isdir(directory / name):
            came = what_is(directory / name)
            raise DataError(f"{directory / name}: got {came}, want a folder for each class")
    if len(names) < 2:
        raise DataError(
            f"{directory}: got {len(names)} folders, want at least 2, one for each class"
        )
    shards = tuple(str((directory / name).relative_to(root)) for name in names)
    return FolderShards(root, shards, tuple(map(printable, names)))


def _again(folder: Path, links: list[str]) -> set[str]:
    """Links to files that the folder has already, as themselves or by an earlier link."""
    inside = os.path.realpath(folder)
    seen: set[str] = set()
    again = set()
    for name in sorted(links):
        real = os.path.realpath(folder / name)
        beside = os.path.dirname(real) == inside and not os.path.basename(real).startswith(".")
        if beside or real in seen:
            again.add(name)
        seen.add(real)
    return again
