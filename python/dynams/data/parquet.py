"""Images and labels from parquet files as the Hugging Face hub has them (`parquet_files` says which files).

A column holds encoded images and their paths (`img` or `image`, if none is named), another labels (`label`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynams.data.decode import Decoder
from dynams.data.errors import DataError
from dynams.data.source import Bytes, Rows, Source, check_labels, decoding_threads, in_threads
from dynams.packages import needed

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label",)
_ROWS_AT_ONCE = 4096
# Decoding a small image is too short for many threads: they would wait for one another.
_MOST_THREADS = 4


@dataclass(frozen=True)
class Columns:
    """The columns to read; None: the only one that has a usual name.

    Attributes:
        image: of encoded images.
        label: of labels.
    """

    image: str | None = None
    label: str | None = None

    def refuse(self, what: str) -> None:
        """Refuse named columns with data that have none.

        Raises:
            ValueError: a column is named.
        """
        for name, column in (("image_column", self.image), ("label_column", self.label)):
            if column is not None:
                raise ValueError(f"{name}: got {column!r}, want None for {what}")

    def among(self, names: Sequence[str], file: Path) -> tuple[str, str]:
        """Choose the columns of images and of labels among those that a file has.

        Raises:
            DataError: one is missing, or several might be meant.
        """
        return (
            _chosen("image_column", self.image, _IMAGE_COLUMNS, names, file),
            _chosen("label_column", self.label, _LABEL_COLUMNS, names, file),
        )


def _chosen(
    option: str, wanted: str | None, usual: Sequence[str], names: Sequence[str], file: Path
) -> str:
    known = usual if wanted is None else (wanted,)
    there = [name for name in known if name in names]
    if len(there) == 1 and names.count(there[0]) == 1:
        return there[0]
    say = f"got {', '.join(names) or 'none'}; data.{option} NAME says which to read"
    if there:
        raise DataError(f"{file}: columns {' and '.join(there)} might both be meant: {say}")
    raise DataError(f"{file}: column {' or '.join(known)} is missing: {say}")


def parquet_split(
    name: str,
    files: Sequence[Path],
    root: Path,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    columns: Columns,
) -> Source:
    """Check one split in its parquet files.

    Args:
        name: of the split, for messages.
        files: in the order of their rows.
        root: directory that ``files`` are told relative to.
        classes: name of every class.
        shape: (3, H, W) that every image must have.
        columns: to read.

    Raises:
        ImportError: pyarrow is not installed.
        DataError: a file is no parquet file, lacks a column, or has a label outside the classes; chunks:
            an image cannot be decoded or has another size. Names the file and the row.
    """
    # What the first file has, the others must have too.
    image, label = columns.among(column_names(files[0]), files[0])
    read = Columns(image, label)
    labels = [read_labels(file, read) for file in files]
    for file, part in zip(files, labels, strict=True):
        check_labels(part, len(classes), str(file), "row")
    starts = np.cumsum([0, *(len(part) for part in labels)])

    damaged: list[str] = []

    def chunks(rows: Rows) -> Iterator[Bytes]:
        decoder = Decoder(damaged)
        workers = decoding_threads(_MOST_THREADS)
        with ThreadPoolExecutor(workers) as pool:
            for file, start, stop in zip(files, starts, starts[1:], strict=False):
                wanted = rows[(rows >= start) & (rows < stop)] - start
                for numbers, blobs in _encoded(file, wanted, image):
                    yield _decoded(decoder, pool, workers, file, numbers, blobs, shape)

    return Source(
        name=name,
        classes=classes,
        labels=np.concatenate(labels),
        shape=shape,
        chunks=chunks,
        files=tuple(files),
        root=root,
        column=image,
        damaged=damaged,
    )


@contextmanager
def opened_parquet(file: Path) -> Iterator[Any]:
    """Open a parquet file; pyarrow takes names as text that is UTF-8, or as bytes.

    Raises:
        ImportError: pyarrow is not installed.
        DataError: what is done with the file fails; errors of ours pass.
    """
    reader = needed("pyarrow.parquet", "pyarrow")
    try:
        with (
            needed("pyarrow", "pyarrow").OSFile(os.fsencode(file)) as source,
            reader.ParquetFile(source) as opened,
        ):
            yield opened
    except DataError:
        raise
    except Exception as error:
        raise unreadable(file, error) from error


def column_names(file: Path) -> list[str]:
    """Names of a file's columns.

    Raises:
        DataError: it is no parquet file.
    """
    with opened_parquet(file) as opened:
        return list(opened.schema_arrow.names)


def read_labels(file: Path, columns: Columns) -> Rows:
    """Read the labels (n,) int64 of a file, and check that its images are encoded ones.

    Raises:
        DataError: a column is missing or of another kind, there are no rows, or one has no label.
    """
    with opened_parquet(file) as opened:
        image, label = columns.among(opened.schema_arrow.names, file)
        _check_images(opened.schema_arrow.field(image).type, image, file)
        column = opened.read(columns=[label]).column(label)
    if not str(column.type).startswith(("int", "uint")):
        raise DataError(f"{file}: got column {label} of type {column.type}, want whole numbers")
    if not len(column):
        raise DataError(f"{file}: it has no rows")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}, row {row}: it has no label")
    return np.asarray(column.to_numpy()).astype(np.int64)


def _check_images(kind: Any, column: str, file: Path) -> None:
    fields = {kind.field(i).name: str(kind.field(i).type) for i in range(kind.num_fields)}
    if "binary" not in fields.get("bytes", ""):
        raise DataError(f"{file}: got column {column} of type {kind}, want struct<bytes, path>")


def _encoded(file: Path, wanted: Rows, column: str) -> Iterator[tuple[Rows, list[bytes | None]]]:
    """Read the rows ``wanted``, some at a time: their numbers and their encoded images."""
    start = 0
    with opened_parquet(file) as opened:
        for batch in opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[f"{column}.bytes"]):
            stop = start + batch.num_rows
            numbers = wanted[(wanted >= start) & (wanted < stop)]
            if len(numbers):
                yield numbers, picked_images(batch, column, numbers - start)
            start = stop


def picked_images(batch: Any, column: str, rows: Rows) -> list[bytes | None]:
    """Copy the encoded images ``rows`` (n,) from a batch of pyarrow; None: a row has none."""
    indices = needed("pyarrow", "pyarrow").array(rows)
    images: list[bytes | None] = batch.column(column).field("bytes").take(indices).to_pylist()
    return images


def _decoded(
    decoder: Decoder,
    pool: ThreadPoolExecutor,
    workers: int,
    file: Path,
    numbers: Rows,
    blobs: list[bytes | None],
    shape: tuple[int, int, int],
) -> Bytes:
    images = np.empty((len(blobs), *shape), np.uint8)

    def decode(position: int) -> None:
        where = f"{file}, row {int(numbers[position])}"
        blob = blobs[position]
        if blob is None:
            raise DataError(f"{where}: it has no image")
        pixels = decoder.decode_exact(blob, *shape[1:], where)
        images[position] = pixels.transpose(2, 0, 1)

    with decoder.quiet():
        in_threads(pool, len(blobs), decode, workers)
    return images


def unreadable(file: Path, error: Exception) -> DataError:
    """Make the error for a file that cannot be read as parquet."""
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{file}: cannot be read: {os.strerror(error.errno)}")
    return DataError(f"{file}: cannot be read as parquet: {error}")
