"""Images in parquet files, for an index: a file is a shard, and an image is found by its row.

A row group is compressed as a whole column, so what is read for one image is its row group from the beginning to
the image's row. Rows that are wanted in ascending order go on where the last reading was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError
from dynams.data.parquet import (
    Columns,
    column_names,
    opened_parquet,
    picked_images,
    read_labels,
    unreadable,
)
from dynams.data.places import cannot_be_read, want_file
from dynams.data.shards import KeptOpen, Kind, Lengths, Part, ShardState, check_unchanged
from dynams.data.source import Rows
from dynams.packages import needed

# Each keeps the file's metadata in memory, and what is being read of one row group.
_MOST_OPEN = 4
_ROWS_AT_ONCE = 64
_BYTES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class ParquetShards:
    """Parquet files, in order. See `dynams.data.shards.Layout`; ``columns`` are those of images and of labels."""

    root: Path
    shards: tuple[str, ...]
    classes: tuple[str, ...] | None
    columns: tuple[str, ...]
    kind: Kind = field(default="parquet", init=False)

    def scan(self, shard: int) -> Part:
        """Read a file's column of labels.

        Raises:
            DataError: it is no parquet file, lacks a column, or has a row without label.
        """
        path = self.root / self.shards[shard]
        want_file(path, "a parquet file")
        labels = read_labels(path, Columns(*self.columns))
        rows = np.arange(len(labels), dtype=np.int64)
        return Part(labels, rows, np.zeros(len(labels), np.uint32))

    def reader(self, states: tuple[ShardState, ...], names: NDArray[np.uint8]) -> ParquetReader:
        """Make a reader; nothing is opened yet."""
        return ParquetReader([self.root / name for name in self.shards], states, self.columns[0])


class ParquetReader:
    """Reads images by their rows, only of the row groups they are in. See `dynams.data.shards.ShardReader`."""

    def __init__(self, paths: Sequence[Path], states: Sequence[ShardState], column: str) -> None:
        self._paths, self._states, self._column = paths, states, column
        self._opened = KeptOpen(self._open, _Groups.close, _MOST_OPEN)

    def read(self, shard: int, offsets: Rows, lengths: Lengths) -> Iterator[bytes]:
        """Yield the images of the rows ``offsets`` of one file."""
        path = self._paths[shard]
        try:
            for row, encoded in self._opened.get(shard).rows(offsets):
                if encoded is None:
                    raise DataError(f"{self.where(shard, row)}: it has no image")
                yield encoded
        except DataError:
            raise
        except Exception as error:
            raise unreadable(path, error) from error

    def where(self, shard: int, offset: int) -> str:
        """Name the file and the row."""
        return f"{self._paths[shard]}, row {offset}"

    def close(self) -> None:
        """Let all files go."""
        self._opened.close()

    def _open(self, shard: int) -> _Groups:
        path = self._paths[shard]
        try:
            status = os.stat(path)
        except OSError as error:
            raise cannot_be_read(path, error) from error
        check_unchanged(path, self._states[shard], status.st_size, status.st_mtime_ns)
        return _Groups(path, self._column)


class _Groups:
    """The row groups of an open file, and where the last reading was."""

    def __init__(self, path: Path, column: str) -> None:
        arrow, reader = needed("pyarrow", "pyarrow"), needed("pyarrow.parquet", "pyarrow")
        self._source = arrow.OSFile(os.fsencode(path))
        try:
            # A buffer of its own for each page: without, a whole row group is read at once.
            self._file = reader.ParquetFile(self._source, buffer_size=_BYTES_AT_ONCE)
        except BaseException:
            self._source.close()
            raise
        metadata = self._file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        self._column = column
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._span = (0, 0)
        self._group = -1

    def close(self) -> None:
        self._batches, self._batch = iter(()), None
        self._file.close()
        self._source.close()

    def rows(self, wanted: Rows) -> Iterator[tuple[int, bytes | None]]:
        """Yield the rows ``wanted``, ascending, and their images."""
        position = 0
        while position < len(wanted):
            self._move(int(wanted[position]))
            start, stop = self._span
            end = position + int(np.searchsorted(wanted[position:], stop))
            rows = wanted[position:end]
            yield from zip(
                rows.tolist(), picked_images(self._batch, self._column, rows - start), strict=True
            )
            position = end

    def _move(self, row: int) -> None:
        """Read on to the batch that has a row, from the beginning of its group if it was passed."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group or row < self._span[0]:
            self._batches = self._file.iter_batches(
                batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=[f"{self._column}.bytes"]
            )
            begin = int(self._starts[group])
            self._span, self._group = (begin, begin), group
        while row >= self._span[1]:
            self._batch = next(self._batches)
            self._span = (self._span[1], self._span[1] + self._batch.num_rows)


def parquet_shards(
    root: Path, files: Sequence[Path], columns: Columns, classes: tuple[str, ...] | None = None
) -> ParquetShards:
    """Choose the columns of parquet files by the first one.

    Args:
        root: directory that the files are named relative to.
        files: in order.
        columns: to read.
        classes: name of every class; None: as the hub's metadata of the label's column say, if they do.

    Raises:
        ImportError: pyarrow is not installed.
        DataError: the first file is no parquet file, or lacks a column.
    """
    want_file(files[0], "a parquet file")
    image, label = columns.among(column_names(files[0]), files[0])
    if classes is None:
        classes = _told_classes(files[0], label)
    names = tuple(str(file.relative_to(root)) for file in files)
    return ParquetShards(root, names, classes, (image, label))


def _told_classes(file: Path, label: str) -> tuple[str, ...] | None:
    """Names of the classes as the hub's files have them."""
    with opened_parquet(file) as opened:
        metadata = opened.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
