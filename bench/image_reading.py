"""What images that an index finds cost: decoding, and reading a sample by layout, budget and order.

python bench/image_reading.py PARQUET --out DIR      PARQUET: the folder of CIFAR-10's parquet files

Decoding is timed on one core, Pillow's beside simplejpeg's in turn. Readings and bytes are counted by the system
(`/proc/self/io`: what was asked of files, from memory or not), of 10,000 images in batches of 128.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dynams.data import IndexedImages, write_shards
from dynams.data.jpeg import EncodedDecoder
from marks import lines

BATCH, SECONDS, ROUNDS = 128, 1.0, 5
BUDGETS = (1.0, 0.6, 0.1)


def photo(seed: int) -> bytes:
    """A JPEG of 500 x 375 at quality 90: waves with noise."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:375, 0:500]
    waves = [np.sin(rows / a) * np.cos(columns / b) for a, b in draws.uniform(10, 80, (3, 2))]
    pixels = 127 + 80 * np.stack(waves, -1) + draws.normal(0, 8, (375, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def rate(decoder: EncodedDecoder, images: Sequence[bytes], size: int | None) -> float:
    """Images a second."""
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < SECONDS:
        decoder.decode(images[done % len(images)], size, "")
        done += 1
    return done / passed


def decoding(small: Sequence[bytes]) -> list[list[str]]:
    fast, pillow = EncodedDecoder([]), EncodedDecoder([])
    assert fast._jpeg is not None, "simplejpeg: got none, want it installed"
    pillow._jpeg = None
    photos = [photo(seed) for seed in range(20)]
    rows = [["JPEG", "Pillow", "simplejpeg", "ratio"]]
    for name, images, size in (
        ("32 x 32 (CIFAR-10)", small, None),
        ("500 x 375, quality 90", photos, None),
        ("the same for `image_size` 93", photos, 93),
    ):
        pairs = [[rate(each, images, size) for each in (pillow, fast)] for _ in range(ROUNDS)]
        theirs, ours = np.median(pairs, axis=0)
        ratio = np.median([b / a for a, b in pairs])
        rows.append([name, f"{theirs:,.0f}", f"{ours:,.0f}", f"{ratio:.2f}"])
    return rows


def counted() -> tuple[int, int]:
    """Bytes and readings of this process so far."""
    told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(told["rchar"]), int(told["syscr"])


def reading(name: str, images: IndexedImages) -> list[list[str]]:
    rows = []
    for budget in BUDGETS:
        draws = np.random.default_rng(0)
        chosen = np.sort(draws.permutation(len(images))[: round(budget * len(images))])
        row = [name, f"{budget}"]
        for order in (chosen, draws.permutation(chosen)):
            images.close()
            size, times = counted()
            for start in range(0, len(order), BATCH):
                images.encoded(order[start : start + BATCH].tolist())
            size, times = (
                now - before for now, before in zip(counted(), (size, times), strict=True)
            )
            row.append(f"{size / len(order) / 1000:.1f} KB in {times / len(order):.2g}")
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parquet", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = IndexedImages(options.parquet, "test", index_dir=root / "index")
        encoded, labels = source.encoded(range(len(source))), source.labels.tolist()
        for row, (image, label) in enumerate(zip(encoded, labels, strict=True)):
            place = root / "folder" / f"{label}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row:05}.jpg").write_bytes(image)
        write_shards(source, root / "tar", "train", images_a_shard=5000)
        layouts = [("folder", root / "folder"), ("tar", root / "tar")]
        table = pa.table({"img": [{"bytes": image} for image in encoded], "label": labels})
        for group in (100, 1000):
            path = root / f"parquet{group}"
            path.mkdir()
            pq.write_table(table, path / "train-00000-of-00001.parquet", row_group_size=group)
            layouts.append((f"parquet, row groups of {group:,}", path))
        rows = [["layout", "budget", "batches in order", "batches shuffled"]]
        for name, path in layouts:
            rows += reading(name, IndexedImages(path, None, index_dir=root / "index", tell=False))
        tables = [decoding(encoded), rows]
    options.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines(each) for each in tables)
    (options.out / "image-reading.md").write_text(
        f"Images a second and core; then what a sample costs to read, in readings.\n\n{text}"
    )
    print(text)


if __name__ == "__main__":
    main()
