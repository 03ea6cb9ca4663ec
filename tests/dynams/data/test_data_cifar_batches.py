"""CIFAR-10 from its two older layouts, binary records and pickled dictionaries."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynams.data import DataError, load_data

PROTOCOLS = ["python2", 2, 3, 4, pickle.HIGHEST_PROTOCOL]


def assert_same(data: Any, cifar: Any) -> None:
    for split, images in (("train", data.train), ("test", data.test)):
        assert np.array_equal(images.images.numpy(), cifar.images[split])
        assert np.array_equal(images.labels.numpy(), cifar.labels[split])
        assert images.images.is_contiguous()


def test_records_come_in_the_order_of_the_files(tmp_path: Path, cifar: Any) -> None:
    cifar.write_bin(tmp_path / "cifar-10-batches-bin")
    assert_same(load_data("cifar10", tmp_path), cifar)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_every_writer_are_read(tmp_path: Path, cifar: Any, protocol: int | str) -> None:
    cifar.write_py(tmp_path / "cifar-10-batches-py", protocol)
    batch = pickle.loads(
        (tmp_path / "cifar-10-batches-py/test_batch").read_bytes(), encoding="bytes"
    )
    assert np.array_equal(batch[b"data"], cifar.images["test"].reshape(-1, 3072))
    assert_same(load_data("cifar10", tmp_path), cifar)


def test_all_layouts_of_the_same_images_give_the_same_data(tmp_path: Path, cifar: Any) -> None:
    cifar.write_bin(tmp_path / "bin")
    cifar.write_py(tmp_path / "py")
    cifar.write_parquet(tmp_path / "parquet")
    loaded = [load_data("cifar10", tmp_path / name) for name in ("bin", "py", "parquet")]
    for other in loaded[1:]:
        assert torch.equal(other.train.images, loaded[0].train.images)
        assert torch.equal(other.test.labels, loaded[0].test.labels)
        assert (other.mean, other.std) == (loaded[0].mean, loaded[0].std)
        assert other.train.classes == loaded[0].train.classes


def test_form_is_told_by_content_and_not_by_name(tmp_path: Path, cifar: Any) -> None:
    cifar.write_py(tmp_path / "named as records")
    for file in (tmp_path / "named as records").iterdir():
        file.rename(file.with_name(f"{file.name}.bin"))
    assert_same(load_data("cifar10", tmp_path / "named as records"), cifar)
    cifar.write_bin(tmp_path / "named as pickles")
    for file in (tmp_path / "named as pickles").iterdir():
        file.rename(file.with_suffix(""))
    assert_same(load_data("cifar10", tmp_path / "named as pickles"), cifar)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("text_keys", [False, True])
def test_text_keys_and_column_order_are_understood(
    tmp_path: Path, cifar: Any, order: Any, protocol: int, text_keys: bool
) -> None:
    cifar.write_py(tmp_path)
    labels, rows = cifar.batches()["test_batch"]
    batch: dict[Any, Any] = {"labels": labels.tolist(), "data": np.array(rows, order=order)}
    if not text_keys:
        batch = {key.encode(): value for key, value in batch.items()}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    assert_same(load_data("cifar10", tmp_path), cifar)


def test_limit_takes_the_first_records(tmp_path: Path, cifar: Any) -> None:
    data = load_data("cifar10", cifar.write_bin(tmp_path), limit=7)
    assert np.array_equal(data.train.images.numpy(), cifar.images["train"][:7])


@pytest.mark.parametrize("length", [0, 1, 3072, 3073 * 2 - 1, 3073 * 2 + 10])
def test_a_file_of_wrong_length_is_told_by_file_and_record(
    tmp_path: Path, cifar: Any, length: int
) -> None:
    cifar.write_bin(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:length])
    expected = rf"data_batch_3\.bin: got {length} bytes, .* record {length // 3073} "
    with pytest.raises(DataError, match=expected):
        load_data("cifar10", tmp_path)


def test_a_label_out_of_range_is_told_by_file_and_record(tmp_path: Path, cifar: Any) -> None:
    cifar.write_bin(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    records = bytearray(path.read_bytes())
    records[3 * 3073] = 10
    path.write_bytes(records)
    with pytest.raises(DataError, match=r"data_batch_2\.bin, record 3: got label 10, want 0 to 9"):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize("writer", ["write_bin", "write_py"])
def test_a_missing_batch_is_named(tmp_path: Path, cifar: Any, writer: str) -> None:
    getattr(cifar, writer)(tmp_path)
    missing = next(tmp_path.glob("data_batch_4*"))
    missing.unlink()
    with pytest.raises(DataError, match=rf"{re.escape(missing.name)} is missing"):
        load_data("cifar10", tmp_path)


def test_two_copies_are_refused(tmp_path: Path, cifar: Any) -> None:
    cifar.write_bin(tmp_path / "one")
    cifar.write_py(tmp_path / "two")
    with pytest.raises(DataError, match=r"found CIFAR-10 twice, .*one.* and .*two"):
        load_data("cifar10", tmp_path)
    for file in (tmp_path / "two").iterdir():
        file.unlink()
    cifar.write_parquet(tmp_path / "three")
    with pytest.raises(DataError, match="found CIFAR-10 twice, as parquet and as"):
        load_data("cifar10", tmp_path)
    for file in (tmp_path / "one").iterdir():
        file.unlink()
    cifar.write_parquet(tmp_path / "four")
    with pytest.raises(DataError, match=r"found CIFAR-10 twice, train files in .*four and .*three"):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], r"test_batch: got a pickled list, want a dictionary"),
        ({b"labels": [1]}, r"test_batch: its dictionary has no entry 'data'"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, r"test_batch: .* no entry 'labels'"),
        (
            {b"data": np.zeros((1, 100), np.uint8), b"labels": [1]},
            r"test_batch: got data uint8 of shape \(1, 100\), want uint8 of shape \(n, 3072\)",
        ),
        (
            {b"data": np.zeros((1, 3072), np.int64), b"labels": [1]},
            r"test_batch: got data int64 of shape",
        ),
        ({b"data": b"pixels", b"labels": [1]}, r"test_batch: got data bytes"),
        (
            {b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, 2]},
            r"test_batch: got 2 labels for 3 images, want as many",
        ),
        (
            {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
            r"test_batch: got 0 labels for 0 images, want as many, and at least one",
        ),
        (
            {b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, 2, 10]},
            r"test_batch, record 2: got label 10, want 0 to 9",
        ),
        (
            {b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, b"cat", 2]},
            r"test_batch, record 1: got label a bytes",
        ),
        (
            {b"data": np.zeros((1, 3072), np.uint8), b"labels": "0"},
            r"test_batch: got labels of type str, want a list",
        ),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_mislabelled_or_misshapen_batch_is_told(
    tmp_path: Path, cifar: Any, batch: Any, message: str, protocol: int
) -> None:
    cifar.write_py(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(DataError, match=message):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_pickle_is_named(
    tmp_path: Path, cifar: Any, files: Any, protocol: int | str
) -> None:
    cifar.write_py(tmp_path, protocol)
    path = tmp_path / "data_batch_5"
    whole = path.read_bytes()
    for keep in (2, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"data_batch_5: a damaged pickle"):
            load_data("cifar10", tmp_path)


def test_a_malicious_batch_is_named_and_not_executed(tmp_path: Path, cifar: Any) -> None:
    cifar.write_py(tmp_path)
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Attack(), b"labels": [1]}))
    with pytest.raises(DataError, match=r"data_batch_1: refused: a pickle that asks for"):
        load_data("cifar10", tmp_path)
    assert not marker.exists()
