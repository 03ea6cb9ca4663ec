"""One call from a name and a path to images ready to train on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import torch

from dynams.checks import at_least, one_of
from dynams.data.cifar import cifar10
from dynams.data.digits import digits
from dynams.data.errors import DataError
from dynams.data.folder import image_folder
from dynams.data.images import ImageData, ImageSet
from dynams.data.source import Rows, Source, Sources
from dynams.data.statistics import Moments
from dynams.data.storage import Place, Storage, choose_place, store

DataName = Literal["digits", "cifar10", "folder"]


def load_data(
    name: DataName = "digits",
    path: Path | str | None = None,
    *,
    limit: int | None = None,
    seed: int | None = None,
    image_size: int | None = None,
    storage: Storage = "auto",
    device: torch.device | str = "cpu",
    cache_dir: Path | str | None = None,
) -> ImageData:
    """Read, check and decode a data set.

    Everything that is used is decoded before this returns: a damaged, mislabelled or missing file
    is told here and not in the middle of training. Nothing is skipped.

    Args:
        name: "digits" (8 x 8 grey digits that come with scikit-learn: no path), "cifar10" (the
            hub's parquet files, cifar-10-batches-bin or cifar-10-batches-py anywhere below
            ``path``, told apart by what they hold) or "folder" (``path``/train/<class>/<image> and
            ``path``/val/<class>/<image> or ``path``/test/<class>/<image>).
        path: directory that holds the data.
        limit: use this many training images (all, if there are fewer); the test images stay.
        seed: None: the first ``limit`` images (of a folder: the first of every class, then the
            second of every class, and so on); a number: ``limit`` images drawn at random by it.
        image_size: side in pixels that images of a folder are brought to (shorter side resized,
            centre cut out); None: they must all have one size.
        storage: where the images are kept: "device", "host", "disk" (a file mapped into memory), or
            "auto": the first of these that has room.
        device: the training device.
        cache_dir: keep the decoded images in this directory and reuse them next time. None: only
            "disk" keeps them, in `.dynams-cache` beside the data.

    Returns:
        Both splits, and the mean and standard deviation of the training images in use.

    Raises:
        ValueError: an argument is out of range or does not go with ``name``.
        DataError: data are missing, damaged or mislabelled.
        ImportError: a package that reads this kind of data is not installed.
    """
    at_least("limit", limit, 1)
    at_least("image_size", image_size, 1)
    device = torch.device(device)
    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    found = _find(name, None if path is None else Path(path).expanduser(), image_size)
    picked = (found.train.first(limit, seed), found.test.first(None, None))
    size = sum(
        len(rows) * math.prod(source.shape)
        for source, rows in zip((found.train, found.test), picked, strict=True)
    )
    place = choose_place(storage, size, device)
    train, moments = _load(found.train, picked[0], place, device, cache)
    test, _ = _load(found.test, picked[1], place, device, cache)
    return ImageData(train, test, moments.mean(), moments.std(), found.augmentation)


def _find(name: DataName, path: Path | None, image_size: int | None) -> Sources:
    one_of("name", name, get_args(DataName))
    if image_size is not None and name != "folder":
        raise ValueError(
            f"image_size: got {image_size}, want None for {name}, whose images have one size"
        )
    if name == "digits":
        if path is not None:
            raise ValueError(
                f"path: got {path}, want None for digits, which come with scikit-learn"
            )
        return digits()
    if path is None:
        raise ValueError(f"path: got None, want the directory that holds the data of {name}")
    if not path.exists():
        raise DataError(f"{path}: no such directory; looked for the data of {name}")
    return cifar10(path) if name == "cifar10" else image_folder(path, image_size)


def _load(
    source: Source, rows: Rows, place: Place, device: torch.device, cache_dir: Path | None
) -> tuple[ImageSet, Moments]:
    images, moments = store(source, rows, place, device, cache_dir)
    labels = torch.from_numpy(source.labels[rows]).to(images.device)
    return ImageSet(images, labels, source.classes, source.name), moments
