"""What a user's Datasets are taken for, and which are refused, by name."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from dynams.data import DataError
from dynams.data.datasets import (
    DatasetData,
    as_datasets,
    class_names,
    image_and_label,
    in_memory,
    told_labels,
)
from dynams.data.seeding import drawn_apart


class Told(Dataset):
    """Has its labels under a name of choice."""

    def __init__(self, count: int = 6, **attributes) -> None:
        self.count = count
        vars(self).update(attributes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return torch.zeros(2), index % 3


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(2), 0


def test_a_pair_is_short_for_the_dataclass() -> None:
    train, test = Told(), Told(3)
    data = as_datasets((train, test))
    assert (data.train, data.test, data.scored) == (train, test, None)
    assert as_datasets(data) is data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, r"data: got a int, want ImageData, DatasetData or a pair"),
        ((Told(), Told(), Told()), r"data: got a tuple of 3, want"),
        ((Stream(), Told()), r"train: got an IterableDataset \(Stream\), want a map-style Dataset"),
        ((Told(), 3), r"test: got a int, want a map-style Dataset"),
        (
            ((np.zeros((6, 2)), np.zeros(6)), Told()),
            r"train: got a ndarray and a ndarray, want .*: TensorDataset\(images, labels\) makes",
        ),
        ((torch.zeros(6, 2), torch.zeros(6)), r"train: got a Tensor, want a Dataset of \(image"),
    ],
)
def test_what_is_no_pair_of_map_style_datasets_is_refused(data, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_datasets(data)


def test_lengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scored: got 5 items, want those of train, 6"):
        DatasetData(Told(6), Told(), scored=Told(5))
    with pytest.raises(ValueError, match=r"test: got no items"):
        DatasetData(Told(), Told(0))
    with pytest.raises(TypeError, match=r"classes: got int, want the names in a list"):
        DatasetData(Told(), Told(), classes=10)


LABELS = [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "dataset",
    [
        Told(targets=LABELS),
        Told(targets=np.array(LABELS, np.uint8)),
        Told(labels=torch.tensor(LABELS, dtype=torch.int32)),
        TensorDataset(torch.zeros(6, 2), torch.tensor(LABELS)),
        Subset(Told(9, targets=[5, 2, *LABELS, 4]), range(2, 8)),
        Subset(Subset(Told(6, targets=LABELS[::-1]), [5, 4, 3, 2, 1, 0]), torch.arange(6)),
        ConcatDataset([Told(2, targets=[0, 1]), Told(4, labels=[2, 0, 1, 2])]),
    ],
)
def test_labels_are_found_where_datasets_tell_them(dataset) -> None:
    labels = told_labels(dataset)
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS


@pytest.mark.parametrize(
    "dataset",
    [
        Told(),
        Told(targets=[0, 1]),
        Told(targets=[0.0, 1.0, 2.0, 0.0, 1.0, 2.0]),
        Told(targets=[[0, 1]] * 6),
        Told(targets=["cat"] * 6),
        Told(labels="cat, dog"),
        TensorDataset(torch.zeros(6, 2)),
        ConcatDataset([Told(2, targets=[0, 1]), Told(4)]),
    ],
)
def test_what_is_not_one_whole_number_an_item_is_not_taken_for_labels(dataset) -> None:
    assert told_labels(dataset) is None


def test_class_names_come_from_the_user_the_dataset_or_the_labels() -> None:
    train, test = torch.tensor([0, 2, 1]), torch.tensor([1, 3])
    assert class_names(DatasetData(Told(), Told()), train, test) == ("0", "1", "2", "3")
    named = Subset(Told(classes=["a", "b", "c", "d"]), range(3))
    assert class_names(DatasetData(named, Told()), train, test) == ("a", "b", "c", "d")
    given = DatasetData(named, Told(), classes="wxyz")
    assert class_names(given, train, test) == ("w", "x", "y", "z")


def test_labels_outside_the_classes_name_their_item() -> None:
    data = DatasetData(Told(), Told(), classes=("a", "b"))
    with pytest.raises(DataError, match=r"test\[1\]: got label 2, want 0 to 1"):
        class_names(data, torch.tensor([0, 1]), torch.tensor([1, 2]))
    with pytest.raises(DataError, match=r"train\[0\]: got label -1, want 0 to 1"):
        class_names(data, torch.tensor([-1, 1]), torch.tensor([1]))
    with pytest.raises(DataError, match=r"classes: got 1, want at least 2"):
        class_names(DatasetData(Told(), Told()), torch.tensor([0, 0]), torch.tensor([0]))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("abc", "ac", "test.classes: got c for label 1, want b, as train has"),
        ("012", "02", "test.classes: got 2 for label 1, want 1, as train has"),
        ("abc", "ab", None),
        ("abc", "012", None),  # what shards without names have
        ("012", "abc", None),
        ("012", "01", None),
    ],
)
def test_a_label_means_the_same_class_in_both_splits(
    train: str, test: str, message: str | None
) -> None:
    """Folders of a class that one split has not shift the labels of all that come after it."""
    labels = torch.tensor([0, 1])
    data = DatasetData(Told(classes=list(train)), Told(classes=list(test)))
    if message is not None:
        with pytest.raises(DataError, match=message):
            class_names(data, labels, labels)
        data = DatasetData(data.train, data.test, classes=list(train))
    assert class_names(data, labels, labels) == tuple(train)


def test_labels_that_number_no_classes_are_refused_and_not_counted_up_to() -> None:
    with pytest.raises(
        DataError, match=r"train\[1\]: got label 9000000000000000, want 0 to 1048575"
    ):
        class_names(
            DatasetData(Told(), Told()), torch.tensor([0, 9 * 10**15]), torch.tensor([1, 0])
        )


def test_classes_that_nothing_is_trained_on_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data = DatasetData(Told(), Told())
    class_names(data, torch.tensor([1, 2, 0]), torch.tensor([1]))
    assert not caplog.text
    class_names(data, torch.tensor([1, 2, 4]), torch.tensor([5]))
    assert "train: got no sample of 3 of 6 classes (0 is one), want some of each" in caplog.text


@pytest.mark.parametrize("label", [2, np.int64(2), torch.tensor(2), np.uint8(2)])
def test_labels_may_be_any_whole_number(label) -> None:
    image, number = image_and_label((torch.zeros(2), label), "train[0]")
    assert (image.shape, number, type(number)) == ((2,), 2, int)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": 1}, r"train\[4\]: got a dict, want \(image, label\)"),
        ((torch.zeros(1), 1, 2), r"train\[4\]: got a tuple of 3, want \(image, label\)"),
        ((np.zeros(1), 1), r"train\[4\]: got an image of type ndarray, want a tensor"),
        ((torch.zeros(1), 1.5), r"train\[4\]: got the label 1\.5, want a whole number"),
        ((torch.zeros(1), torch.tensor([1, 0])), r"train\[4\]: got the label tensor"),
    ],
)
def test_items_that_are_not_image_and_label_are_named(item, message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_and_label(item, "train[4]")


def test_only_slices_of_tensors_are_in_memory() -> None:
    tensors = TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    assert in_memory(tensors)
    assert in_memory(Subset(tensors, [0, 1]))
    assert not in_memory(Told())


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_draws_are_seeded_and_the_generators_are_as_they_were() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with drawn_apart() as seed:
        seed(2**63 - 1)
        first = draws()
        seed(5)
        other = draws()
        seed(2**63 - 1)
        assert draws() == first
    assert len({*first, *other}) == 6
    assert draws() == expected
