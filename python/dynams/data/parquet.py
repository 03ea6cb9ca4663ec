"""CIFAR-10 from parquet files as the Hugging Face hub has them.

Files named `train-00000-of-00001.parquet` and `test-...`, with the columns `img` (encoded image and
its path) and `label`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dynams.data.decode import Decoder
from dynams.data.errors import DataError, needed
from dynams.data.source import Bytes, Rows, Source, check_labels, decoding_threads, in_threads

_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)$")
_ROWS_AT_ONCE = 4096
# Decoding a small image is too short for many threads: they would wait for one another.
_MOST_THREADS = 4


def parquet_split(
    name: str,
    files: Sequence[Path],
    root: Path,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
) -> Source:
    """Find and check one split in its parquet files.

    Args:
        name: of the split, for messages.
        files: in the order of their rows.
        root: directory that ``files`` are told relative to.
        classes: name of every class.
        shape: (3, H, W) that every image must have.

    Raises:
        ImportError: pyarrow is not installed.
        DataError: a file is no parquet file, lacks a column, is one of several that are not all
            there, or has a label outside the classes; chunks: an image cannot be decoded or has
            another size. Names the file and the row.
    """
    _check_shards(files)
    reader = needed("pyarrow.parquet", "pyarrow")
    labels = [_labels(reader, file, len(classes)) for file in files]
    starts = np.cumsum([0, *(len(part) for part in labels)])

    def chunks(rows: Rows) -> Iterator[Bytes]:
        decoder = Decoder()
        workers = decoding_threads(_MOST_THREADS)
        with ThreadPoolExecutor(workers) as pool:
            for file, start, stop in zip(files, starts, starts[1:], strict=False):
                wanted = rows[(rows >= start) & (rows < stop)] - start
                for numbers, blobs in _encoded(reader, file, wanted):
                    yield _decoded(decoder, pool, workers, file, numbers, blobs, shape)

    return Source(
        name=name,
        classes=classes,
        labels=np.concatenate(labels),
        shape=shape,
        chunks=chunks,
        files=tuple(files),
        root=root,
    )


def _check_shards(files: Sequence[Path]) -> None:
    shards = [match for match in (_SHARD.match(file.stem) for file in files) if match]
    for match in shards:
        prefix, total = match[1], int(match[3])
        there = {int(other[2]) for other in shards if other[1] == prefix}
        missing = sorted(set(range(total)) - there)
        if missing:
            raise DataError(
                f"{files[0].parent}: {prefix} is split into {total} files and number {missing[0]} "
                "is missing"
            )


def _labels(reader: Any, file: Path, classes: int) -> Rows:
    try:
        with reader.ParquetFile(file) as opened:
            _check_columns(opened.schema_arrow, file)
            column = opened.read(columns=["label"]).column("label")
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(file, error) from error
    if not str(column.type).startswith(("int", "uint")):
        raise DataError(f"{file}: got column label of type {column.type}, want whole numbers")
    if not len(column):
        raise DataError(f"{file}: it has no rows")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}, row {row}: it has no label")
    labels = np.asarray(column.to_numpy()).astype(np.int64)
    check_labels(labels, classes, str(file), "row")
    return labels


def _check_columns(schema: Any, file: Path) -> None:
    for column in ("img", "label"):
        if column not in schema.names:
            raise DataError(
                f"{file}: column {column} is missing: got {', '.join(schema.names) or 'none'}, "
                "want img and label"
            )
    kind = schema.field("img").type
    fields = {kind.field(i).name: str(kind.field(i).type) for i in range(kind.num_fields)}
    if "binary" not in fields.get("bytes", ""):
        raise DataError(f"{file}: got column img of type {kind}, want struct<bytes, path>")


def _encoded(reader: Any, file: Path, wanted: Rows) -> Iterator[tuple[Rows, list[bytes | None]]]:
    """Read the rows ``wanted``, some at a time: their numbers and their encoded images."""
    start = 0
    try:
        with reader.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["img.bytes"]):
                stop = start + batch.num_rows
                numbers = wanted[(wanted >= start) & (wanted < stop)]
                if len(numbers):
                    column = batch.column("img").field("bytes").take(_indices(numbers - start))
                    yield numbers, column.to_pylist()
                start = stop
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(file, error) from error


def _indices(rows: Rows) -> Any:
    return needed("pyarrow", "pyarrow").array(rows)


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

    in_threads(pool, len(blobs), decode, workers)
    return images


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: cannot be read as parquet: {error}")
