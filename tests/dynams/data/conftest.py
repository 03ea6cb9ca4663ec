"""Writers of small real files in every layout that the readers know."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def encode(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """Pixels (H, W, 3) uint8 as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


class Cifar:
    """Random images (N, 3, 32, 32) uint8 and labels (N,) with every layout's writer."""

    def __init__(self, train: int = 25, test: int = 10, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.images = {
            "train": rng.integers(0, 256, (train, 3, 32, 32), dtype=np.uint8),
            "test": rng.integers(0, 256, (test, 3, 32, 32), dtype=np.uint8),
        }
        self.labels = {
            "train": rng.integers(0, 10, train),
            "test": rng.integers(0, 10, test),
        }

    def blobs(self, split: str, form: str = "PNG") -> list[bytes]:
        return [encode(image.transpose(1, 2, 0), form) for image in self.images[split]]

    def batches(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The files of the two batch layouts: labels and rows of pixels."""
        parts = {"test_batch": (self.labels["test"], self.images["test"].reshape(-1, 3072))}
        labels = np.array_split(self.labels["train"], 5)
        images = np.array_split(self.images["train"].reshape(-1, 3072), 5)
        for number, part in enumerate(zip(labels, images, strict=True), 1):
            parts[f"data_batch_{number}"] = part
        return parts

    def write_parquet(self, directory: Path, form: str = "PNG", shards: int = 1) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            count = shards if split == "train" else 1
            blobs = np.array_split(np.array(self.blobs(split, form), dtype=object), count)
            labels = np.array_split(self.labels[split], count)
            for number in range(count):
                write_table(
                    directory / f"{split}-{number:05d}-of-{count:05d}.parquet",
                    list(blobs[number]),
                    labels[number].tolist(),
                )
        return directory

    def write_bin(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        for name, (labels, rows) in self.batches().items():
            records = np.concatenate([labels.astype(np.uint8)[:, None], rows], axis=1)
            (directory / f"{name}.bin").write_bytes(records.tobytes())
        return directory

    def write_py(self, directory: Path, protocol: int | str = 2) -> Path:
        """With a protocol of Python 3's pickle, or "python2" for what Python 2 wrote."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, (labels, rows) in self.batches().items():
            (directory / name).write_bytes(pickled_batch(labels, rows, protocol))
        return directory


def write_table(path: Path, blobs: list[bytes | None], labels: list[int | None]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": blob, "path": f"{row}.png"} for row, blob in enumerate(blobs)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"img": pa.array(images, kind), "label": pa.array(labels, pa.int64())})
    pq.write_table(table, path, row_group_size=7)


def pickled_batch(labels: np.ndarray, rows: np.ndarray, protocol: int | str) -> bytes:
    if protocol == "python2":
        return python2_batch(labels.tolist(), rows)
    batch = {
        b"batch_label": b"a batch",
        b"labels": labels.tolist(),
        b"data": np.ascontiguousarray(rows),
        b"filenames": [b"%d.png" % row for row in range(len(labels))],
    }
    return pickle.dumps(batch, protocol)


def python2_batch(labels: list[int], rows: np.ndarray) -> bytes:
    """The instructions that Python 2's cPickle and NumPy 1 wrote for such a dictionary."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    data = np.ascontiguousarray(rows).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x04(cnumpy\nndarray\nq\x05K\x00\x85q\x06"
        + text(b"b")
        + b"tRq\x07(K\x01"
        + number(rows.shape[0])
        + number(rows.shape[1])
        + b"\x86cnumpy\ndtype\nq\x08("
        + text(b"u1")
        + b"K\x00K\x01tRq\x09(K\x03"
        + text(b"|")
        + b"NNN"
        + number(-1)
        + number(-1)
        + b"K\x00tb\x89T"
        + struct.pack("<i", len(data))
        + data
        + b"tb"
    )
    items = b"".join(b"K" + bytes([label]) for label in labels)
    names = b"".join(text(b"%d.png" % row) for row in range(len(labels)))
    return (
        b"\x80\x02}q\x01("
        + text(b"batch_label")
        + text(b"training batch 1 of 5")
        + text(b"labels")
        + b"]q\x02("
        + items
        + b"e"
        + text(b"data")
        + array
        + text(b"filenames")
        + b"]("
        + names
        + b"eu."
    )


class Files:
    """The writers, for tests to take as one fixture."""

    Cifar = Cifar
    encode = staticmethod(encode)
    write_table = staticmethod(write_table)
    pickled_batch = staticmethod(pickled_batch)

    @staticmethod
    def write_folder(
        root: Path,
        classes: tuple[str, ...] = ("cat", "ant", "bee"),
        size: tuple[int, int] = (12, 12),
        count: int = 4,
        test_name: str = "val",
        seed: int = 0,
    ) -> dict[Path, np.ndarray]:
        """Random PNG pictures of (height, width) ``size``; their pixels by file."""
        rng = np.random.default_rng(seed)
        written = {}
        for split in ("train", test_name):
            for name in classes:
                folder = root / split / name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                    file = folder / f"{number}.png"
                    file.write_bytes(encode(pixels))
                    written[file] = pixels
        return written


@pytest.fixture
def files() -> type[Files]:
    return Files


@pytest.fixture
def cifar() -> Cifar:
    return Cifar()
