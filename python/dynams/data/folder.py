"""Folders of images, one folder a class: `train/<class>/*` and `val/<class>/*` (or `test/...`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynams.data.augmentation import Augmentation
from dynams.data.decode import Decoder
from dynams.data.errors import DataError, printable
from dynams.data.places import cannot_be_read, want_directory, what_is
from dynams.data.source import (
    CHUNK_BYTES,
    Bytes,
    Rows,
    Source,
    Sources,
    decoding_threads,
    in_threads,
    rows_round_robin,
)

_TEST_NAMES = ("val", "test")
_MOST_THREADS = 32
# From this side in pixels on, images are varied as ImageNet's are.
_LARGE = 160
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Split:
    directory: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: Rows


def image_folder(path: Path, image_size: int | None) -> Sources:
    """Images in folders, classes in the order of their sorted names.

    Files whose name begins with a dot are no images to any system and are left out, with a warning
    that counts them; every other file must be an image. Links are followed; an image that is in a class
    already is left out where a link leads to it again, with a warning likewise.

    Args:
        path: directory with ``train`` and with ``val`` or else ``test``.
        image_size: side in pixels to bring every image to; None: every image must have the size of
            the first one.

    Raises:
        ImportError: Pillow is not installed.
        DataError: a directory is missing or empty, the classes of both splits differ; chunks: a
            file cannot be decoded, or has another size where ``image_size`` is None. Names the file.
    """
    train_directory, test_directory = split_directories(path)
    train, test = _list(train_directory), _list(test_directory)
    if train.classes != test.classes:
        for name in sorted({*train.classes} ^ {*test.classes}):
            here, there = (train, test) if name in train.classes else (test, train)
            raise DataError(
                f"{there.directory}: class {name} is missing, which is in {here.directory}"
            )
    if len(train.classes) < 2:
        raise DataError(f"{train_directory}: got one class, want at least 2 folders")
    decoder = Decoder([])
    if image_size is None:
        with decoder.quiet():
            first = decoder.decode_resized(train.files[0], None, str(train.files[0]))
        height, width = first.shape[:2]
    else:
        height = width = image_size
    shape = (3, height, width)
    name = printable(path.resolve().name)
    return Sources(
        train=_source(f"{name} train", train, path, image_size, shape),
        test=_source(f"{name} test", test, path, image_size, shape),
        augmentation=suited_to_folders(min(height, width)),
    )


def split_directories(path: Path) -> tuple[Path, Path]:
    """Find the directories of the training and of the test images.

    Raises:
        DataError: one is missing.
    """
    test_directory = next(
        (
            path / name
            for there in (os.path.isdir, os.path.lexists)
            for name in _TEST_NAMES
            if there(path / name)
        ),
        path / _TEST_NAMES[0],
    )
    for directory in (path / "train", test_directory):
        want_directory(
            directory,
            f"train/<class>/<image> and val/<class>/<image> or test/<class>/<image> in {path}",
        )
    return path / "train", test_directory


def suited_to_folders(side: int) -> Augmentation:
    """How images of a folder, whose shorter side has so many pixels, are sensibly varied."""
    if side >= _LARGE:
        # 224 of 256, as customary.
        return Augmentation(flip=True, random_resized=True, size=side * 7 // 8)
    # CIFAR's four pixels of 32, in proportion.
    return Augmentation(crop_padding=(side + 4) // 8, flip=True)


def _list(directory: Path) -> _Split:
    entries = _entries(directory)
    folders = [directory / entry.name for entry in entries if not entry.name.startswith(".")]
    hidden = len(entries) - len(folders)
    for folder in folders:
        if not os.path.isdir(folder):
            raise DataError(f"{folder}: got {what_is(folder)}, want a folder for each class")
    if not folders:
        raise DataError(f"{directory}: it is empty, want a folder for each class")
    files: list[Path] = []
    labels: list[int] = []
    links: set[Path] = set()
    for label, folder in enumerate(folders):
        entries = _entries(folder)
        images = [entry for entry in entries if not entry.name.startswith(".")]
        hidden += len(entries) - len(images)
        if not images:
            raise DataError(f"{folder}: it is empty, want images")
        links.update(folder / entry.name for entry in images if entry.is_symlink())
        files += [folder / entry.name for entry in images]
        labels += [label] * len(images)
    if hidden:
        where = printable(str(directory))
        _LOG.warning("%s: left out %d hidden files (named .something)", where, hidden)
    if links or any(folder.is_symlink() for folder in folders):
        files, labels = _each_once(directory, files, labels, links)
    return _Split(
        directory=directory,
        classes=tuple(printable(folder.name) for folder in folders),
        files=tuple(files),
        labels=np.array(labels, np.int64),
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise cannot_be_read(folder, error) from error


def _each_once(
    directory: Path, files: list[Path], labels: list[int], links: set[Path]
) -> tuple[list[Path], list[int]]:
    """Leave out links to files that are in the class already; in two classes, a file is refused."""
    folders = {file.parent: os.path.realpath(file.parent) for file in files}
    first: dict[str, int] = {}
    for position, file in enumerate(files):
        alone = os.path.join(folders[file.parent], file.name)
        real = os.path.realpath(file) if file in links else alone
        other = first.setdefault(real, position)
        if labels[other] != labels[position]:
            raise DataError(f"{file}: it is the same file as {files[other]}, want it in one class")
    kept = sorted(first.values())
    if len(kept) < len(files):
        _LOG.warning(
            "%s: left out %d links to images that are there already",
            printable(str(directory)),
            len(files) - len(kept),
        )
    return [files[position] for position in kept], [labels[position] for position in kept]


def _source(
    name: str, split: _Split, root: Path, size: int | None, shape: tuple[int, int, int]
) -> Source:
    damaged: list[str] = []

    def chunks(rows: Rows) -> Iterator[Bytes]:
        decoder = Decoder(damaged)
        workers = decoding_threads(_MOST_THREADS)
        at_once = max(1, CHUNK_BYTES // (shape[0] * shape[1] * shape[2]))
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(rows), at_once):
                files = [split.files[row] for row in rows[start : start + at_once]]
                yield _decoded(decoder, pool, workers, files, size, shape)

    return Source(
        name=name,
        classes=split.classes,
        labels=split.labels,
        shape=shape,
        chunks=chunks,
        files=split.files,
        root=root,
        damaged=damaged,
        order=rows_round_robin(split.labels),
    )


def _decoded(
    decoder: Decoder,
    pool: ThreadPoolExecutor,
    workers: int,
    files: list[Path],
    size: int | None,
    shape: tuple[int, int, int],
) -> Bytes:
    images = np.empty((len(files), *shape), np.uint8)

    def decode(position: int) -> None:
        file = files[position]
        pixels = decoder.decode_resized(file, size, str(file))
        height, width = pixels.shape[:2]
        if (height, width) != shape[1:]:
            raise DataError(
                f"{file}: got an image of {width} x {height} pixels, want {shape[2]} x {shape[1]} "
                "as the first one has; give image_size to bring all to one size"
            )
        images[position] = pixels.transpose(2, 0, 1)

    # Shorter runs than in one part a thread: files differ in how long they take.
    with decoder.quiet():
        in_threads(pool, len(files), decode, 4 * workers)
    return images
