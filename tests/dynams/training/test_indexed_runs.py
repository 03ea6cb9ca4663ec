"""Runs on images that are read by their index: the run that decoded images would give, in less memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from training_runs import StopAt, equal, log_lines, small_config

from dynams.data import DataError
from dynams.data.datasets import DatasetData
from dynams.data.jpeg import EncodedDecoder
from dynams.data.statistics import Moments
from dynams.training import load_checkpoint, train
from dynams.training.config import DataConfig
from dynams.training.indexed_batches import told_moments
from dynams.training.loading import Reader, SampleBatches, read_samples
from dynams.training.rundir import checkpoint_path
from dynams.training.samples import given_data, reads_by_index
from image_shards import Pictures, by_pillow, encode

PICTURES = {"train": Pictures.made(42, size=(12, 14)), "test": Pictures.made(12, seed=1)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for split, pictures in PICTURES.items():
        for layout in ("folder", "tar", "parquet"):
            pictures.write(layout, folder / layout, split)
    return folder


def data(root: Path, storage: str = "index", layout: str = "folder", **more: Any) -> dict[str, Any]:
    name = "folder" if layout == "folder" else "shards"
    path = str(root / layout)
    varied = {"flips": "alternating", "pad": "reflect", "cutout": 3}
    return {"name": name, "path": path, "storage": storage, "image_size": 10, **varied, **more}


def state(summary: Any) -> Any:
    return load_checkpoint(checkpoint_path(Path(summary.run_dir)))


@pytest.fixture(scope="module")
def decoded(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run on images in memory."""
    config = small_config(
        tmp_path_factory.mktemp("host"), data=data(root, "host", holdout=0.2, limit=40)
    )
    return train(config)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_is_the_run_on_decoded_images(
    tmp_path: Path, root: Path, decoded: Any, workers: int
) -> None:
    wanted = data(root, holdout=0.2, limit=40, workers=workers)
    summary = train(small_config(tmp_path, data=wanted))
    was, now = state(decoded), state(summary)
    assert equal(now.model, was.model)
    assert now.data == was.data
    for key in ("train", "refresh"):
        events = [
            [line for line in log_lines(each.run_dir) if line.get("event") == key]
            for each in (summary, decoded)
        ]
        assert events[0] == events[1]


def test_a_run_resumes_from_an_epochs_middle_and_where_images_are_kept_may_change(
    tmp_path: Path, root: Path, decoded: Any
) -> None:
    settings = {"holdout": 0.2, "limit": 40}
    first = train(
        small_config(tmp_path, data=data(root, workers=0, **settings)), interrupt=StopAt(4)
    )
    assert not first.completed
    for storage in ("host", "index"):
        stop = StopAt(2) if storage == "host" else None
        config = small_config(tmp_path, data=data(root, storage, **settings))
        last = train(config, resume=first.run_dir, interrupt=stop)
    assert last.completed
    assert equal(state(last).model, state(decoded).model)


@pytest.mark.parametrize("layout", ["tar", "parquet"])
def test_shards_of_the_same_images_train_alike(
    tmp_path: Path, root: Path, decoded: Any, layout: str
) -> None:
    wanted = data(root, "auto", layout, holdout=0.2, limit=40, workers=0)
    assert equal(state(train(small_config(tmp_path, data=wanted))).model, state(decoded).model)


def test_chosen_classes_are_refused(tmp_path: Path, root: Path) -> None:
    wanted = data(root, workers=0, classes=["ant", "bee"])
    with pytest.raises(ValueError, match=r"data\.classes: got \['ant', 'bee'\], want None"):
        train(small_config(tmp_path, data=wanted))


def test_an_epoch_decodes_the_selected_samples_only(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = EncodedDecoder.decode

    def counted(self: EncodedDecoder, encoded: bytes, size: Any, where: str) -> Any:
        decoded.append(where)
        return decode(self, encoded, size, where)

    monkeypatch.setattr(EncodedDecoder, "decode", counted)
    train(
        small_config(
            tmp_path,
            data=data(root, workers=0),
            selection={"strategy": "random", "budget": 0.25, "warmup_epochs": 0},
            optim={"epochs": 3},
            run={"evaluate_every": 3},
        )
    )
    of_train = [where for where in decoded if "/train/" in where]
    chosen = 11  # 0.25 of 42
    # Mean and deviation are of all; the first, middle and last prove the labels, and the first tells the shape.
    assert len(of_train) == 42 + 3 + 1 + 3 * chosen


def test_a_damaged_image_ends_the_run_by_its_name(tmp_path: Path) -> None:
    blobs = list(PICTURES["train"].blobs)
    blobs[5] = blobs[5][:100]
    Pictures(blobs, PICTURES["train"].labels).write_tar(tmp_path / "set/tar", "train")
    PICTURES["test"].write_tar(tmp_path / "set/tar", "test")
    wanted = data(tmp_path / "set", layout="tar", workers=1)
    with pytest.raises(DataError, match=r"train-0000.tar, byte \d+: cannot be decoded as an ima"):
        train(small_config(tmp_path, data=wanted))


def test_images_of_several_sizes_are_named_where_no_size_is_given(tmp_path: Path) -> None:
    mixed = Pictures.made(10)
    mixed.blobs[7] = PICTURES["train"].blobs[0]
    for split in ("train", "test"):
        mixed.write_folder(tmp_path / "set/folder" / split)
    wanted = data(tmp_path / "set", image_size=None, workers=0)
    with pytest.raises(
        DataError, match=r"train\[7\] \(.*00007.img\): got uint8 of shape \(3, 12, 14"
    ):
        train(small_config(tmp_path, data=wanted))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "shards", "path": "x", "storage": "host"},
            "data.storage: got host with data.name",
        ),
        ({"name": "digits", "storage": "index"}, "data.storage: got index with data.name digits"),
        ({"name": "folder", "path": "x", "workers": 1}, "data.workers: got 1 for images in memory"),
    ],
)
def test_what_cannot_be_read_by_an_index_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given_data(None, DataConfig(**settings))


def test_workers_may_read_by_an_index() -> None:
    config = DataConfig(name="shards", path="x", workers=3)
    assert given_data(None, config) is None
    assert reads_by_index(config)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_mean_and_deviation_are_of_all_processes_shares(processes: int) -> None:
    images = torch.from_numpy(np.stack([by_pillow(blob) for blob in PICTURES["train"].blobs[:4]]))
    given = DatasetData(*(TensorDataset(images, torch.tensor([0, 1, 0, 1])),) * 2)
    reader = Reader(given.datasets())
    known = read_samples(given, reader).train
    met = threading.Barrier(processes, timeout=30)
    sums: dict[int, torch.Tensor] = {}

    class Fabric:
        device = torch.device("cpu")
        world_size = processes

        def __init__(self, rank: int) -> None:
            self.rank = rank

        def all_gather(self, value: torch.Tensor) -> torch.Tensor:
            sums[self.rank] = value
            met.wait()
            return torch.stack([sums[rank] for rank in range(processes)])

    found: list[Moments] = []

    def tell(rank: int) -> None:
        own = Reader(given.datasets())
        reading = SampleBatches(known, own, torch.device("cpu"), rank=rank, processes=processes)
        fabric: Any = Fabric(rank)
        found.append(told_moments(reading, fabric))

    threads = [threading.Thread(target=tell, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wide = images.numpy().astype(np.int64)
    want = (*wide.sum((0, 2, 3)).tolist(),), (*(wide**2).sum((0, 2, 3)).tolist(),)
    assert [(each.sums, each.squares) for each in found] == [want] * processes
    assert {each.pixels for each in found} == {4 * 12 * 14}


# What the process may have beyond what it has when all is imported; decoded, the images are 309 MiB.
SIDE, COUNT, SLACK = 300, 1200, 100 << 20
LIMITED = f"""
import resource, sys
import torch
import dynams.training.entry, dynams.data.indexed, PIL.JpegImagePlugin
from dynams.data.memory import HostMemory
from dynams.training import TrainConfig, train

def run(name, storage):
    return train(TrainConfig.from_dict({{
        "data": {{"name": name, "path": f"{{sys.argv[1]}}/{{name}}", "crop_size": 16, "storage": storage,
                 "workers": 1 if storage == "index" else None}},
        "model": {{"base_channels": 4}},
        "selection": {{"strategy": "random", "budget": 0.5, "warmup_epochs": 0}},
        "optim": {{"epochs": 1, "batch_size": 8}},
        "run": {{"dir": sys.argv[1] + "/runs", "progress": False, "report": False, "tensorboard": False,
                "accelerator": "cpu", "threads": 1}},
    }}))

taken = HostMemory()._sizes("proc/self/status")["VmData:"]
resource.setrlimit(resource.RLIMIT_DATA, (taken + {SLACK},) * 2)
try:
    run("folder", "host")
except ValueError as error:
    print(error)
print("completed", run("shards", "index").completed)
"""


def test_a_set_several_times_the_memory_that_is_left_is_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    blobs = [
        encode(np.stack([rows * k % 256, columns, rows // 2], -1).astype(np.uint8))
        for k in range(2, 6)
    ]
    for split, count in (("train", COUNT), ("test", 8)):
        pictures = Pictures([blobs[row % 4] for row in range(count)], [r % 2 for r in range(count)])
        pictures.write_tar(tmp_path / "shards", split)
        pictures.write_folder(tmp_path / "folder" / split)
    came = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True
    )
    assert came.returncode == 0, came.stderr
    refused, trained = came.stdout.splitlines()
    assert refused.startswith("storage: got 'host' for 311.1 MiB of images, want 'auto' or 'disk'")
    assert trained == "completed True"
