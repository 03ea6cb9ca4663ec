"""A map-style Dataset of encoded images that are read and decoded when they are asked for, found by an index."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dynams.checks import whole
from dynams.data.cache import LONGEST_WORDS
from dynams.data.errors import printable
from dynams.data.index import ImageIndex
from dynams.data.index_build import indexed
from dynams.data.jpeg import EncodedDecoder
from dynams.data.layouts import IndexedName, Split, find_layout
from dynams.data.parquet import Columns
from dynams.data.shards import Layout, ShardReader
from dynams.paths import told_path

DIRECTORY = ".dynams-index"
_LOG = logging.getLogger(__name__)


class IndexedImages(Dataset[Any]):
    """Images in tar shards, parquet shards or folders, of which only those asked for are read and decoded.

    ``path`` holds ``train/<class>/<image>``, ``train-*.tar`` (WebDataset's `KEY.jpg` beside `KEY.cls`, or
    `KEY.json` with a label) or ``train-*.parquet`` (the hub's), and ``val`` or ``test`` likewise. The first time
    an index of all images is made: of a folder by listing it, of tar files by their headers, of parquet files by
    their column of labels. A sample's number is its place in it, whoever reads.

    An item is (image, label): the image uint8 (3, H, W), upright RGB, or what ``transform`` makes of it. A
    ``DataLoader`` asks for a batch at a time, which is read in the order in which it lies on the disk. Every
    process opens the files that it reads for itself, a few at a time; pickled, it takes its place along. Threads
    may share it: they read one after the other.

    Args:
        path: directory that holds the data.
        split: "train", "test", or None: ``path`` holds no splits but folders of classes, or shards.
        image_size: side in pixels that images are brought to (shorter side resized, centre cut out); None: as they are.
        transform: called with each image (3, H, W) uint8, at random or not; None: nothing is done.
        classes: name of every class, in the order of the labels; None: names of folders, what parquet files
            tell, else numbers.
        name: what is looked for below ``path``, see `dynams.data.layouts.find_layout`.
        image_column: of parquet files; None: img or image.
        label_column: of parquet files; None: label.
        index_dir: directory of the index; None: `.dynams-index` beside the data.
        tell: show on the terminal how far the index is.

    Attributes:
        labels: (N,) int64, mapped from the index.
        classes: name of every class.

    Raises:
        ValueError: an argument is out of range.
        DataError: data are missing, mislabelled, or others than when the index was made; when items are
            read: an image is damaged, or its shard missing or changed. Names the shard and the place.
        StorageError: the index cannot be written.
        ImportError: a package that reads this kind of data is not installed.
    """

    labels: Tensor
    classes: tuple[str, ...]
    _index: ImageIndex
    _reader: ShardReader
    _decoder: EncodedDecoder | None
    _damaged: list[str]
    _warned: bool
    _locks: dict[int, threading.Lock]

    def __init__(
        self,
        path: Path | str,
        split: Split | None = "train",
        *,
        image_size: int | None = None,
        transform: Callable[[Tensor], Any] | None = None,
        classes: Sequence[str] | None = None,
        name: IndexedName = "auto",
        image_column: str | None = None,
        label_column: str | None = None,
        index_dir: Path | str | None = None,
        tell: bool = True,
    ) -> None:
        self.image_size = None if image_size is None else whole("image_size", image_size, 1)
        self.transform = transform
        columns = Columns(image_column, label_column)
        layout = find_layout(told_path(path), split, name=name, columns=columns, classes=classes)
        file = _index_file(layout, split, None if index_dir is None else told_path(index_dir))
        self._open(indexed(file, layout, tell=tell))

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return next(self.items([row]))

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Any, int]]:
        """Return the items of a batch, in the order of ``rows``."""
        return list(self.items(rows))

    @property
    def targets(self) -> Tensor:
        """`labels`, as torchvision calls them."""
        return self.labels

    def items(self, rows: Sequence[int]) -> Iterator[tuple[Any, int]]:
        """Yield items in the order of ``rows``: all are read before the first, each is decoded when it is asked for.

        Raises:
            TypeError: a row is no whole number. IndexError: there is no such row.
            DataError: an image cannot be had; names its shard and its place there.
        """
        encoded = self.encoded(rows)
        decoder = self._decoder = self._decoder or EncodedDecoder(self._damaged)
        for place, row in enumerate(self._numbers(rows).tolist()):
            pixels = decoder.decode(encoded[place], self.image_size, self.where(row))
            encoded[place] = b""
            if self._damaged:
                self._warn_of_damaged()
            image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
            label = int(self._index.labels[row])
            yield image if self.transform is None else self.transform(image), label

    def encoded(self, rows: Sequence[int]) -> list[bytes]:
        """Read images as they are stored, in the order of ``rows``, by readings in the order of the disk.

        Raises:
            TypeError: a row is no whole number. IndexError: there is no such row.
            DataError: a shard is missing or has changed.
        """
        wanted = self._numbers(rows)
        order = np.argsort(wanted, kind="stable")
        images: list[bytes] = [b""] * len(wanted)
        with self._alone():
            for place, image in zip(order.tolist(), self._read(wanted[order]), strict=True):
                images[place] = image
        return images

    def where(self, row: int) -> str:
        """Name a sample's shard, and its byte, row or file there."""
        index = self._index
        return self._reader.where(int(index.shards[row]), int(index.offsets[row]))

    def close(self) -> None:
        """Let all files go that this process has open; reading opens them again."""
        with self._alone():
            self._reader.close()

    def __getstate__(self) -> dict[str, Any]:
        """Take along what a process opens for itself as its names."""
        mine = ("_index", "_reader", "_decoder", "_damaged", "_warned", "_locks", "labels")
        state = {name: value for name, value in self.__dict__.items() if name not in mine}
        return {**state, "file": self._index.file, "layout": self._index.layout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file, layout = state.pop("file"), state.pop("layout")
        self.__dict__.update(state)
        self._open(indexed(file, layout, tell=False))

    def _open(self, index: ImageIndex) -> None:
        self._index, self._reader = index, index.reader()
        self._decoder, self._damaged, self._warned = None, [], False
        self._locks = {}
        self.labels = torch.from_numpy(index.labels)
        self.classes = index.layout.classes or tuple(map(str, range(int(index.labels.max()) + 1)))

    def _alone(self) -> threading.Lock:
        """The lock of this process' threads: one that was held when the process was forked would stay so."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _numbers(self, rows: Sequence[int]) -> Any:
        wanted, count = np.asarray(rows), len(self)
        if wanted.dtype.kind not in "iu" or wanted.size != len(rows):
            # None are, or some are not whole numbers: a mask, or several where one is wanted.
            wanted = np.array([whole("row", row) for row in rows], object)
        wanted = wanted.reshape(-1)
        outside = np.flatnonzero((wanted < -count) | (wanted >= count))
        if len(outside):
            raise IndexError(f"row: got {wanted[outside[0]]}, want -{count} to {count - 1}")
        wanted = wanted.astype(np.int64)
        return np.where(wanted < 0, wanted + count, wanted)

    def _read(self, rows: Any) -> Iterator[bytes]:
        """Read images in ascending order; a row that comes twice is read twice."""
        index = self._index
        shards = index.shards[rows].astype(np.int64)
        edges = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        for start, stop in itertools.pairwise(edges.tolist()):
            part = rows[start:stop]
            yield from self._reader.read(
                int(shards[start]), index.offsets[part], index.lengths[part]
            )

    def _warn_of_damaged(self) -> None:
        first, warned, self._warned = self._damaged[:1], self._warned, True
        self._damaged.clear()
        if first and not warned:
            _LOG.warning(
                "images with damaged metadata (EXIF, text or profile), whose pixels are read; the first: %s",
                printable(first[0]),
            )


def _index_file(layout: Layout, split: Split | None, directory: Path | None) -> Path:
    """Name an index by split, layout and columns; away from the data, by where they are too."""
    known = hashlib.sha256(repr(layout.columns).encode())
    words = ""
    if directory is None:
        directory = layout.root / DIRECTORY
    else:
        root = layout.root.resolve()
        known.update(os.fsencode(root))
        words = re.sub(r"[^A-Za-z0-9]+", "-", root.name)[:LONGEST_WORDS].strip("-") + "-"
    return directory / f"{words}{split or 'all'}-{layout.kind}-{known.hexdigest()[:8]}.index"
