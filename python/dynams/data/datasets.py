"""Data sets of the user's own: map-style Datasets of (image, label), read sample by sample when needed.

`DatasetData` is what a user hands over; `SampleData` is what is known of it before training, and stands where
`ImageData` stands for images in memory: labels, classes, and the shape of an item.
"""

from __future__ import annotations

import hashlib
import logging
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from dynams.data.errors import DataError
from dynams.data.source import MOST_CLASSES

Items = Dataset[Any]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DatasetData:
    """Data sets to train on, with transforms of their own; a pair (train, test) is short for it.

    An item is (image, label): a tensor, of one shape in the whole Dataset, and a whole number. Images of uint8
    become float32 in [0, 1] on the training device, floating-point ones float32; nothing else is done to them.

    Attributes:
        train: what is trained on, with its random transforms.
        test: what accuracy is measured on.
        scored: the samples of ``train``, in the same order, without random transforms: what candidates are
            scored by. None: ``train`` with its transforms, one variation of each sample for the whole run.
        classes: names of the classes, in the order of their labels; None: ``train.classes``, which ``test.classes``
            must agree with, else numbers.

    Raises:
        TypeError: one of them is no map-style Dataset, or ``classes`` are no names.
        ValueError: ``scored`` has another length than ``train``, or one of them is empty.
    """

    train: Items
    test: Items
    scored: Items | None = None
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, dataset in self.datasets().items():
            _check_dataset(name, dataset)
        if self.classes is not None and not isinstance(self.classes, Sequence):
            raise TypeError(f"classes: got {type(self.classes).__name__}, want the names in a list")
        if self.scored is not None and len_of(self.scored) != len_of(self.train):
            raise ValueError(
                f"scored: got {len_of(self.scored)} items, want those of train, {len_of(self.train)}"
            )

    def datasets(self) -> dict[str, Items]:
        """Return those that are there, by name."""
        named = {"train": self.train, "test": self.test, "scored": self.scored}
        return {name: dataset for name, dataset in named.items() if dataset is not None}


@dataclass(frozen=True)
class Item:
    """What every item's image is: its shape and dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class SampleSet:
    """What is known of one split.

    Attributes:
        labels: (N,) int64 in [0, number of classes), on the CPU.
        classes: name of every class; a label is a position in it.
        name: which Dataset is trained on or evaluated: "train" or "test".
        plain: which is read where samples are not to be varied.
        rows: (N,) int64, the samples' places in these.
        item: what an image is.
    """

    labels: Tensor
    classes: tuple[str, ...]
    name: str
    plain: str
    rows: Tensor
    item: Item

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: Tensor) -> SampleSet:
        """Return the samples ``indices`` (K,) int64, in that order."""
        where = indices.to(self.rows.device)
        return replace(self, labels=self.labels[where], rows=self.rows[where])


@dataclass(frozen=True, eq=False)
class SampleData:
    """What is known of both splits.

    Attributes:
        train: what is trained on.
        test: what accuracy is measured on; same classes.
    """

    train: SampleSet
    test: SampleSet

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train.classes)

    def fingerprint(self) -> dict[str, Any]:
        """Collect what tells one data set from another: sizes, items, classes, a digest of the labels."""
        labels = torch.cat([self.train.labels, self.test.labels])
        return {
            "train": len(self.train),
            "test": len(self.test),
            "shape": list(self.train.item.shape),
            "dtype": str(self.train.item.dtype),
            "classes": list(self.train.classes),
            "labels": hashlib.sha256(labels.numpy().tobytes()).hexdigest(),
        }


def as_datasets(data: object) -> DatasetData:
    """Return what ``data`` stands for: itself, or the pair (train, test).

    Raises:
        TypeError: it is neither, or not of map-style Datasets. ValueError: one is empty.
    """
    if isinstance(data, DatasetData):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return DatasetData(*data)
    came = type(data).__name__
    if isinstance(data, (tuple, list)):
        came += f" of {len(data)}"
    raise TypeError(f"data: got a {came}, want ImageData, DatasetData or a pair (train, test)")


def image_and_label(item: Any, place: str) -> tuple[Tensor, int]:
    """Take an item apart.

    Args:
        item: what a Dataset gave.
        place: which it is, for the message ("train[17]").

    Raises:
        DataError: it is not a tensor and a whole number.
    """
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        came = type(item).__name__
        if isinstance(item, (tuple, list)):
            came += f" of {len(item)}"
        raise DataError(f"{place}: got a {came}, want (image, label)")
    image, label = item
    if not isinstance(image, Tensor):
        raise DataError(
            f"{place}: got an image of type {type(image).__name__}, want a tensor: a transform of the "
            "Dataset has to make one"
        )
    try:
        return image, operator.index(label)
    except TypeError:
        raise DataError(f"{place}: got the label {label!r}, want a whole number") from None


def told_labels(dataset: Any) -> Tensor | None:
    """Find the labels that a Dataset tells without reading its items.

    They are in ``targets``, ``labels`` or the second of a TensorDataset's tensors, also inside a Subset or a
    concatenation.

    Returns:
        (N,) int64 on the CPU, or None: it tells none, or not one whole number for each item.
    """
    if isinstance(dataset, Subset):
        inner = told_labels(dataset.dataset)
        if inner is None:
            return None
        return inner[torch.as_tensor(dataset.indices, dtype=torch.int64, device="cpu")]
    if isinstance(dataset, ConcatDataset):
        parts = [told_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        told: object = dataset.tensors[1] if len(dataset.tensors) == 2 else None
    else:
        told = getattr(dataset, "targets", None)
        told = getattr(dataset, "labels", None) if told is None else told
    if told is None:
        return None
    try:
        labels = torch.as_tensor(told, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = not (labels.is_floating_point() or labels.is_complex())
    if not whole or labels.shape != (len_of(dataset),):
        return None
    return labels.to(torch.int64)


def class_names(data: DatasetData, train: Tensor, test: Tensor) -> tuple[str, ...]:
    """Name the classes, and check the labels against them; classes that train has none of are told.

    Args:
        data: names them, or has a Dataset that does.
        train: (N,) int64, labels.
        test: likewise.

    Raises:
        DataError: a label is no class, or another one in test, or there are fewer than two classes.
    """
    names = data.classes
    if names is None:
        names = _told_classes(data.train)
        _check_same_classes(names, _told_classes(data.test))
    if names is None:
        most = min(int(torch.cat([train, test]).max()), MOST_CLASSES - 1)
        names = [str(label) for label in range(1 + most)]
    classes = tuple(str(name) for name in names)
    if len(classes) < 2:
        raise DataError(f"classes: got {len(classes)}, want at least 2")
    for name, labels in (("train", train), ("test", test)):
        wrong = ((labels < 0) | (labels >= len(classes))).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{name}[{row}]: got label {int(labels[row])}, want 0 to {len(classes) - 1}"
            )
    empty = (torch.bincount(train, minlength=len(classes)) == 0).nonzero().flatten()
    if len(empty):
        _LOG.warning(
            "train: got no sample of %d of %d classes (%s is one), want some of each; labels count from 0",
            len(empty),
            len(classes),
            classes[int(empty[0])],
        )
    return classes


def in_memory(dataset: Any) -> bool:
    """Whether items are slices of tensors: nothing is read, nothing drawn."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return type(dataset) is TensorDataset


def len_of(dataset: Any) -> int:
    """Return the length of a map-style Dataset, which torch's type does not promise."""
    return len(dataset)


def _told_classes(dataset: Any) -> Sequence[str] | None:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    return classes if isinstance(classes, (list, tuple)) else None


def _check_same_classes(train: Sequence[str] | None, test: Sequence[str] | None) -> None:
    """Refuse names of test's classes that are others than train's, where a label would mean two things.

    A class whose name is its label has none: one split may tell names and the other numbers, or fewer of them.
    """
    for label, pair in enumerate(zip(train or (), test or (), strict=False)):
        mine, other = map(str, pair)
        unnamed = other == str(label) or (mine == str(label) and not other.isdigit())
        if other != mine and not unnamed:
            raise DataError(
                f"test.classes: got {other} for label {label}, want {mine}, as train has; if the labels agree all the "
                "same, DatasetData(classes=...) names them"
            )


def _check_dataset(name: str, dataset: object) -> None:
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{name}: got an IterableDataset ({type(dataset).__name__}), want a map-style Dataset: selected "
            "samples are read by their index"
        )
    arrays = dataset if isinstance(dataset, (tuple, list)) and len(dataset) == 2 else (dataset,)
    if all(hasattr(each, "__array__") for each in arrays):
        came = " and a ".join(type(each).__name__ for each in arrays)
        raise TypeError(
            f"{name}: got a {came}, want a Dataset of (image, label): TensorDataset(images, labels) makes one of tensors"
        )
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(
            f"{name}: got a {type(dataset).__name__}, want a map-style Dataset, which has __getitem__ and __len__"
        )
    if not len_of(dataset):
        raise ValueError(f"{name}: got no items, want some")
