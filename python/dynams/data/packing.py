"""Images of any layout as tar shards: where single images are read at random, a row group is much to read for one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from dynams.checks import one_of, whole
from dynams.data.errors import DataError
from dynams.data.indexed import IndexedImages
from dynams.data.layouts import CLASSES_FILE, told_classes
from dynams.data.tar_shards import IMAGES
from dynams.files import replace_file, replacing
from dynams.paths import told_path

_AT_ONCE = 256
_BEGINNINGS = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))


def write_shards(
    images: IndexedImages,
    directory: Path | str,
    split: str = "train",
    *,
    images_a_shard: int = 10_000,
) -> list[Path]:
    """Copy encoded images, as they are, into tar files `SPLIT-00000-of-00012.tar`, in the order of their numbers.

    Names of classes go to `classes.txt` beside them, once for both splits. Every file is there whole or not at all, and their number is
    part of their names, so that a set that was cut short is refused when it is read.

    Args:
        images: what to copy; numbers of samples stay, transforms are not applied.
        directory: where to; made if need be.
        split: "train" or "test".
        images_a_shard: how many go into a file; the last has what is left.

    Returns:
        The files.

    Raises:
        DataError: an image cannot be read, or is neither JPEG, PNG nor WebP; or the name of a class is no line, or
            another than what the other split wrote.
        StorageError: a file cannot be written.
    """
    one_of("split", split, ("train", "test"))
    each = whole("images_a_shard", images_a_shard, 1)
    folder = told_path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    total = -(-len(images) // each)
    files = [folder / f"{split}-{shard:05d}-of-{total:05d}.tar" for shard in range(total)]
    _write_classes(folder / CLASSES_FILE, images.classes)
    for shard, file in enumerate(files):
        with replacing(file) as opened, tarfile.open(fileobj=opened, mode="w") as tar:
            stop = min(len(images), (shard + 1) * each)
            for start in range(shard * each, stop, _AT_ONCE):
                rows = range(start, min(stop, start + _AT_ONCE))
                for row, encoded in zip(rows, images.encoded(rows), strict=True):
                    _add(tar, f"{row:09d}.{_ending(encoded, images.where(row))}", encoded)
                    _add(tar, f"{row:09d}.cls", str(int(images.labels[row])).encode())
                    tar.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
    return files


def _write_classes(file: Path, classes: tuple[str, ...]) -> None:
    """Write the names, or the more of them; those that are there already must be the same."""
    for label, name in enumerate(classes):
        if name.splitlines() != [name]:
            raise DataError(f"{file}: got {name!r} for label {label}, want a name of one line")
    there = told_classes(file.parent) or ()
    for label, (name, other) in enumerate(zip(classes, there, strict=False)):
        if name != other:
            raise DataError(
                f"{file}: got {name} for label {label}, want {other}, as is written there already; remove it if that "
                "is of other images"
            )
    if len(classes) > len(there):
        replace_file(file, "".join(f"{name}\n" for name in classes).encode())


def _ending(encoded: bytes, where: str) -> str:
    for beginning, ending in _BEGINNINGS:
        if encoded.startswith(beginning):
            return ending
    raise DataError(
        f"{where}: got neither JPEG, PNG nor WebP, want an image for {', '.join(IMAGES)}"
    )


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
