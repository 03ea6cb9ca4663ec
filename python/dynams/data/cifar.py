"""CIFAR-10 in any of the three forms in which it is distributed, told apart by what the files hold.

- parquet files of the Hugging Face hub (`parquet`);
- `cifar-10-batches-bin`: records of one label byte and 3,072 pixel bytes;
- `cifar-10-batches-py`: pickled dictionaries (`unpickle`).

(A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dynams.data.augmentation import Augmentation
from dynams.data.errors import DataError
from dynams.data.parquet import Columns, parquet_split
from dynams.data.parquet_files import is_parquet, listing, parquet_splits
from dynams.data.places import FilesBelow, cannot_be_read, files_below, want_file
from dynams.data.source import Bytes, Rows, Source, Sources, check_labels
from dynams.data.unpickle import unpickle

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SHAPE = (3, 32, 32)
AUGMENTATION = Augmentation(crop_padding=4, flip=True)
_PIXELS = 3 * 32 * 32
_PICKLED = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_BATCH_NAMES = frozenset(name for names in _BATCHES.values() for name in names)
_WANTED = (
    "CIFAR-10 as train-*.parquet and test-*.parquet, as train/0000.parquet and test/0000.parquet, as "
    "data_batch_1.bin to data_batch_5.bin and test_batch.bin (cifar-10-batches-bin), or as data_batch_1 "
    "to data_batch_5 and test_batch (cifar-10-batches-py)"
)


def cifar10(path: Path, columns: Columns = Columns()) -> Sources:  # noqa: B008 (frozen)
    """Find and check CIFAR-10 in the files anywhere below ``path``.

    Args:
        path: a directory.
        columns: of parquet files.

    Raises:
        ImportError: parquet files, and pyarrow or Pillow is not installed.
        ValueError: columns are named, and the files are not parquet's.
        DataError: nothing found, several copies found, a file missing, damaged or mislabelled.
    """
    splits = {}
    for split, files in cifar10_files(path).items():
        name = f"cifar10 {split}"
        for file in files:
            want_file(file)
        if is_parquet(files[0]):
            splits[split] = parquet_split(name, files, path, CLASSES, SHAPE, columns)
        else:
            columns.refuse(f"{files[0].name}, which has no columns")
            splits[split] = _batches(name, files, path)
    return Sources(splits["train"], splits["test"], AUGMENTATION)


def cifar10_files(path: Path) -> dict[str, list[Path]]:
    """Find the files of each split, in order, all of one copy.

    Raises:
        DataError: nothing found, several copies found or a file missing.
    """
    below = files_below(path, lambda file: is_parquet(file) or _is_batch(file))
    try:
        return _found(path, below)
    except DataError as error:
        if not below.unreadable:
            raise
        raise DataError(f"{error}; could not look into {', '.join(below.unreadable)}") from error


def _is_batch(file: Path) -> bool:
    return file.stem in _BATCH_NAMES and file.suffix in ("", ".bin")


def _found(path: Path, below: FilesBelow) -> dict[str, list[Path]]:
    tables = [file for file in below.files if is_parquet(file)]
    batches: dict[str, Path] = {}
    for file in below.files:
        if _is_batch(file):
            if file.stem in batches:
                raise DataError(
                    f"{path}: found CIFAR-10 twice, {batches[file.stem]} and {file}; name the "
                    "directory of one"
                )
            batches[file.stem] = file
    parquet = parquet_splits(path, tables)
    if parquet and batches:
        raise DataError(
            f"{path}: found CIFAR-10 twice, as parquet and as {sorted(batches.values())[0]}; name "
            "the directory of one"
        )
    if parquet:
        return parquet
    if not batches:
        others = f"; found parquet files of other names: {listing(path, tables)}" if tables else ""
        raise DataError(f"{path}: none of the known files found; looked for {_WANTED}{others}")
    for name in sorted(_BATCH_NAMES):
        if name not in batches:
            suffix = next(iter(batches.values())).suffix
            raise DataError(f"{path}: {name}{suffix} is missing; looked for {_WANTED}")
    return {split: [batches[name] for name in names] for split, names in _BATCHES.items()}


def _batches(name: str, files: Sequence[Path], root: Path) -> Source:
    read = [_batch_reader(file)(file) for file in files]
    starts = np.cumsum([0, *(len(labels) for labels, _ in read)])

    def chunks(rows: Rows) -> Iterator[Bytes]:
        for (_, images), start, stop in zip(read, starts, starts[1:], strict=False):
            wanted = rows[(rows >= start) & (rows < stop)] - start
            if len(wanted):
                yield images[wanted].reshape(-1, *SHAPE)

    return Source(
        name=name,
        classes=CLASSES,
        labels=np.concatenate([labels for labels, _ in read]),
        shape=SHAPE,
        chunks=chunks,
        files=tuple(files),
        root=root,
    )


def _batch_reader(file: Path) -> Callable[[Path], tuple[Rows, Bytes]]:
    """Tell a file's form: pickles begin with byte 128, which is no label, and their protocol, which is 2 or later."""
    try:
        with file.open("rb") as opened:
            head = opened.read(2)
    except OSError as error:
        raise cannot_be_read(file, error) from error
    return _pickled if head in _PICKLED else _records


def _records(file: Path) -> tuple[Rows, Bytes]:
    """Read labels (n,) and pixels (n, 3072) of a file of records."""
    data = np.frombuffer(file.read_bytes(), np.uint8)
    size = 1 + _PIXELS
    if not len(data) or len(data) % size:
        raise DataError(
            f"{file}: got {len(data)} bytes, want a multiple of {size} (a label and 3 x 32 x 32 "
            f"pixels a record); record {len(data) // size} is cut short or the file is of another "
            "kind"
        )
    records = data.reshape(-1, size)
    labels = records[:, 0].astype(np.int64)
    check_labels(labels, len(CLASSES), str(file), "record")
    return labels, records[:, 1:]


def _pickled(file: Path) -> tuple[Rows, Bytes]:
    """Read labels (n,) and pixels (n, 3072) of a pickled batch."""
    try:
        batch = unpickle(file.read_bytes())
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    if not isinstance(batch, dict):
        raise DataError(f"{file}: got a pickled {type(batch).__name__}, want a dictionary")
    # Python 2 wrote the keys as bytes, copies made by Python 3 may have text.
    entries = {
        key.decode("latin-1") if isinstance(key, bytes) else key: batch[key] for key in batch
    }
    for key in ("data", "labels"):
        if key not in entries:
            raise DataError(f"{file}: its dictionary has no entry {key!r}")
    images, labels = entries["data"], entries["labels"]
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 2
        or images.shape[1] != _PIXELS
    ):
        what = (
            f"{images.dtype} of shape {images.shape}"
            if isinstance(images, np.ndarray)
            else type(images).__name__
        )
        raise DataError(f"{file}: got data {what}, want uint8 of shape (n, {_PIXELS})")
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list):
        raise DataError(f"{file}: got labels of type {type(labels).__name__}, want a list")
    if len(labels) != len(images) or not labels:
        raise DataError(
            f"{file}: got {len(labels)} labels for {len(images)} images, want as many, and at least one"
        )
    for record, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASSES):
            got = label if type(label) is int else f"a {type(label).__name__}"
            raise DataError(
                f"{file}, record {record}: got label {got}, want 0 to {len(CLASSES) - 1}"
            )
    return np.array(labels, np.int64), images
