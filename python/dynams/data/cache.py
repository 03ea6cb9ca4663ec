"""Decoded images in a file, mapped into memory: for data larger than memory, and to decode once.

A cache is the bytes of all images, then a line of JSON (the key of what was decoded, the shape, the
moments of the pixels) and a footer with that line's length. It is written under another name, synced
and renamed, so it is there whole or not at all. One that is cut short, or whose key is not that of
the files as they are now (names, sizes, times of change) and of the wanted shape, is made anew. What a
killed run left half written is removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dynams.data.errors import DataError
from dynams.data.memory import told
from dynams.data.places import cannot_be_read, want_file
from dynams.data.source import Bytes, Rows, Source
from dynams.data.statistics import Moments
from dynams.files import remove_leftovers, replacing

DIRECTORY = ".dynams-cache"
_FOOTER = b"DYNAMSv1"
_LENGTH_BYTES = 8
_ENDING = ".images"
# Of a folder's name in that of a file, which has to leave room for what `dynams.files` puts behind it.
LONGEST_WORDS = 100
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ELSEWHERE = (
    "name another directory with data.cache DIR (cache_dir), decode images when they are needed (data.storage "
    "index), or use fewer (data.limit)"
)


def mapped(source: Source, rows: Rows, directory: Path | None) -> tuple[Bytes, Moments]:
    """Map images of ``source`` from a file, into which they are decoded if need be.

    Args:
        source: what to decode.
        rows: (K,) int64, ascending, of ``source``.
        directory: where caches are kept; None: in `.dynams-cache` beside the data. A source without
            files goes to an unnamed temporary file.

    Returns:
        Images (K, C, H, W) uint8, mapped (what is written to them stays in this process), and the
        moments of their pixels.

    Raises:
        DataError: an image is missing or damaged, or the file cannot be written or mapped.
    """
    shape = (len(rows), *source.shape)
    if not source.files:
        try:
            if directory is not None:
                directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory) as opened:
                moments = _write_images(opened, source, rows)
                opened.flush()
                return _map(opened, shape), moments
        except OSError as error:
            raise _unwritable(directory or Path(tempfile.gettempdir()), error) from error
    file, key = _file(source, rows, directory), _key(source, rows)
    trailer = _trailer(file, shape, key)
    if trailer is None:
        _build(file, source, rows, key)
        trailer = _trailer(file, shape, key)
        if trailer is None:
            raise DataError(f"{file}: it was changed while it was being made; try again")
    return _map(file, shape), _moments(trailer)


def ask_for_room(splits: Iterable[tuple[Source, Rows]], directory: Path | None) -> None:
    """Ask, before any image is decoded, whether those that have no cache yet can be kept.

    Args:
        splits: sources with files, and rows of them, as for `mapped`.
        directory: as for `mapped`.

    Raises:
        DataError: a directory cannot be written to, or has no room.
    """
    needed: dict[Path, int] = {}
    for source, rows in splits:
        file = _file(source, rows, directory)
        if not os.path.exists(file):
            size = len(rows) * math.prod(source.shape)
            needed[file.parent] = needed.get(file.parent, 0) + size
    for folder, size in needed.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            raise _unwritable(folder, error) from error
        if free < size:
            raise DataError(
                f"{folder}: {told(size)} of decoded images do not fit, "
                f"{told(free)} are free; {_ELSEWHERE}"
            )


def _file(source: Source, rows: Rows, directory: Path | None) -> Path:
    if directory is None:
        directory = (source.root or source.files[0].parent) / DIRECTORY
    return directory / _name(source, rows)


def _name(source: Source, rows: Rows) -> str:
    """Name a split, its size and the rows taken, so that a stale cache is replaced."""
    place = hashlib.sha256(os.fsencode((source.root or Path()).resolve()))
    place.update(rows.tobytes())
    # The end of a long name tells the splits apart.
    words = re.sub(r"[^A-Za-z0-9]+", "-", source.name)[-LONGEST_WORDS:].strip("-")
    channels, height, width = source.shape
    return f"{words}-{channels}x{height}x{width}-{place.hexdigest()[:16]}{_ENDING}"


def _key(source: Source, rows: Rows) -> str:
    root = source.root or Path()
    what: list[object] = [_FOOTER.decode(), source.name, source.shape]
    if source.column is not None:
        what.append(source.column)
    key = hashlib.sha256(json.dumps(what).encode())
    for file in source.files:
        try:
            status = file.stat()
        except OSError as error:
            want_file(file, "an image")
            raise cannot_be_read(file, error) from error
        known = [os.path.relpath(file, root), status.st_size, status.st_mtime_ns]
        key.update(json.dumps(known).encode())
    key.update(rows.tobytes())
    return key.hexdigest()


def _build(file: Path, source: Source, rows: Rows, key: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as opened:
            _reserve(opened, len(rows) * math.prod(source.shape))
            moments = _write_images(opened, source, rows)
            trailer = {"key": key, "shape": [len(rows), *source.shape], **asdict(moments)}
            line = json.dumps(trailer).encode()
            opened.write(line)
            opened.write(len(line).to_bytes(_LENGTH_BYTES, "little"))
            opened.write(_FOOTER)
    except OSError as error:
        raise _unwritable(file, error) from error


def _reserve(opened: BinaryIO, size: int) -> None:
    """Have the system set bytes aside, so that a full disk, a quota or a limit is told before anything is decoded."""
    try:
        os.posix_fallocate(opened.fileno(), 0, size)
    except AttributeError:  # Not on every system.
        return
    except OSError as error:
        if error.errno in _NO_ROOM:  # Else it is a file system that cannot.
            raise


def _unwritable(place: Path, error: OSError) -> DataError:
    return DataError(
        f"{place}: decoded images cannot be kept there: {error.strerror or error}; {_ELSEWHERE}"
    )


def _write_images(opened: BinaryIO, source: Source, rows: Rows) -> Moments:
    def written() -> Iterator[Bytes]:
        for chunk in source.chunks(rows):
            # Not assigned to a mapping: a full disk is then an error and not a signal.
            opened.write(np.ascontiguousarray(chunk).data)
            yield chunk

    return Moments.of(source.shape[0], written())


def _trailer(file: Path, shape: tuple[int, ...], key: str) -> dict[str, Any] | None:
    """Read what a whole and fresh cache says of itself; None if there is none."""
    tail = _LENGTH_BYTES + len(_FOOTER)
    images = math.prod(shape)
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            if size < images + tail:
                return None
            opened.seek(images)
            rest = opened.read()
    except OSError:
        return None
    line, length, footer = rest[:-tail], rest[-tail : -len(_FOOTER)], rest[-len(_FOOTER) :]
    if footer != _FOOTER or int.from_bytes(length, "little") != len(line):
        return None
    try:
        trailer = json.loads(line)
    except ValueError:
        return None
    if not isinstance(trailer, dict) or trailer.get("key") != key:
        return None
    return trailer


def _moments(trailer: dict[str, Any]) -> Moments:
    return Moments(trailer["pixels"], tuple(trailer["sums"]), tuple(trailer["squares"]))


def _map(file: Path | BinaryIO, shape: tuple[int, ...]) -> Bytes:
    # Copy on write, because torch wants memory that could be written to.
    target: Any = file
    try:
        return np.memmap(target, dtype=np.uint8, mode="c", shape=shape)
    except OSError as error:
        raise DataError(
            f"{getattr(file, 'name', file)}: {told(math.prod(shape))} cannot be mapped into memory: "
            f"{error.strerror or error}; raise the limit on address space (ulimit -v), or use fewer images "
            "(data.limit)"
        ) from error
