"""Small sets of encoded pictures in every layout that an index knows, and what Pillow makes of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray, form: str = "JPEG", **options: object) -> bytes:
    """Pixels (H, W, 3) or (H, W) uint8 as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(blob: bytes) -> np.ndarray:
    """An encoded picture as (3, H, W) RGB bytes."""
    with Image.open(io.BytesIO(blob)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures and their labels, class by class, so that they have one order in every layout."""

    blobs: list[bytes]
    labels: list[int]

    @classmethod
    def made(
        cls, count: int, *, size: tuple[int, int] = (20, 24), classes: int = 3, seed: int = 0
    ) -> Pictures:
        """Noise of (height, width) ``size``; every third is a PNG."""
        rng = np.random.default_rng(seed)
        blobs = [
            encode(
                rng.integers(0, 256, (*size, 3), dtype=np.uint8), "PNG" if row % 3 == 1 else "JPEG"
            )
            for row in range(count)
        ]
        return cls(blobs, sorted(row % classes for row in range(count)))

    def write_folder(self, directory: Path) -> None:
        for row, (blob, label) in enumerate(zip(self.blobs, self.labels, strict=True)):
            folder = directory / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row:05d}.img").write_bytes(blob)

    def write_parquet(self, directory: Path, split: str, shards: int = 2, group: int = 4) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        directory.mkdir(parents=True, exist_ok=True)
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        for shard, rows in enumerate(np.array_split(np.arange(len(self.blobs)), shards)):
            images = pa.array([{"bytes": self.blobs[row], "path": "x"} for row in rows], kind)
            labels = pa.array([self.labels[row] for row in rows], pa.int64())
            file = directory / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            pq.write_table(pa.table({"image": images, "label": labels}), file, row_group_size=group)

    def write_tar(self, directory: Path, split: str, shards: int = 2) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for shard, rows in enumerate(np.array_split(np.arange(len(self.blobs)), shards)):
            members: list[tuple[str, bytes]] = []
            for row in rows.tolist():
                ending = "png" if self.blobs[row].startswith(b"\x89PNG") else "jpg"
                label = (f"{row:05d}.cls", str(self.labels[row]).encode())
                if row % 4 == 3:
                    label = (f"{row:05d}.json", json.dumps({"label": self.labels[row]}).encode())
                image = (f"{row:05d}.{ending}", self.blobs[row])
                members += [label, image] if row % 2 else [image, label]
            write_members(directory / f"{split}-{shard:04d}.tar", members)

    def write(self, layout: str, root: Path, split: str = "train") -> None:
        """In one of the three layouts, as a split of ``root``."""
        if layout == "folder":
            self.write_folder(root / split)
        elif layout == "parquet":
            self.write_parquet(root, split)
        else:
            self.write_tar(root, split)


def write_members(
    file: Path, members: Sequence[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT
) -> None:
    with tarfile.open(file, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
