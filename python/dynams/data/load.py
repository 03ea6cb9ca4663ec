"""One call from a name and a path to images ready to train on."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from dynams.checks import one_of, whole
from dynams.data.cache import ask_for_room
from dynams.data.cifar import cifar10
from dynams.data.digits import digits
from dynams.data.errors import printable
from dynams.data.folder import image_folder
from dynams.data.images import ImageData, ImageSet
from dynams.data.memory import HostMemory
from dynams.data.parquet import Columns
from dynams.data.places import want_directory
from dynams.data.source import Rows, Source, Sources
from dynams.data.statistics import Moments
from dynams.data.storage import Place, Storage, choose_place, store
from dynams.paths import told_path

_LOG = logging.getLogger(__name__)
DataName = Literal["digits", "cifar10", "folder"]


def load_data(
    name: DataName = "digits",
    path: Path | str | None = None,
    *,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    storage: Storage = "auto",
    device: torch.device | str = "cpu",
    cache_dir: Path | str | None = None,
) -> ImageData:
    """Read, check and decode a data set.

    Everything that is used is decoded before this returns: a damaged, mislabelled or missing file
    is told here and not in the middle of training. Nothing is skipped. Links are followed, and a file
    counts once. Damaged metadata are no damaged image: a warning counts them.

    Args:
        name: "digits" (8 x 8 grey digits that come with scikit-learn: no path), "cifar10" (the
            hub's parquet files, cifar-10-batches-bin or cifar-10-batches-py anywhere below
            ``path``, told apart by what they hold; one complete set of each split) or "folder" (``path``/train/<class>/<image> and
            ``path``/val/<class>/<image> or ``path``/test/<class>/<image>).
        path: directory that holds the data.
        classes: names of the classes that are used, in both splits, as if there were no others; their labels
            count them in the data set's order. None: all.
        limit: use this many training images (all, if there are fewer); the test images stay.
        seed: None: the first ``limit`` images (of a folder: the first of every class, then the
            second of every class, and so on); a number: ``limit`` images drawn at random by it.
        image_size: side in pixels that images of a folder are brought to (shorter side resized,
            centre cut out); None: they must all have one size.
        image_column: column of parquet files that holds the images; None: img or image.
        label_column: column of parquet files that holds the labels; None: label.
        storage: where the images are kept: "device", "host", "disk" (a file mapped into memory), or
            "auto": the first of these that has room.
        device: the training device.
        cache_dir: keep the decoded images in this directory and reuse them next time. None: only
            "disk" keeps them, in `.dynams-cache` beside the data.

    Returns:
        Both splits, and the mean and standard deviation of the training images in use.

    Raises:
        TypeError, ValueError: an argument is no whole number, out of range or does not go with ``name``.
        DataError: data are missing, damaged or mislabelled.
        ImportError: a package that reads this kind of data is not installed.
    """
    return find_data(
        name,
        path,
        classes=classes,
        limit=limit,
        seed=seed,
        image_size=image_size,
        image_column=image_column,
        label_column=label_column,
        storage=storage,
        device=device,
        cache_dir=cache_dir,
    ).load()


@dataclass(frozen=True)
class FoundData:
    """A data set that was found and checked but not yet decoded.

    Attributes:
        sources: both splits.
        rows: that are used of them.
        classes: (n,) positions of the classes that are used, ascending.
        place: where the images will be kept.
        device: the training device.
        cache_dir: directory of decoded files; None: none, or beside the data.
    """

    sources: Sources
    rows: tuple[Rows, Rows]
    classes: Rows
    place: Place
    device: torch.device
    cache_dir: Path | None

    @property
    def keeps_files(self) -> bool:
        """Whether decoded images are kept in files, which processes on one host share."""
        wanted = self.place == "disk" or self.cache_dir is not None
        return wanted and bool(self.sources.train.files)

    def load(self, *, tell: bool = True) -> ImageData:
        """Decode it.

        Args:
            tell: warn of damaged metadata; of several processes that decode the same, one should.

        Raises:
            DataError: an image is damaged, or there is no room for the decoded ones.
        """
        splits = tuple(zip((self.sources.train, self.sources.test), self.rows, strict=True))
        if self.keeps_files:
            ask_for_room(splits, self.cache_dir)
        (train, moments), (test, _) = (self._load(source, rows) for source, rows in splits)
        damaged = [where for source, _ in splits for where in source.damaged]
        if damaged and tell:
            _LOG.warning(
                "images with damaged metadata (EXIF, text or profile), whose pixels are read: %d, such as %s",
                len(damaged),
                printable(min(damaged)),
            )
        mean, std = moments.mean(), moments.std()
        return ImageData(train, test, mean, std, self.sources.augmentation)

    def _load(self, source: Source, rows: Rows) -> tuple[ImageSet, Moments]:
        images, moments = store(source, rows, self.place, self.device, self.cache_dir)
        labels = torch.from_numpy(np.searchsorted(self.classes, source.labels[rows]))
        names = tuple(source.classes[place] for place in self.classes)
        return ImageSet(images, labels.to(images.device), names, source.name), moments


def find_data(
    name: DataName = "digits",
    path: Path | str | None = None,
    *,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    storage: Storage = "auto",
    device: torch.device | str = "cpu",
    cache_dir: Path | str | None = None,
    host: HostMemory = HostMemory(),  # noqa: B008 (frozen)
) -> FoundData:
    """Find and check a data set, and choose where its images will be kept.

    Arguments and errors are those of `load_data`; ``host`` tells how much memory is free.
    """
    limit = None if limit is None else whole("limit", limit, 1)
    seed = None if seed is None else whole("seed", seed, 0)
    image_size = None if image_size is None else whole("image_size", image_size, 1)
    device = torch.device(device)
    sources = _find(
        name,
        None if path is None else told_path(path),
        image_size,
        Columns(image_column, label_column),
    )
    used = _positions(classes, sources.train)
    rows = (sources.train.first(limit, seed, used), sources.test.first(None, None, used))
    size = sum(
        len(picked) * math.prod(source.shape)
        for source, picked in zip((sources.train, sources.test), rows, strict=True)
    )
    place = choose_place(storage, size, device, host)
    return FoundData(
        sources, rows, used, place, device, None if cache_dir is None else told_path(cache_dir)
    )


def _positions(classes: Sequence[str] | None, source: Source) -> Rows:
    """Positions (n,) of some classes, or all, ascending."""
    if classes is None:
        return np.arange(len(source.classes))
    for name in classes:
        one_of("classes", name, source.classes)
    if len(set(classes)) < max(2, len(classes)):
        raise ValueError(f"classes: got {list(classes)}, want at least two, each of them once")
    return np.flatnonzero(np.isin(source.classes, list(classes)))


def _find(name: DataName, path: Path | None, image_size: int | None, columns: Columns) -> Sources:
    one_of("name", name, get_args(DataName))
    if image_size is not None and name != "folder":
        raise ValueError(
            f"image_size: got {image_size}, want None for {name}, whose images have one size"
        )
    if name != "cifar10":
        columns.refuse(f"{name}, which has no columns")
    if name == "digits":
        if path is not None:
            raise ValueError(
                f"path: got {path}, want None for digits, which come with scikit-learn"
            )
        return digits()
    if path is None:
        raise ValueError(f"path: got None, want the directory that holds the data of {name}")
    want_directory(path, f"the data of {name}")
    return cifar10(path, columns) if name == "cifar10" else image_folder(path, image_size)
