"""The samples of a run: from what was given, or what the configuration names, to batches of each part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynams.data import ImageData
from dynams.data.datasets import DatasetData, as_datasets
from dynams.training.batches import Batches, ImageBatches, fingerprint, resolve_augmentation
from dynams.training.config import DataConfig, TrainConfig
from dynams.training.holdout import hold_out
from dynams.training.indexed_batches import (
    IndexedBatches,
    find_indexed,
    first_of_each,
    suited_to,
    told_moments,
)
from dynams.training.loading import Reader, SampleBatches, read_samples, suited_workers
from dynams.training.resolve import Resolved, load_images

# What a Dataset of the user's own decides by itself.
_NOT_FOR_DATASETS = (
    "path",
    "classes",
    "limit",
    "image_size",
    "image_column",
    "label_column",
    "cache",
    "crop_padding",
    "crop_size",
    "flip",
)
_WANTED_WITH_DATASETS = {
    "storage": "auto",
    "crop": "auto",
    "augment": True,
    "flips": "random",
    "pad": "zeros",
    "cutout": 0,
}


@dataclass(frozen=True)
class RunSamples:
    """The samples of a run.

    Attributes:
        train: what is trained on.
        test: what accuracy is measured on.
        held_out: samples held out of training; None: none are.
        rows: places of the training samples among all that there were; None: all are trained on.
        fingerprint: what tells the data from other data.
        given: whether they were given, and are not what the configuration names.
        reader: reads Datasets; None: there are none.
    """

    train: Batches
    test: Batches
    held_out: Batches | None
    rows: Tensor | None
    fingerprint: dict[str, object]
    given: bool
    reader: Reader | None = None

    def close(self) -> None:
        """Let the workers go, if there are any."""
        if self.reader is not None:
            self.reader.close()


def given_data(data: object, config: DataConfig) -> ImageData | DatasetData | None:
    """Tell what data a run was given; None: what ``config`` names.

    Raises:
        TypeError, ValueError: they are nothing to train on, or ``config`` wants of Datasets what is theirs to do.
    """
    if data is None or isinstance(data, ImageData):
        by_index = data is None and reads_by_index(config)
        if config.workers is not None and not by_index:
            raise ValueError(
                f"data.workers: got {config.workers} for images in memory, want it unset: workers read Datasets of "
                "your own, and images by their index (data.storage index)"
            )
        return data
    datasets = as_datasets(data)
    for name in _NOT_FOR_DATASETS:
        if getattr(config, name) is not None:
            raise ValueError(
                f"data.{name}: got {getattr(config, name)!r} with Datasets of your own, want it unset: they "
                "and their transforms decide that"
            )
    for name, wanted in _WANTED_WITH_DATASETS.items():
        if getattr(config, name) != wanted:
            raise ValueError(
                f"data.{name}: got {getattr(config, name)} with Datasets of your own, want {wanted}"
            )
    return datasets


def reads_by_index(config: DataConfig) -> bool:
    """Whether what ``config`` names is decoded when it is needed, and not beforehand.

    Raises:
        ValueError: it cannot be had so, or only so.
    """
    if config.name == "shards" and config.storage not in ("auto", "index"):
        raise ValueError(
            f"data.storage: got {config.storage} with data.name shards, want index or auto: shards are read by their index"
        )
    if config.name == "digits" and config.storage == "index":
        raise ValueError(
            "data.storage: got index with data.name digits, want auto: there is nothing to decode"
        )
    return config.name == "shards" or config.storage == "index"


def load_samples(
    resolved: Resolved,
    fabric: Fabric,
    data: ImageData | DatasetData | None,
    memory_format: torch.memory_format,
    reading_format: torch.memory_format,
) -> RunSamples:
    """Make batches of a run's samples, holding out what is to be held out.

    Args:
        resolved: what the run's configuration comes to.
        fabric: device and processes.
        data: as `given_data` tells; None loads what the configuration names.
        memory_format: of training batches.
        reading_format: of batches that are scored or evaluated.

    Raises:
        ValueError, FileNotFoundError: the data cannot be had as configured.
    """
    if isinstance(data, DatasetData):
        return _of_datasets(resolved, fabric, data, memory_format, reading_format)
    if data is None and reads_by_index(resolved.config.data):
        return _of_index(resolved, fabric, memory_format, reading_format)
    config, given = resolved.config, data is not None
    if data is None:
        data = load_images(config.data, fabric)
    held, rows = None, None
    if config.data.holdout:
        data, held, rows = hold_out(data, config.data.holdout, config.run.seed)
    _check_count(config, len(data.train))
    batches = ImageBatches(
        data.train,
        fabric.device,
        data.mean,
        data.std,
        resolve_augmentation(
            config.data, data.augmentation, tuple(data.train.images.shape[1:]), data.mean
        ),
        memory_format,
        reading_format,
        config.run.seed,
        fabric.global_rank,
        fabric.world_size,
    )
    return RunSamples(
        batches,
        replace(batches, images=data.test),
        None if held is None else replace(batches, images=held),
        rows,
        fingerprint(data),
        given,
    )


def _of_datasets(
    resolved: Resolved,
    fabric: Fabric,
    data: DatasetData,
    memory_format: torch.memory_format,
    reading_format: torch.memory_format,
) -> RunSamples:
    config, reader = resolved.config, _reader(resolved, fabric, data)
    held, rows = None, None
    try:
        known = read_samples(data, reader)
        if config.data.holdout:
            known, held, rows = hold_out(known, config.data.holdout, config.run.seed)
        _check_count(config, len(known.train))
    except BaseException:
        reader.close()
        raise
    batches = SampleBatches(
        known.train,
        reader,
        fabric.device,
        memory_format,
        reading_format,
        fabric.global_rank,
        fabric.world_size,
    )
    return RunSamples(
        batches,
        replace(batches, samples=known.test),
        None if held is None else replace(batches, samples=held),
        rows,
        known.fingerprint(),
        True,
        reader,
    )


def _of_index(
    resolved: Resolved,
    fabric: Fabric,
    memory_format: torch.memory_format,
    reading_format: torch.memory_format,
) -> RunSamples:
    config = resolved.config
    if config.data.classes is not None:
        raise ValueError(
            f"data.classes: got {config.data.classes}, want None for images read by their index"
        )
    data = find_indexed(config.data, fabric)
    reader = _reader(resolved, fabric, data)
    held, rows = None, None
    try:
        known = read_samples(data, reader)
        if config.data.limit is not None:
            known = replace(known, train=first_of_each(known.train, config.data.limit))
        shape = known.train.item.shape
        reading = SampleBatches(
            known.train,
            reader,
            fabric.device,
            memory_format,
            reading_format,
            fabric.global_rank,
            fabric.world_size,
        )
        moments = told_moments(reading, fabric)
        if config.data.holdout:
            known, held, rows = hold_out(known, config.data.holdout, config.run.seed)
        _check_count(config, len(known.train))
        augmentation = resolve_augmentation(
            config.data, suited_to(config.data, shape), shape, moments.mean()
        )
    except BaseException:
        reader.close()
        raise
    batches = IndexedBatches(
        replace(reading, samples=known.train),
        moments.mean(),
        moments.std(),
        augmentation,
        config.run.seed,
    )
    return RunSamples(
        batches,
        batches.of(known.test),
        None if held is None else batches.of(held),
        rows,
        batches.fingerprint(known),
        False,
        reader,
    )


def _reader(resolved: Resolved, fabric: Fabric, data: DatasetData) -> Reader:
    workers = resolved.config.data.workers
    return Reader(
        data.datasets(),
        seed=resolved.config.run.seed,
        workers=suited_workers(data, resolved.world.local) if workers is None else workers,
        pin=fabric.device.type == "cuda",
    )


def _check_count(config: TrainConfig, count: int) -> None:
    least = 2 * config.run.devices
    if count < least:
        raise ValueError(
            f"data.train: got {count} images, want at least {least} for {config.run.devices} devices"
        )
