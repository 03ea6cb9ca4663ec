"""Loading the images that a configuration names: in several processes once, and as in earlier versions."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from training_runs import StopAt, made_up_data, small_config

from dynams.data.cache import DIRECTORY
from dynams.data.memory import HostMemory
from dynams.training.changed_settings import changed_settings
from dynams.training.checkpoint import load_checkpoint, save_checkpoint
from dynams.training.config import DataConfig, TrainConfig
from dynams.training.entry import train
from dynams.training.resolve import check_early, load_images
from dynams.training.rundir import checkpoint_path
from dynams.training.samples import given_data


class Ranks:
    """Two processes as threads, as far as loading needs them."""

    def __init__(self, after_first: Any) -> None:
        self.met = threading.Barrier(2, timeout=30)
        self.told: dict[int, torch.Tensor] = {}
        self.first_done = threading.Event()
        self.after_first = after_first

    def fabric(self, rank: int) -> Any:
        ranks = self

        class Fabric:
            device = torch.device("cpu")
            world_size = 2
            global_rank = rank

            def all_gather(self, value: torch.Tensor) -> torch.Tensor:
                ranks.told[rank] = value
                ranks.met.wait()
                return torch.stack([ranks.told[0], ranks.told[1]])

            @contextmanager
            def rank_zero_first(self, local: bool) -> Iterator[None]:
                assert local
                if rank:
                    assert ranks.first_done.wait(30)
                yield
                if not rank:
                    ranks.after_first()
                    ranks.first_done.set()

        return Fabric()


def write_images(root: Path) -> list[Path]:
    made = []
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            file = root / split / name / "0.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(np.full((8, 8, 3), len(made), np.uint8)).save(file)
            made.append(file)
    return made


def host(root: Path, free: int) -> HostMemory:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemAvailable: {free // 1024} kB\n")
    return HostMemory(root, processes=1)


@pytest.mark.parametrize("short", [None, 0, 1])
def test_what_falls_to_disk_in_one_process_is_decoded_once_for_all(
    tmp_path: Path, short: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    images = write_images(tmp_path / "data")
    whole = images[0].read_bytes()
    images[0].write_bytes(whole[:33] + b"\0\0\0\1tEXtx0000" + whole[33:])  # Its check sum is wrong.

    def damage() -> None:
        """Leave nothing to decode to who comes later, and the cache as fresh as it was."""
        for file in images:
            before = file.stat()
            file.write_bytes(b"x" * before.st_size)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    ranks = Ranks(damage)
    free = [1 << 10 if rank == short else 1 << 30 for rank in range(2)]
    hosts = [host(tmp_path / f"host{rank}", amount) for rank, amount in enumerate(free)]
    config = DataConfig(name="folder", path=str(tmp_path / "data"))
    with ThreadPoolExecutor(2) as pool:
        loaded = [
            future.result()
            for future in [
                pool.submit(load_images, config, ranks.fabric(rank), hosts[rank])
                for rank in range(2)
            ]
        ]
    assert ["damaged metadata" in message for message in caplog.messages] == [True]
    assert [data.train.images[:, 0, 0, 0].tolist() for data in loaded] == [[0, 1]] * 2
    assert (tmp_path / "data" / DIRECTORY).exists() == (short is not None)


def test_columns_reach_the_reader_and_are_refused_with_datasets(tmp_path: Path) -> None:
    config = DataConfig(name="folder", path=str(tmp_path), image_column="picture")
    with pytest.raises(ValueError, match=r"image_column: got 'picture', want None for folder"):
        load_images(config, Ranks(None).fabric(0), HostMemory())
    data = torch.utils.data.TensorDataset(torch.zeros(4, 1, 2, 2), torch.arange(4))
    for name in ("image_column", "label_column"):
        with pytest.raises(ValueError, match=rf"data\.{name}: got 'x' with Datasets of your own"):
            given_data((data, data), DataConfig(**{name: "x"}))


def test_a_path_that_is_no_directory_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    link = f"a link to {tmp_path}/gone, which is not there"
    for name, kind in (("link", link), ("file", "a file"), ("absent", "nothing")):
        config = TrainConfig(data=DataConfig(name="cifar10", path=str(tmp_path / name)))
        with pytest.raises(ValueError, match=f"data.path: no directory .*{name}, there is {kind}"):
            check_early(config)


def test_a_run_from_before_columns_could_be_named_is_resumed(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    run_dir = Path(train(config, made_up_data(), interrupt=StopAt(3)).run_dir)

    def without_columns(values: dict[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in values["data"].items() if not k.endswith("_column")}
        assert len(kept) == len(values["data"]) - 2
        return {**values, "data": kept}

    file = run_dir / "config.yaml"
    file.write_text(yaml.safe_dump(without_columns(yaml.safe_load(file.read_text()))))
    saved = load_checkpoint(checkpoint_path(run_dir))
    save_checkpoint(run_dir, dataclasses.replace(saved, config=without_columns(saved.config)))
    assert train(config, made_up_data(), resume=str(run_dir)).completed
    old = TrainConfig.from_dict(without_columns(config.to_dict()))
    other = TrainConfig(data=DataConfig(label_column="fine"))
    assert changed_settings(old, config) == []
    assert ("data.label_column", None, "fine") in changed_settings(old, other)
