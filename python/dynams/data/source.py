"""A split that has been found and checked but not yet decoded.

Every reader ends in a `Source`: the labels are known and valid, the images come in chunks, so that
they can go straight to where they will be kept (`storage`) and a data set may be larger than memory.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynams.data.augmentation import Augmentation
from dynams.data.errors import DataError

Bytes = NDArray[np.uint8]
Rows = NDArray[np.int64]
# Big enough to keep every decoding thread busy, small beside any memory that holds a data set.
CHUNK_BYTES = 64 << 20
# Of classes without names: a label beyond is no number of a class, such as that of a word or a person, and naming
# all below it would take until memory ends.
MOST_CLASSES = 2**20


@dataclass(frozen=True)
class Source:
    """One split of a data set, undecoded.

    Attributes:
        name: what the images are, for messages ("cifar10 train").
        classes: name of every class.
        labels: (N,) int64, each a position in ``classes``.
        shape: (C, H, W) of every image.
        chunks: given rows (K,) int64 in ascending order, their images (n, C, H, W) uint8 a chunk at
            a time, in that order, each chunk writable and its own. Raises DataError.
        files: what the images are decoded from; empty where nothing is read from disk.
        root: directory that ``files`` are told relative to.
        column: that images are read from; None where nothing has columns.
        damaged: where metadata were found damaged in decoding, image by image, in any order.
        order: rows in the order in which a part of the split should be taken; None: as they come.
    """

    name: str
    classes: tuple[str, ...]
    labels: Rows
    shape: tuple[int, int, int]
    chunks: Callable[[Rows], Iterator[Bytes]]
    files: tuple[Path, ...] = ()
    root: Path | None = None
    column: str | None = None
    damaged: list[str] = field(default_factory=list)
    order: Rows | None = field(default=None)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, limit: int | None, seed: int | None, classes: Rows | None = None) -> Rows:
        """Choose rows (K,), ascending: all, the first ``limit``, or ``limit`` drawn by ``seed``.

        Args:
            limit: None: all.
            seed: None: the first.
            classes: (n,) positions in ``classes``; rows of others do not count. None: of all.
        """
        order = np.arange(len(self), dtype=np.int64)
        if limit is not None and seed is None and self.order is not None:
            order = self.order
        if classes is not None:
            order = order[np.isin(self.labels[order], classes)]
        if limit is not None and limit < len(order):
            if seed is not None:
                order = order[np.random.default_rng(seed).permutation(len(order))]
            order = order[:limit]
        return np.sort(order)


@dataclass(frozen=True)
class Sources:
    """Both splits of a data set, undecoded, and the augmentation that suits it."""

    train: Source
    test: Source
    augmentation: Augmentation


def check_labels(labels: Rows, classes: int, where: str, unit: str) -> None:
    """Refuse the first label outside [0, classes), naming its row or record (``unit``)."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{where}, {unit} {row}: got label {int(labels[row])}, want 0 to {classes - 1}"
        )


def rows_round_robin(labels: Rows) -> Rows:
    """Order rows (N,) whose labels ascend so that the first few are of every class."""
    starts = np.searchsorted(labels, labels, side="left")
    return np.argsort(np.arange(len(labels)) - starts, kind="stable").astype(np.int64)


def decoding_threads(most: int) -> int:
    """Count the processors this process may use, at most ``most``: threads to decode with."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # Not on every system.
        usable = os.cpu_count() or 1
    return max(1, min(most, usable))


def in_threads(
    pool: ThreadPoolExecutor, count: int, work: Callable[[int], None], parts: int
) -> None:
    """Do ``work(0)`` ... ``work(count - 1)`` in ``pool``, in ``parts`` runs of neighbours.

    The error of the lowest position is raised, whichever thread finished first.
    """

    def stretch(start: int, stop: int) -> None:
        for position in range(start, stop):
            work(position)

    edges = [count * part // parts for part in range(parts + 1)]
    running = [
        pool.submit(stretch, start, stop)
        for start, stop in itertools.pairwise(edges)
        if start < stop
    ]
    try:
        for future in running:
            future.result()
    finally:
        for future in running:
            future.cancel()
