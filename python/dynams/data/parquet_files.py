"""Which parquet files make up a split: one complete set of files, or an error that lists what was found.

Known are the names that the Hugging Face hub gives: `train-00000-of-00002.parquet`, with a hash of its own behind
each shard's number (`train-00000-of-00002-a09b74b3ef9c3b56.parquet`), and `train/0000.parquet`, `train/0001.parquet`
of its own conversion; besides `train.parquet` and `train-0.parquet`, `train-1.parquet`. Any may have a name and a
hyphen before it (`cifar10-train.parquet`). Nothing is put together from two sets, since images would count twice.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dynams.data.errors import DataError, printable

# What accuracy is measured on: the first of these that is there.
_TEST_NAMES = ("test", "validation", "valid", "val")
_SPLITS = ("train", *_TEST_NAMES)
_SHARD = re.compile(r"(?:(?P<head>.+)-)?(?P<number>\d+)-of-(?P<total>\d+)(?P<hash>-[0-9a-f]{4,})?")
_NUMBERED = re.compile(r"(?:(?P<head>.+)[-_])?(?P<number>\d+)")
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLITS)})(?![a-z])", re.IGNORECASE)
_MOST_LISTED = 8
_LOG = logging.getLogger(__name__)


@dataclass
class _Family:
    """Files that were written together, as far as their names tell."""

    folder: Path
    total: int | None
    files: dict[int, list[Path]] = field(default_factory=dict)


@dataclass
class _Split:
    families: dict[object, _Family] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)

    def files(self) -> list[Path]:
        listed = [
            file
            for each in self.families.values()
            for file in sum(each.files.values(), list[Path]())
        ]
        return sorted([*listed, *self.strays])


def is_parquet(file: Path) -> bool:
    """Tell whether a file is one by its name; hidden ones (what a system left beside another) are none."""
    return file.suffix.lower() == ".parquet" and not file.name.startswith(".")


def parquet_splits(
    root: Path, files: Iterable[Path], what: str = "CIFAR-10", ending: str = ".parquet"
) -> dict[str, list[Path]]:
    """Find the splits "train" and "test" among parquet files, each in the order of its rows.

    Args:
        root: that messages name files relative to.
        files: all parquet files below it, or others that are named so.
        what: they hold, for messages.
        ending: of the files, for messages.

    Returns:
        The files of both; empty: none is named as a split.

    Raises:
        DataError: the files of a split are no one complete set, or only one split is there.
    """
    splits = {name: _Split() for name in _SPLITS}
    for file in files:
        _sort_in(file, splits)
    there = [name for name in _SPLITS if splits[name].files()]
    if not there:
        return {}
    test = next((name for name in _TEST_NAMES if name in there), "test")
    for name, split in (("train", splits["train"]), (test, splits[test])):
        if not split.files():
            listed = listing(root, [file for each in there for file in splits[each].files()])
            raise DataError(f"{root}: {name}-*{ending} is missing; found {listed}")
    for name in there:
        if name not in ("train", test):
            where = printable(str(root))
            _LOG.warning(
                "%s: left out the %s images: accuracy is measured on %s", where, name, test
            )
    return {
        name: _one(root, real, splits[real], what)
        for name, real in (("train", "train"), ("test", test))
    }


def listing(root: Path, files: Sequence[Path]) -> str:
    """Name files relative to ``root``; of many, the first."""
    names = [str(file.relative_to(root)) for file in files[:_MOST_LISTED]]
    more = len(files) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _sort_in(file: Path, splits: dict[str, _Split]) -> None:
    shard, numbered = _SHARD.fullmatch(file.stem), _NUMBERED.fullmatch(file.stem)
    match = shard or numbered
    head = file.stem if match is None else match["head"] or ""
    of, _, name = head.rpartition("-")
    if not head:
        name = file.parent.name
    if name not in splits:
        partial = file.parent.name.removeprefix("partial-")  # The hub's first part of a large set.
        word = _WORD.search(file.stem)
        claimed = word[1].lower() if word else partial
        if claimed in splits:
            splits[claimed].strays.append(file)
        return
    total = None if shard is None else int(shard["total"])
    hashed = shard is not None and shard["hash"] is not None
    key = (file.parent, of, total, hashed, match is None)
    family = splits[name].families.setdefault(key, _Family(file.parent, total))
    number = 0 if match is None else int(match["number"])
    family.files.setdefault(number, []).append(file)


def _one(root: Path, name: str, split: _Split, what: str) -> list[Path]:
    """Return the files of the one complete set of a split."""
    listed = listing(root, split.files())
    folders = sorted({family.folder for family in split.families.values()})
    if len(folders) > 1:
        raise DataError(
            f"{root}: found {what} twice, {name} files in {' and '.join(map(str, folders))}; name the "
            "directory of one"
        )
    one = f"want one complete set of {name} files; found {listed}"
    if split.strays:
        raise DataError(f"{root}: {split.strays[0].relative_to(root)} is no part of a set, {one}")
    families = list(split.families.values())
    if len(families) > 1:
        raise DataError(f"{root}: got {len(families)} sets of {name} files side by side, {one}")
    (family,) = families
    numbers = sorted(family.files)
    total = numbers[-1] + 1 if family.total is None else family.total
    missing = next((number for number in range(total) if number not in family.files), None)
    if missing is not None:
        raise DataError(
            f"{family.folder}: {name} is split into {total} files and number {missing} is missing, {one}"
        )
    for number in numbers:
        if len(family.files[number]) > 1 or number >= total:
            what = "is no part" if number >= total else "is there twice"
            raise DataError(
                f"{family.folder}: {name} is split into {total} files and number {number} {what}, {one}"
            )
    return [family.files[number][0] for number in numbers]
