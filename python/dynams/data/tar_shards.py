"""Images in uncompressed tar files as WebDataset has them: `KEY.jpg` beside `KEY.cls`, or `KEY.json` with a label.

Members of one sample follow one another and share what is before the first dot of their names. An image is read
by its place in the file, without anything before it; images that lie close to one another come in one reading.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError
from dynams.data.places import cannot_be_read, want_file
from dynams.data.shards import (
    KeptOpen,
    Kind,
    Lengths,
    Part,
    ShardState,
    as_lengths,
    as_rows,
    check_unchanged,
)
from dynams.data.source import Rows

IMAGES = ("jpg", "jpeg", "png", "webp")
_MOST_OPEN = 32
_BLOCK = 512
# What lies between two images (headers, labels) is read with them, if it is no more than a disk reads anyway.
_LARGEST_GAP = 16 << 10
_LARGEST_READ = 4 << 20
_MOST_LABEL = 2**63


@dataclass
class _Sample:
    """Members seen of one sample: offset and size of the image, and its label."""

    key: str
    begin: int
    image: tuple[int, int] | None = None
    label: int | None = None


@dataclass(frozen=True)
class TarShards:
    """Tar files, in order. See `dynams.data.shards.Layout`."""

    root: Path
    shards: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    kind: Kind = field(default="tar", init=False)

    def scan(self, shard: int) -> Part:
        """Find the images of a tar file by its headers; labels alone are read.

        Raises:
            DataError: it is no uncompressed tar file or is cut short, or a sample has no image, no class, or several.
        """
        path = self.root / self.shards[shard]
        want_file(path, "a tar file")
        samples: list[_Sample] = []
        try:
            with path.open("rb") as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
                size = os.fstat(opened.fileno()).st_size
                for member in _members(path, tar, opened.fileno()):
                    _add(path, opened.fileno(), size, member, samples)
        except tarfile.TarError as error:
            raise DataError(
                f"{path}: cannot be read as an uncompressed tar file: {error}"
            ) from error
        except OSError as error:
            raise cannot_be_read(path, error) from error
        if not samples:
            raise DataError(f"{path}: it has no images, want KEY.jpg and KEY.cls")
        _check_whole(path, samples[-1])
        places = [sample.image or (0, 0) for sample in samples]
        offsets = as_rows([place[0] for place in places])
        order = np.argsort(offsets, kind="stable")
        lengths = as_lengths(
            [place[1] for place in places], lambda at: f"{path}, {samples[at].key}"
        )
        labels = as_rows([-1 if sample.label is None else sample.label for sample in samples])
        return Part(labels[order], offsets[order], lengths[order])

    def reader(self, states: tuple[ShardState, ...], names: NDArray[np.uint8]) -> TarReader:
        """Make a reader; nothing is opened yet."""
        return TarReader([self.root / name for name in self.shards], states)


class TarReader:
    """Reads images of tar files by their places. See `dynams.data.shards.ShardReader`."""

    def __init__(self, paths: Sequence[Path], states: Sequence[ShardState]) -> None:
        self._paths, self._states = paths, states
        self._opened = KeptOpen(self._open, os.close, _MOST_OPEN)

    def read(self, shard: int, offsets: Rows, lengths: Lengths) -> Iterator[bytes]:
        """Yield the images at byte ``offsets`` of one file, neighbours by one reading."""
        ends = offsets + lengths
        first = 0
        for position in range(1, len(offsets) + 1):
            if position < len(offsets) and (
                offsets[position] - ends[position - 1] <= _LARGEST_GAP
                and ends[position] - offsets[first] <= _LARGEST_READ
            ):
                continue
            begin = int(offsets[first])
            together = self._bytes(shard, begin, int(ends[position - 1]))
            for each in range(first, position):
                yield together[int(offsets[each]) - begin : int(ends[each]) - begin]
            first = position

    def where(self, shard: int, offset: int) -> str:
        """Name the file and the byte."""
        return f"{self._paths[shard]}, byte {offset}"

    def close(self) -> None:
        """Let all files go."""
        self._opened.close()

    def _open(self, shard: int) -> int:
        path = self._paths[shard]
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise cannot_be_read(path, error) from error
        try:
            status = os.fstat(handle)
            check_unchanged(path, self._states[shard], status.st_size, status.st_mtime_ns)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _bytes(self, shard: int, begin: int, end: int) -> bytes:
        handle = self._opened.get(shard)
        pieces: list[bytes] = []
        while begin < end:
            try:
                piece = os.pread(handle, end - begin, begin)
            except OSError as error:
                raise cannot_be_read(self.where(shard, begin), error) from error
            if not piece:
                raise DataError(
                    f"{self.where(shard, begin)}: the file ends, want {end - begin} bytes"
                )
            pieces.append(piece)
            begin += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Member(NamedTuple):
    """A plain file in a tar file: its name, the place of its first byte, and its bytes."""

    name: str
    begin: int
    size: int


def _members(path: Path, tar: tarfile.TarFile, handle: int) -> Iterator[_Member]:
    """Yield the plain files; headers that are not the simplest are left to `tarfile`, which takes ten times as long.

    Raises:
        DataError: a header is damaged, or there is a link or the like.
    """
    while True:
        member = tar.next()
        if member is None:
            # `tarfile` takes a damaged header for the end, which is a block of zeros or of the file.
            end: int = tar.offset
            if any(os.pread(handle, _BLOCK, end)):
                raise DataError(
                    f"{path}, byte {end}: got a damaged header, want a member or the end"
                )
            return
        tar.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
        if not member.isdir():
            if not member.isreg() or member.sparse is not None:
                raise DataError(
                    f"{path}, byte {member.offset_data}: got {member.name}, which is no plain file, want KEY.jpg and "
                    "KEY.cls"
                )
            yield _Member(member.name, member.offset_data, member.size)
        if tar.pax_headers:  # They hold for all that follows.
            continue
        position = tar.offset
        while (simple := _simple(os.pread(handle, _BLOCK, position), position)) is not None:
            yield simple
            position = simple.begin + -(-simple.size // _BLOCK) * _BLOCK
        tar.offset = position


def _simple(header: bytes, position: int) -> _Member | None:
    """Read a header that says all there is to say of a plain file; None: it is another, or damaged."""
    if len(header) < _BLOCK or header[156] not in b"0\0" or header[257:265] != b"ustar\x0000":
        return None
    name, size, prefix = header[:100], header[124:136].strip(b"\0 "), header[345:500]
    sum_ = header[148:156].strip(b"\0 ")
    if not (size.isdigit() and sum_.isdigit()) or name.rstrip(b"\0").endswith(b"/"):
        return None
    try:
        if int(sum_, 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            return None
        length = int(size, 8)
    except ValueError:
        return None
    whole = name.partition(b"\0")[0]
    if prefix[0]:
        whole = prefix.partition(b"\0")[0] + b"/" + whole
    return _Member(os.fsdecode(whole), position + _BLOCK, length)


def _add(path: Path, handle: int, size: int, member: _Member, samples: list[_Sample]) -> None:
    """Take note of a member, which begins a sample or belongs to the last one."""
    folder, _, name = member.name.rpartition("/")
    if name.startswith("."):
        return
    where = f"{path}, byte {member.begin}"
    if member.begin + member.size > size:
        raise DataError(f"{where}: {member.name} is cut short: the file ends at byte {size}")
    stem, _, ending = name.partition(".")
    key, ending = f"{folder}/{stem}", ending.lower()
    if not samples or samples[-1].key != key:
        if samples:
            _check_whole(path, samples[-1])
        samples.append(_Sample(key, member.begin))
    sample = samples[-1]
    if ending in IMAGES:
        if sample.image is not None:
            raise DataError(f"{where}: {member.name} is a second image of {stem}, want one")
        sample.image = (member.begin, member.size)
    elif ending in ("cls", "json"):
        label = _label(os.pread(handle, member.size, member.begin), ending, member.name, where)
        if None not in (label, sample.label) and label != sample.label:
            raise DataError(
                f"{where}: {member.name} has label {label}, want {sample.label} as before"
            )
        sample.label = sample.label if label is None else label


def _label(text: bytes, ending: str, name: str, where: str) -> int | None:
    """Read a label; None: a JSON file that has none."""
    try:
        value: Any = text.decode().strip()
        if ending == "json":
            read = json.loads(value)
            value = read.get("label") if isinstance(read, dict) else read
            if value is None:
                return None
        label = int(value)
        if isinstance(value, float) and value != label:
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError):
        shown = text[:40].decode("utf-8", "backslashreplace")
        raise DataError(f"{where}: got {shown!r} in {name}, want a whole number") from None
    if not 0 <= label < _MOST_LABEL:
        raise DataError(f"{where}: got label {label} in {name}, want 0 or more, below 2**63")
    return label


def _check_whole(path: Path, sample: _Sample) -> None:
    where, key = f"{path}, byte {sample.begin}", sample.key.lstrip("/")
    if sample.image is None:
        raise DataError(f"{where}: sample {key} has no image, want {key}.{{{','.join(IMAGES)}}}")
    if sample.label is None:
        raise DataError(
            f"{where}: sample {key} has no class, want {key}.cls, or {key}.json with a label"
        )
