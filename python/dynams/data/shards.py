"""What an index is made of: shards of encoded images, each a file, or a folder of a class.

A layout lists its shards without looking into them, scans one at a time for where its images lie, and opens a
reader of their bytes. There are three: tar files, parquet files and folders of files (`tar_shards`,
`parquet_shards`, `folder_shards`).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError
from dynams.data.places import cannot_be_read
from dynams.data.source import Rows

Kind = Literal["folder", "parquet", "tar"]
Lengths = NDArray[np.uint32]
Opened = TypeVar("Opened")


class ShardState(NamedTuple):
    """What tells a shard from itself after a change: name below the root, bytes, and time of change in ns."""

    name: str
    size: int
    changed: int

    @classmethod
    def of(cls, name: str, path: Path) -> ShardState:
        """Ask the system.

        Raises:
            DataError: the shard is missing or cannot be looked at.
        """
        try:
            status = os.stat(path)
        except OSError as error:
            raise cannot_be_read(path, error) from error
        # The size of a folder is the file system's own affair.
        size = 0 if os.path.isdir(path) else status.st_size
        return cls(name, size, status.st_mtime_ns)


@dataclass(frozen=True)
class Part:
    """Where the images of one shard lie.

    Attributes:
        labels: (n,) int64.
        offsets: (n,) int64, ascending: the first byte of an image in a tar file, its row in a parquet file, the
            first byte of a file's name in ``names``.
        lengths: (n,) uint32, bytes of the encoded images; zeros where they cannot be told without reading them.
        names: of the files of a folder, each ended by a zero byte; empty of other shards.
    """

    labels: Rows
    offsets: Rows
    lengths: Lengths
    names: bytes = b""


class ShardReader(Protocol):
    """Reads encoded images of an index. For one process and one thread."""

    def read(self, shard: int, offsets: Rows, lengths: Lengths) -> Iterator[bytes]:
        """Yield the images at ``offsets`` (n,), ascending, of one shard, in that order.

        Raises:
            DataError: the shard is missing or has changed, or an image cannot be had; names it.
        """

    def where(self, shard: int, offset: int) -> str:
        """Name an image for messages: its shard, and its byte, row or file in it."""

    def close(self) -> None:
        """Let all files go."""


class Layout(Protocol):
    """Shards in order, and how they are read.

    Attributes:
        kind: which layout.
        root: directory that shards are named relative to.
        shards: their names.
        classes: name of every class, where the layout tells them; None: labels are numbers.
        columns: of parquet files, that images and labels are read from; empty of others.
    """

    @property
    def kind(self) -> Kind: ...  # noqa: D102

    @property
    def root(self) -> Path: ...  # noqa: D102

    @property
    def shards(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def classes(self) -> tuple[str, ...] | None: ...  # noqa: D102

    @property
    def columns(self) -> tuple[str, ...]: ...  # noqa: D102

    def scan(self, shard: int) -> Part:
        """Find the images of one shard.

        Raises:
            DataError: it is damaged, or an image has no label; names the shard and the place.
        """

    def reader(self, states: tuple[ShardState, ...], names: NDArray[np.uint8]) -> ShardReader:
        """Make a reader; nothing is opened yet.

        Args:
            states: the shards when they were scanned; one that has changed since is refused.
            names: as in `Part`, of all shards.
        """


class KeptOpen(Generic[Opened]):
    """The files used last, kept open, at most so many.

    A forked process opens its own: what it has from its parent would share positions with it.

    Args:
        make: opens the file of a number.
        close: closes it.
        most: files kept open.
    """

    def __init__(
        self, make: Callable[[int], Opened], close: Callable[[Opened], None], most: int
    ) -> None:
        self._make, self._close, self._most = make, close, most
        self._opened: OrderedDict[int, Opened] = OrderedDict()
        self._process = os.getpid()

    def get(self, number: int) -> Opened:
        """Return the file of a number, opened if need be."""
        if self._process != os.getpid():
            self._opened, self._process = OrderedDict(), os.getpid()
        if number not in self._opened:
            while len(self._opened) >= self._most:
                self._close(self._opened.popitem(last=False)[1])
            self._opened[number] = self._make(number)
        self._opened.move_to_end(number)
        return self._opened[number]

    def close(self) -> None:
        """Close all; those of a parent stay open in it."""
        while self._opened:
            self._close(self._opened.popitem()[1])


def check_unchanged(path: Path, was: ShardState, size: int, changed: int) -> None:
    """Refuse a shard that is another than when it was scanned.

    Raises:
        DataError: naming it.
    """
    if (size, changed) != (was.size, was.changed):
        raise changed_since(path)


def changed_since(path: Path) -> DataError:
    """Make the error for what is no more as its index says."""
    return DataError(
        f"{path}: it has changed since its index was made; begin again with a new index"
    )


def as_rows(values: list[int]) -> Rows:
    """(n,) int64."""
    return np.array(values, np.int64)


def as_lengths(values: list[int], where: Callable[[int], str]) -> Lengths:
    """(n,) uint32.

    Raises:
        DataError: one is 4 GiB or more; ``where`` names the image of a position.
    """
    wide = np.array(values, np.int64)
    large = np.flatnonzero(wide >= 2**32)
    if len(large):
        first = int(large[0])
        raise DataError(
            f"{where(first)}: got an image of {wide[first]} bytes, want less than 4 GiB"
        )
    return wide.astype(np.uint32)
