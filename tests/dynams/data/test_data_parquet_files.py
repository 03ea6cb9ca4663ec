"""Which parquet files make up a split, told by their names alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from dynams.data import DataError, load_data
from dynams.data.parquet_files import parquet_splits

ROOT = Path("data")
HASHES = ("a09b74b3ef9c3b56", "b1c2d3e4f5a60718", "0123456789abcdef")
TEST = ["test-00000-of-00001.parquet"]


def splits(names: list[str]) -> dict[str, list[str]]:
    found = parquet_splits(ROOT, [ROOT / name for name in sorted(names)])
    return {
        split: [str(file.relative_to(ROOT)) for file in files] for split, files in found.items()
    }


@pytest.mark.parametrize(
    "train",
    [
        ["train.parquet"],
        ["cifar10-train.parquet"],
        ["data/train-00000-of-00001.parquet"],
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        # The hub gives every shard a hash of its own.
        [f"train-0000{n}-of-00003-{HASHES[n]}.parquet" for n in range(3)],
        [f"train-0000{n}-of-00002-{HASHES[0]}.parquet" for n in range(2)],
        ["plain_text/train/0000.parquet", "plain_text/train/0001.parquet"],
        ["train/train-00000-of-00001.parquet"],
        [f"train-{n}.parquet" for n in range(12)],  # Not in the order of the alphabet.
    ],
)
def test_a_complete_set_of_any_layout_is_taken_in_the_order_of_its_numbers(
    train: list[str],
) -> None:
    others = ["notes.parquet", "trainer.parquet", "latest.parquet"]
    assert splits([*train, *TEST, *others]) == {"train": train, "test": TEST}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([f"train-00000-of-00002-{HASHES[0]}"], "2 files and number 1 is missing"),
        (["train-00001-of-00002"], "2 files and number 0 is missing"),
        (["train/0000", "train/0002"], "3 files and number 1 is missing"),
        (["train/0001"], "2 files and number 0 is missing"),
        (["train-00000-of-00002", "train-00001-of-00003"], "got 2 sets of train files"),
        (
            [
                f"train-0000{n}-of-0000{total}"
                for n, total in ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
            ],
            "got 2 sets of train files",
        ),
        ([f"train-00000-of-00001-{each}" for each in HASHES[:2]], "number 0 is there twice"),
        (["train-00000-of-00001", f"train-00000-of-00001-{HASHES[0]}"], "got 2 sets"),
        (["train", "train-00000-of-00001"], "got 2 sets of train files"),
        (["train", "cifar10-train"], "got 2 sets of train files"),
        (["train-0000", "train-00000"], "number 0 is there twice"),
        (["train-00000-of-00001", "train-00001-of-00001"], "1 files and number 1 is no part"),
        (["train-00000-of-00001", "train-00000-of-00001 (1)"], r"\(1\)\.parquet is no part"),
        (["train-00000-of-00001", "train-00000-of-00001 copy"], "copy.parquet is no part"),
        (["train-00000-of-00001", "Copy of train-00000-of-00001"], "is no part of a set"),
        (["train", "train(1)"], r"train\(1\)\.parquet is no part of a set"),
        (["train", "train_old"], r"train_old\.parquet is no part of a set"),
        (["partial-train/0000"], "partial-train/0000.parquet is no part of a set"),
        (["train/images"], "train/images.parquet is no part of a set"),
        (["a/train", "b/train"], "found CIFAR-10 twice, train files in data/a and data/b"),
        (["en/train/0000", "de/train/0000"], "twice, train files in data/de/train and data/en"),
    ],
)
def test_files_that_are_no_one_complete_set_are_listed(train: list[str], message: str) -> None:
    names = [f"{name}.parquet" for name in train]
    with pytest.raises(DataError, match=message) as caught:
        splits([*names, *TEST])
    listed = [names[-1]] if "twice, train files in" not in message else []
    assert all(name in str(caught.value) for name in listed)


def test_a_long_list_is_cut() -> None:
    with pytest.raises(DataError, match=r"number 0 is missing.*-of-00100\.parquet and 91 more"):
        splits([f"train-{n:05d}-of-00100.parquet" for n in range(1, 100)] + TEST)


def test_a_split_that_is_missing_is_told_with_what_is_there() -> None:
    with pytest.raises(DataError, match=r"test-\*\.parquet is missing; found train\.parquet"):
        splits(["train.parquet"])
    with pytest.raises(DataError, match=r"train-\*\.parquet is missing; found test-00000"):
        splits(TEST)
    assert splits(["images.parquet"]) == {}


def test_validation_stands_in_for_test_and_is_told_where_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    validation = ["validation/0000.parquet"]
    assert splits(["train.parquet", *validation])["test"] == validation
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert splits(["train.parquet", *TEST, *validation])["test"] == TEST
    assert "left out the validation images" in caplog.text


def test_the_hubs_own_conversion_is_read(tmp_path: Path, cifar: Any) -> None:
    cifar.write_parquet(tmp_path, shards=2)
    for split, count in (("train", 2), ("test", 1)):
        folder = tmp_path / "plain_text" / split
        folder.mkdir(parents=True)
        for number in range(count):
            file = tmp_path / f"{split}-{number:05d}-of-{count:05d}.parquet"
            file.rename(folder / f"{number:04d}.parquet")
    (tmp_path / "plain_text" / "train" / "._0000.parquet").write_bytes(b"of a system")
    data = load_data("cifar10", tmp_path)
    assert data.train.labels.tolist() == cifar.labels["train"].tolist()
    (tmp_path / "plain_text/train/0000.parquet").unlink()
    with pytest.raises(DataError, match=r"train: train is split into 2 files and number 0"):
        load_data("cifar10", tmp_path)
