"""Which layout the data below a path have, and the shards of a split in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from dynams.checks import one_of
from dynams.data.cifar import CLASSES, cifar10_files
from dynams.data.errors import DataError
from dynams.data.folder import split_directories
from dynams.data.folder_shards import folder_shards
from dynams.data.parquet import Columns
from dynams.data.parquet_files import is_parquet, parquet_splits
from dynams.data.parquet_shards import parquet_shards
from dynams.data.places import cannot_be_read, want_directory
from dynams.data.shards import Layout
from dynams.data.tar_shards import TarShards

Split = Literal["train", "test"]
IndexedName = Literal["auto", "folder", "shards", "cifar10"]
# Beside tar shards, which cannot tell names of classes.
CLASSES_FILE = "classes.txt"
_WANTED = "train/<class>/<image>, train-*.tar or train-*.parquet, and val or test likewise, there or one folder below"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")


def find_layout(
    path: Path,
    split: Split | None = "train",
    *,
    name: IndexedName = "auto",
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    classes: Sequence[str] | None = None,
) -> Layout:
    """Find a split below a path.

    Args:
        path: a directory.
        split: which; None: ``path`` holds no splits but folders of classes, or shards.
        name: what is looked for: "folder" (of classes), "shards" (tar or parquet files in ``path`` or in the folders in it),
            "cifar10" (its parquet files anywhere below ``path``), or "auto": shards where there are some, else a folder.
        columns: of parquet files.
        classes: name of every class, in the order of the labels; None: names of folders, what parquet files
            or `classes.txt` beside tar files tell, else numbers.

    Raises:
        ValueError: an argument is none of these, or columns are named and the files have none.
        DataError: there is no such split, or it is not complete.
        ImportError: parquet files, and pyarrow is not installed.
    """
    one_of("name", name, get_args(IndexedName))
    if split is not None:
        one_of("split", split, get_args(Split))
    want_directory(path, _WANTED)
    named = None if classes is None else tuple(map(str, classes))
    if name == "cifar10":
        return _cifar10(path, split, columns)
    shards = [] if name == "folder" else _files(path)
    if not shards:
        if name == "shards":
            raise DataError(f"{path}: found no shards; looked for {_WANTED}")
        columns.refuse("a folder of images, which has no columns")
        return _folder(path, split, named)
    endings = sorted({file.suffix.lower() for file in shards})
    if len(endings) > 1:
        raise DataError(f"{path}: got shards of two kinds, {' and '.join(endings)}, want one")
    if split is not None:
        found = parquet_splits(path, shards, str(path.name), endings[0])
        if not found:
            raise DataError(f"{path}: no shard is named as a split; looked for {_WANTED}")
        shards = found[split]
    if endings == [".parquet"]:
        return parquet_shards(path, shards, columns, named)
    columns.refuse("tar files, which have no columns")
    names = tuple(str(file.relative_to(path)) for file in shards)
    return TarShards(path, names, told_classes(path) if named is None else named)


def _folder(path: Path, split: Split | None, classes: tuple[str, ...] | None) -> Layout:
    directory = path if split is None else split_directories(path)[split == "test"]
    found = folder_shards(path, directory)
    if classes is not None and classes != found.classes:
        raise DataError(
            f"{directory}: got folders {', '.join(found.classes)}, want {', '.join(classes)}"
        )
    return found


def _cifar10(path: Path, split: Split | None, columns: Columns) -> Layout:
    files = cifar10_files(path)["train" if split is None else split]
    if not is_parquet(files[0]):
        raise DataError(
            f"{files[0]}: got CIFAR-10 as batches of pixels, want its parquet files: there is nothing to decode, "
            "data.storage disk keeps them in a file"
        )
    return parquet_shards(path, files, columns, CLASSES)


def told_classes(path: Path) -> tuple[str, ...] | None:
    """Names of the classes in a file beside tar shards, one a line; None: there is none.

    Raises:
        DataError: it cannot be read, or has an empty line.
    """
    file = path / CLASSES_FILE
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_be_read(file, error) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: got text that is not UTF-8, want the name of a class in each line"
        ) from error
    if "" in lines:
        raise DataError(
            f"{file}: got no name for label {lines.index('')}, want the name of a class in each line"
        )
    return tuple(lines)


def _files(path: Path) -> list[Path]:
    """Shards in a directory and in the folders in it, sorted; of a folder of classes no files are listed."""
    found = _shards_in(path)
    for folder in sorted(entry for entry in path.iterdir() if not entry.name.startswith(".")):
        if folder.is_dir():
            found += _shards_in(folder)
    return sorted(found)


def _shards_in(folder: Path) -> list[Path]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                file = folder / entry.name
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(_COMPRESSED):
                    raise DataError(f"{file}: got a compressed tar file, want an uncompressed one")
                if is_parquet(file) or file.suffix.lower() == ".tar":
                    found.append(file)
    except OSError as error:
        raise cannot_be_read(folder, error) from error
    return found
