"""Where every image of a split lies, in one mapped file: made once, shard by shard, and believed as long as nothing changes.

The file is five arrays one after the other (`_ARRAYS`: 24 bytes an image, and names of files where the images are
files of their own), a line of JSON (layout, classes, shards with size and time of change) and a footer with that
line's length. A sample's number is its place in the arrays: shards by name, then as they lie in the shard, so it
depends on the data alone. What is mapped is read by the system as it is touched: 10^7 images are 240 MB on the
disk, of which the labels alone, 80 MB, are read when a run begins.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError
from dynams.data.shards import Layout, Lengths, ShardReader, ShardState
from dynams.data.source import Rows

FOOTER = b"DYNAMSi1"
_LENGTH_BYTES = 8
# In the order in which they lie in the file: every one is aligned to its own size.
_ARRAYS: tuple[tuple[str, np.dtype[Any]], ...] = (
    ("labels", np.dtype("<i8")),
    ("offsets", np.dtype("<i8")),
    ("lengths", np.dtype("<u4")),
    ("shards", np.dtype("<u4")),
)


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """An index that was opened.

    Attributes:
        file: that it is in.
        layout: of the data.
        states: of every shard when it was scanned.
        labels: (N,) int64.
        offsets: (N,) int64, as `dynams.data.shards.Part` says; of names, in ``names``.
        lengths: (N,) uint32.
        shards: (N,) uint32, numbers of shards, ascending.
        names: bytes of file names.
    """

    file: Path
    layout: Layout
    states: tuple[ShardState, ...]
    labels: Rows
    offsets: Rows
    lengths: Lengths
    shards: NDArray[np.uint32]
    names: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def reader(self) -> ShardReader:
        """Make a reader of the images' bytes."""
        return self.layout.reader(self.states, self.names)


def open_index(file: Path, layout: Layout) -> ImageIndex | None:
    """Open an index; None: there is none.

    Args:
        file: that it is in.
        layout: of the data as they are now.

    Raises:
        DataError: the file is damaged, or the data are others than when it was made; names what is.
    """
    try:
        with file.open("rb") as opened:
            told = _told(file, opened)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    states = tuple(ShardState(*state) for state in told["shards"])
    _check_same(file, layout, told, states)
    count, names = int(told["count"]), int(told["names"])
    arrays: dict[str, Any] = {}
    place = 0
    for name, kind in _ARRAYS:
        arrays[name] = _mapped(file, place, count, kind)
        place += count * kind.itemsize
    return ImageIndex(
        file, layout, states, **arrays, names=_mapped(file, place, names, np.dtype("u1"))
    )


class IndexWriter:
    """Writes an index of so many images, whose parts come in order.

    Args:
        opened: the file.
        count: number of images.
    """

    def __init__(self, opened: BinaryIO, count: int) -> None:
        self._opened, self._count = opened, count
        self._images = self._names = self._shard = 0

    def add(self, labels: Rows, offsets: Rows, lengths: Lengths, names: bytes) -> None:
        """Write the images of the next shard."""
        shards = np.full(len(labels), self._shard, np.uint32)
        columns: tuple[NDArray[Any], ...] = (
            labels,
            offsets + (self._names if names else 0),
            lengths,
            shards,
        )
        start = 0
        for (_, kind), column in zip(_ARRAYS, columns, strict=True):
            self._opened.seek(start + self._images * kind.itemsize)
            self._opened.write(column.astype(kind).tobytes())
            start += self._count * kind.itemsize
        self._opened.seek(start + self._names)
        self._opened.write(names)
        self._images += len(labels)
        self._names += len(names)
        self._shard += 1

    def finish(self, layout: Layout, states: list[ShardState]) -> None:
        """Write what tells the arrays apart, and the data from others."""
        told = {
            "kind": layout.kind,
            "classes": layout.classes,
            "columns": layout.columns,
            "count": self._count,
            "names": self._names,
            "shards": states,
        }
        line = json.dumps(told).encode()
        self._opened.seek(0, os.SEEK_END)
        self._opened.write(line + len(line).to_bytes(_LENGTH_BYTES, "little") + FOOTER)


def _told(file: Path, opened: BinaryIO) -> dict[str, Any]:
    """Read what an index says of itself."""
    tail = _LENGTH_BYTES + len(FOOTER)
    size = opened.seek(0, os.SEEK_END)
    opened.seek(max(0, size - tail))
    end = opened.read()
    length = int.from_bytes(end[:_LENGTH_BYTES], "little")
    if end[_LENGTH_BYTES:] == FOOTER and length <= size - tail:
        opened.seek(size - tail - length)
        try:
            told = json.loads(opened.read(length))
            arrays = sum(kind.itemsize for _, kind in _ARRAYS) * told["count"] + told["names"]
        except (ValueError, KeyError, TypeError):
            arrays = -1
        if arrays == size - tail - length:
            return dict(told)
    raise DataError(f"{file}: it is no whole index of this version; remove it to have it made anew")


def _check_same(
    file: Path, layout: Layout, told: dict[str, Any], states: tuple[ShardState, ...]
) -> None:
    again = f"remove {file} to have the index made anew, with new numbers for the samples"
    now = set(layout.shards)
    for state in states:
        path = layout.root / state.name
        if state.name not in now:
            raise DataError(f"{path}: it is missing, which the index has; {again}")
        now.remove(state.name)
        if ShardState.of(state.name, path) != state:
            raise DataError(f"{path}: it has changed since its index was made; {again}")
    if now:
        raise DataError(f"{layout.root / min(now)}: it is new, the index has it not; {again}")
    classes = None if layout.classes is None else list(layout.classes)
    for name, is_now in (("classes", classes), ("columns", list(layout.columns))):
        if told.get(name) != is_now:
            raise DataError(f"{file}: it has other {name} than the data; {again}")


def _mapped(file: Path, place: int, count: int, kind: np.dtype[Any]) -> Any:
    if not count:
        return np.empty(0, kind)
    try:
        # Copy on write, because torch wants memory that could be written to.
        return np.memmap(file, dtype=kind, mode="c", offset=place, shape=(count,))
    except OSError as error:
        raise DataError(
            f"{file}: cannot be mapped into memory: {error.strerror or error}"
        ) from error
