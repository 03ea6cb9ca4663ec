"""Making an index: one shard after the other, told on the terminal, gone on with after a kill, there whole or not at all.

Each shard's part is kept in a file of its own until all are there: a build that was killed scans only the shards
that it had not finished. A lock lets one process build where several come at once.
"""

from __future__ import annotations

import io
import logging
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from dynams.data.errors import DataError, printable
from dynams.data.index import ImageIndex, IndexWriter, open_index
from dynams.data.shards import Layout, Part, ShardState
from dynams.data.source import MOST_CLASSES
from dynams.files import StorageError, remove_leftovers, replace_file, replacing

try:
    import fcntl
except ImportError:  # no POSIX system: processes that come at once do the same work
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN = 0.2


def indexed(file: Path, layout: Layout, *, tell: bool = True) -> ImageIndex:
    """Open the index of a layout's data, made first if there is none.

    Args:
        file: that the index is in, or will be.
        layout: of the data.
        tell: show progress on standard error, if that is a terminal; else it is logged at the end.

    Raises:
        DataError: data are missing, damaged or mislabelled, or others than when the index was made.
        StorageError: the index cannot be written.
    """
    found = open_index(file, layout)
    if found is not None:
        return found
    if not layout.shards:
        raise DataError(f"{layout.root}: got no shards, want some")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            found = open_index(file, layout)
            if found is None:
                _build(file, layout, _Progress(file.stem, len(layout.shards), tell))
                found = open_index(file, layout)
    except OSError as error:
        told = error if isinstance(error, StorageError) else StorageError(file, error)
        told.afterwards = "or name another directory for the index (data.cache DIR, index_dir)"
        raise told from error
    if found is None:
        raise DataError(f"{file}: it was removed while it was being made; try again")
    return found


def _build(file: Path, layout: Layout, progress: _Progress) -> None:
    remove_leftovers(file.parent)
    parts = file.with_name(f"{file.name}.parts")
    parts.mkdir(exist_ok=True)
    remove_leftovers(parts)
    states, counts = [], []
    for shard, name in enumerate(layout.shards):
        # Asked before it is scanned: a change in the meantime is found when the index is opened.
        state = ShardState.of(name, layout.root / name)
        place = parts / f"{shard:08d}.part"
        part = _kept(place, state, layout)
        if part is None:
            part = layout.scan(shard)
            _check_labels(part, layout, shard)
            _keep(place, part, state, layout)
        states.append(state)
        counts.append(len(part.labels))
        progress.scanned(len(part.labels))
    progress.over()
    with replacing(file) as opened:
        writer = IndexWriter(opened, sum(counts))
        for shard, state in enumerate(states):
            part = _kept(parts / f"{shard:08d}.part", state, layout)
            if part is None:
                raise DataError(
                    f"{parts}: it was changed while the index was being made; try again"
                )
            writer.add(part.labels, part.offsets, part.lengths, part.names)
        writer.finish(layout, states)
    shutil.rmtree(parts, ignore_errors=True)


def _check_labels(part: Part, layout: Layout, shard: int) -> None:
    most = MOST_CLASSES if layout.classes is None else len(layout.classes)
    wrong = np.flatnonzero((part.labels < 0) | (part.labels >= most))
    if len(wrong):
        first = int(wrong[0])
        place = "row" if layout.kind == "parquet" else "byte"
        raise DataError(
            f"{layout.root / layout.shards[shard]}, {place} {int(part.offsets[first])}: got label "
            f"{int(part.labels[first])}, want 0 to {most - 1}"
        )


def _told(state: ShardState, layout: Layout) -> str:
    return repr((tuple(state), layout.kind, layout.classes, layout.columns))


def _keep(place: Path, part: Part, state: ShardState, layout: Layout) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        told=np.array(_told(state, layout)),
        labels=part.labels,
        offsets=part.offsets,
        lengths=part.lengths,
        names=np.frombuffer(part.names, np.uint8),
    )
    replace_file(place, buffer.getvalue())


def _kept(place: Path, state: ShardState, layout: Layout) -> Part | None:
    """Read a part; None: there is none of the shard as it is."""
    try:
        with np.load(place, allow_pickle=False) as kept:
            if str(kept["told"]) != _told(state, layout):
                return None
            names = kept["names"].tobytes()
            return Part(kept["labels"], kept["offsets"], kept["lengths"], names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other process builds the same index."""
    lock = file.with_name(f"{file.name}.lock")
    with lock.open("ab") as opened:
        if fcntl is not None:
            try:
                fcntl.flock(opened.fileno(), fcntl.LOCK_EX)
            except OSError:
                _LOG.info("%s: cannot be locked here: processes may do the same work", lock)
        yield
    lock.unlink(missing_ok=True)  # Whoever waits for it finds the index there.


class _Progress:
    """A line on the terminal that says how far a build is."""

    def __init__(self, name: str, shards: int, tell: bool, stream: TextIO | None = None) -> None:
        self._name, self._shards, self._tell = printable(name), shards, tell
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._tell and self._stream.isatty()
        self._done = self._images = 0
        self._next = 0.0

    def scanned(self, images: int) -> None:
        """Count a shard."""
        self._done += 1
        self._images += images
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN
            self._stream.write(f"\r{self._line()}\x1b[K")
            self._stream.flush()

    def over(self) -> None:
        """Say what came of it."""
        if self._shown:
            self._stream.write(f"\r{self._line()}\x1b[K\n")
            self._stream.flush()
        elif self._tell:
            _LOG.info("%s", self._line())

    def _line(self) -> str:
        return f"index {self._name}: {self._done:,} of {self._shards:,} shards, {self._images:,} images"
