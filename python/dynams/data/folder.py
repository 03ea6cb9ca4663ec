"""Folders of images, one folder a class: `train/<class>/*` and `val/<class>/*` (or `test/...`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynams.data.augmentation import Augmentation
from dynams.data.decode import Decoder
from dynams.data.errors import DataError
from dynams.data.source import (
    CHUNK_BYTES,
    Bytes,
    Rows,
    Source,
    Sources,
    decoding_threads,
    in_threads,
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
    that counts them; every other file must be an image.

    Args:
        path: directory with ``train`` and with ``val`` or else ``test``.
        image_size: side in pixels to bring every image to; None: every image must have the size of
            the first one.

    Raises:
        ImportError: Pillow is not installed.
        DataError: a directory is missing or empty, the classes of both splits differ; chunks: a
            file cannot be decoded, or has another size where ``image_size`` is None. Names the file.
    """
    train_directory = path / "train"
    test_directory = next(
        (path / name for name in _TEST_NAMES if (path / name).is_dir()), path / _TEST_NAMES[0]
    )
    for directory in (train_directory, test_directory):
        if not directory.is_dir():
            raise DataError(
                f"{directory}: no such directory; looked for train/<class>/<image> and "
                f"val/<class>/<image> or test/<class>/<image> in {path}"
            )
    train, test = _list(train_directory), _list(test_directory)
    if train.classes != test.classes:
        for name in sorted({*train.classes} ^ {*test.classes}):
            here, there = (train, test) if name in train.classes else (test, train)
            raise DataError(
                f"{there.directory}: class {name} is missing, which is in {here.directory}"
            )
    if len(train.classes) < 2:
        raise DataError(f"{train_directory}: got one class, want at least 2 folders")
    decoder = Decoder()
    if image_size is None:
        height, width = decoder.decode_resized(train.files[0], None, str(train.files[0])).shape[:2]
    else:
        height = width = image_size
    shape = (3, height, width)
    return Sources(
        train=_source(f"{path.resolve().name} train", train, path, image_size, shape),
        test=_source(f"{path.resolve().name} test", test, path, image_size, shape),
        augmentation=_suited(min(height, width)),
    )


def _suited(side: int) -> Augmentation:
    if side >= _LARGE:
        # 224 of 256, as customary.
        return Augmentation(flip=True, random_resized=True, size=side * 7 // 8)
    # CIFAR's four pixels of 32, in proportion.
    return Augmentation(crop_padding=(side + 4) // 8, flip=True)


def _list(directory: Path) -> _Split:
    folders, hidden = [], 0
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith("."):
            hidden += 1
        elif not entry.is_dir():
            raise DataError(f"{entry}: got a file, want a folder for each class")
        else:
            folders.append(entry)
    if not folders:
        raise DataError(f"{directory}: it is empty, want a folder for each class")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        entries = sorted(folder.iterdir())
        images = [entry for entry in entries if not entry.name.startswith(".")]
        hidden += len(entries) - len(images)
        if not images:
            raise DataError(f"{folder}: it is empty, want images")
        files += images
        labels += [label] * len(images)
    if hidden:
        _LOG.warning("%s: left out %d hidden files (named .something)", directory, hidden)
    return _Split(
        directory=directory,
        classes=tuple(folder.name for folder in folders),
        files=tuple(files),
        labels=np.array(labels, np.int64),
    )


def _source(
    name: str, split: _Split, root: Path, size: int | None, shape: tuple[int, int, int]
) -> Source:
    def chunks(rows: Rows) -> Iterator[Bytes]:
        decoder = Decoder()
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
        order=_round_robin(split.labels),
    )


def _round_robin(labels: Rows) -> Rows:
    """Rows so ordered that the first few are of every class: files are listed class by class."""
    starts = np.searchsorted(labels, labels, side="left")
    return np.argsort(np.arange(len(labels)) - starts, kind="stable").astype(np.int64)


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
        if not file.is_file():
            raise DataError(f"{file}: got a folder, want an image")
        pixels = decoder.decode_resized(file, size, str(file))
        height, width = pixels.shape[:2]
        if (height, width) != shape[1:]:
            raise DataError(
                f"{file}: got an image of {width} x {height} pixels, want {shape[2]} x {shape[1]} "
                "as the first one has; give image_size to bring all to one size"
            )
        images[position] = pixels.transpose(2, 0, 1)

    # Shorter runs than in one part a thread: files differ in how long they take.
    in_threads(pool, len(files), decode, 4 * workers)
    return images
