"""Batches of a user's own Datasets: read, perhaps by worker processes, and moved to the device.

One `Reader` serves a whole run: its workers read for training, scoring and evaluation in turn, so that there are
no idle ones. An epoch is read ahead in the order in which the loop asks for it. A sample's random transforms are
seeded from (seed, epoch, sample): what is trained on depends neither on the number of workers nor on where a run
was stopped. Where samples are not to be varied, and the user gave no Dataset without random transforms, they are
the same variation every time.
"""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, multiprocessing
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from dynams.cost.clock import Clock
from dynams.data.datasets import (
    DatasetData,
    Item,
    Items,
    SampleData,
    SampleSet,
    class_names,
    image_and_label,
    in_memory,
    len_of,
    told_labels,
)
from dynams.data.errors import DataError
from dynams.data.indexed import IndexedImages
from dynams.data.seeding import drawn_apart
from dynams.training.batches import share
from dynams.training.interrupt import SIGNALS
from dynams.training.seeds import derive_seed

_LOG = logging.getLogger(__name__)
_MOST_WORKERS = 8
# The purpose of a variation that stays the same in the whole run.
_UNVARIED = "unvaried"
_AT_ONCE = 512
# After SIGTERM: for the step in progress.
_SECONDS_TO_END = 20


class Request(NamedTuple):
    """A batch that is wanted.

    Attributes:
        name: of the Dataset.
        purpose: what the random transforms are for; with ``epoch`` and the row it seeds them.
        epoch: which.
        rows: of the Dataset.
        images: whether images are wanted; labels always are.
        item: what the images must be; None: nothing is known yet.
    """

    name: str
    purpose: str
    epoch: int
    rows: list[int]
    images: bool = True
    item: Item | None = None


class Reader:
    """Reads batches of Datasets, in this process or in workers that stay until `close`.

    With workers nothing is read in this process: a file that a Dataset opens at its first item is not shared.

    Args:
        datasets: by name.
        seed: of random transforms.
        workers: processes; 0 reads in this one, whose generators stay as they are.
        pin: read into page-locked memory, which is copied to a GPU without waiting.
    """

    def __init__(
        self, datasets: Mapping[str, Items], *, seed: int = 0, workers: int = 0, pin: bool = False
    ) -> None:
        self._items: dict[str, Item] = {}
        self._requests = _Requests()
        self._loader: DataLoader[Any] | None = DataLoader(
            _Reading(datasets, seed),
            batch_size=None,
            sampler=self._requests,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator("cpu"),  # else every pass would draw from the process' own
        )
        self._turn = 0

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, ...) and labels (B,) int64, as the Dataset gives them, of each request.

        There is one turn at a time: a new one ends those before it.

        Raises:
            DataError: an item is not (image, label), is another image than wanted, or cannot be had; of what a
                worker came upon, the cause is its traceback.
            RuntimeError: the reader is closed, another turn has begun, or a worker came to an end.
        """
        if self._loader is None:
            raise RuntimeError("Reader: it is closed")
        self._turn = mine = self._turn + 1
        self._requests.wanted = requests
        with torch.device(
            "cpu"
        ):  # the loader draws a seed on the default device, by a generator of the CPU
            batches = iter(self._loader)
        for batch in batches:
            if isinstance(batch, _Failure):
                raise batch.error from batch.cause
            yield tuple(batch)
            if self._turn != mine:
                raise RuntimeError("Reader: another turn has begun")

    def item(self, name: str) -> Item:
        """Return what the images of a Dataset are, by its first one.

        Raises:
            DataError: it is not (image, label).
        """
        if name not in self._items:
            images, _ = next(self.read([Request(name, _UNVARIED, 0, [0])]))
            self._items[name] = Item(tuple(images.shape[1:]), images.dtype)
        return self._items[name]

    def close(self) -> None:
        """Let the workers go, also where an error that is still being told of holds on to them."""
        loader, self._loader = self._loader, None
        # Torch lets them go when nothing knows of them any more; a traceback knows of them.
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()


def read_samples(data: DatasetData, reader: Reader) -> SampleData:
    """Learn what has to be known before training: labels, classes, what an item is.

    Labels that a Dataset tells by itself are believed where its first, middle and last item have them, and
    compared with each item when it is read; else all items are read once for them.

    Raises:
        DataError: an item is not as it should be, or a label is no class.
    """
    labels = {name: _labels(name, getattr(data, name), reader) for name in ("train", "test")}
    classes = class_names(data, labels["train"], labels["test"])
    splits = {
        name: SampleSet(
            labels=labels[name],
            classes=classes,
            name=name,
            plain="scored" if name == "train" and data.scored is not None else name,
            rows=torch.arange(len(labels[name]), device="cpu"),
            item=reader.item(name),
        )
        for name in labels
    }
    return SampleData(splits["train"], splits["test"])


def suited_workers(data: DatasetData, processes: int) -> int:
    """Choose a number of workers for each of ``processes`` on this machine.

    None for tensors in memory, and where a worker would have to start the program anew (systems that do not
    fork); else as many as there are cores for, at most 8.
    """
    if all(map(in_memory, data.datasets().values())):
        return 0
    if multiprocessing.get_start_method() != "fork":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_WORKERS, (cores or 1) // processes)


@dataclass(frozen=True)
class SampleBatches:
    """Batches of a user's Dataset on the device: see `dynams.training.batches.Batches`.

    Images of uint8 become float32 in [0, 1], others that are floating point float32; the rest stay as they are.

    Attributes:
        samples: which.
        reader: reads them.
        device: where batches are wanted.
        memory_format: of training batches with four dimensions.
        reading_format: of those that are scored or evaluated.
        rank: which of the processes this is.
        processes: how many share every step.
    """

    samples: SampleSet
    reader: Reader
    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format
    reading_format: torch.memory_format = torch.contiguous_format
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the CPU."""
        return self.samples.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of every class."""
        return self.samples.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image."""
        return self.samples.item.shape

    def epoch(
        self,
        order: Tensor,
        bounds: Sequence[tuple[int, int]],
        *,
        epoch: int,
        first_step: int = 0,
        purpose: str = "augmentation",
        clock: Clock | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process' share of each step, read ahead by the workers."""
        order = order.cpu()
        shares = [share(*each, self.rank, self.processes) for each in bounds[first_step:]]
        parts = [order[first:last] for first, last in shares]
        batches = self.read(self.samples.name, parts, purpose, epoch)
        for part in parts:
            with nullcontext() if clock is None else clock.measure("data", len(part)):
                images, labels = next(batches)
                batch = self._finish(images, self.memory_format), labels
            yield batch

    def plain(self, start: int, stop: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples [start, stop) in order, not varied, ``batch_size`` at a time."""
        return self.picked(torch.arange(start, stop, device="cpu"), batch_size)

    def picked(self, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples ``indices`` (n,) int64 in that order, not varied."""
        parts = torch.split(indices.cpu(), batch_size) if len(indices) else ()
        for images, labels in self.read(self.samples.plain, parts):
            yield self._finish(images, self.reading_format), labels

    def pictures(self, indices: Tensor) -> Tensor | None:
        """Return the samples ``indices`` (n,) int64 as pictures (n, C, H, W) uint8; None if they are none."""
        item = self.reader.item(self.samples.plain)
        if item.dtype != torch.uint8 or len(item.shape) != 3 or item.shape[0] not in (1, 3):
            return None
        rows = self.samples.rows[indices.cpu()].tolist()
        wanted = Request(self.samples.plain, _UNVARIED, 0, rows, item=item)
        images, _ = next(self.reader.read([wanted]))
        return images

    def read(
        self, name: str, parts: Sequence[Tensor], purpose: str = _UNVARIED, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images as a Dataset gives them and labels, both on the device, of each of ``parts``.

        Args:
            name: of the Dataset.
            parts: (n,) int64 on the CPU, samples of each batch.
            purpose: what random transforms are for; with ``epoch`` and the sample it seeds them.
            epoch: which.

        Raises:
            DataError: an item is not as it should be.
        """
        rows = [self.samples.rows[part] for part in parts]
        item = self.reader.item(name)
        wanted = (Request(name, purpose, epoch, each.tolist(), item=item) for each in rows)
        for part, where, (images, labels) in zip(
            parts, rows, self.reader.read(wanted), strict=True
        ):
            _check_labels(name, where, labels, self.samples.labels[part])
            yield (
                images.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )

    def _finish(self, images: Tensor, memory_format: torch.memory_format) -> Tensor:
        if images.dim() == 4:
            images = images.contiguous(memory_format=memory_format)
        if images.dtype == torch.uint8:
            return images.float().div_(255)
        return images.float() if images.is_floating_point() else images


class _Failure(NamedTuple):
    """What stands in place of a batch that cannot be had."""

    error: DataError
    cause: BaseException | None


class _Requests(Sampler[Request]):
    """What the loader's next pass reads."""

    def __init__(self) -> None:
        self.wanted: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.wanted)


class _Reading(Dataset[Any]):
    """All Datasets as one, whose indices are requests and whose items are batches, or what was wrong."""

    def __init__(self, datasets: Mapping[str, Items], seed: int) -> None:
        self._datasets = dict(datasets)
        self._seed = seed

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor] | _Failure:
        try:
            # Whoever asks may be scoring: what a Dataset keeps for later must serve training too.
            with torch.inference_mode(False), torch.no_grad():
                return self._read(request)
        except DataError as error:
            # Raised in a worker, it would come with the worker's traceback as its message.
            return _Failure(error, _told_cause(error.__cause__))

    def _read(self, request: Request) -> tuple[Tensor, Tensor]:
        name, purpose, epoch, rows, wanted, want = request
        dataset = self._datasets[name]
        images, labels = [], []
        # Read together, in the order of the disk; each is decoded, and varied, in its turn.
        together = dataset.items(rows) if isinstance(dataset, IndexedImages) else None
        with nullcontext() if _draws_nothing(dataset) else drawn_apart() as seed:
            for row in rows:
                if seed is not None:
                    seed(derive_seed(self._seed, purpose, epoch, row))
                item = _item(dataset, name, row) if together is None else next(together)
                image, label = image_and_label(item, f"{name}[{row}]")
                labels.append(label)
                came = Item(tuple(image.shape), image.dtype)
                if want is not None and came != want:
                    raise DataError(
                        f"{_place(dataset, name, row)}: got {_told(came)}, want {_told(want)}, as {name}[0] has"
                    )
                if wanted:
                    images.append(image)
        # In a worker this stacks into shared memory. Only what is on the CPU can be pinned.
        stacked = default_collate(images).cpu() if images else torch.empty(0, device="cpu")
        return stacked, torch.tensor(labels, dtype=torch.int64, device="cpu")


def _draws_nothing(dataset: Items) -> bool:
    return in_memory(dataset) or (isinstance(dataset, IndexedImages) and dataset.transform is None)


def _place(dataset: Items, name: str, row: int) -> str:
    """Say which item, and where it lies, if that is known."""
    where = f" ({dataset.where(row)})" if isinstance(dataset, IndexedImages) else ""
    return f"{name}[{row}]{where}"


def _item(dataset: Items, name: str, row: int) -> Any:
    """Get an item.

    Raises:
        DataError: names it, with what the Dataset raised as the cause.
    """
    try:
        return dataset[row]
    except Exception as error:  # whatever a user's code raises
        raise DataError(
            f"{name}[{row}]: got {type(error).__name__} from the Dataset, want (image, label): {error}"
        ) from error


def _told_cause(cause: BaseException | None) -> BaseException | None:
    """The cause of an error in a form that comes from a worker with its traceback."""
    if cause is None or get_worker_info() is None:
        return cause
    return RuntimeError("in a worker:\n" + "".join(traceback.format_exception(cause)))


def _labels(name: str, dataset: Items, reader: Reader) -> Tensor:
    count = len_of(dataset)
    told = told_labels(dataset)
    if told is not None:
        rows = sorted({0, count // 2, count - 1})
        _, seen = next(reader.read([Request(name, _UNVARIED, 0, rows, images=False)]))
        if torch.equal(seen, told[rows]):
            return told
    _LOG.warning(
        "%s: reading all %d items once for their labels; targets of the Dataset (or labels) would tell them",
        name,
        count,
    )
    wanted = (
        Request(name, _UNVARIED, 0, rows.tolist(), images=False)
        for rows in torch.split(torch.arange(count, device="cpu"), _AT_ONCE)
    )
    return torch.cat([labels for _, labels in reader.read(wanted)])


def _check_labels(name: str, rows: Tensor, labels: Tensor, want: Tensor) -> None:
    wrong = (labels != want).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{name}[{int(rows[first])}]: got label {int(labels[first])}, want {int(want[first])}, as it had "
            "before: a sample keeps its label"
        )


def _told(item: Item) -> str:
    return f"{str(item.dtype).removeprefix('torch.')} of shape {item.shape}"


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leave stopping to the run's own process: Ctrl-C reaches all, and the step in progress needs its batch."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # So that torch can end one that is stuck; Slurm sends it to all, as Ctrl-C is.
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    if hasattr(signal, "alarm"):
        signal.alarm(_SECONDS_TO_END)
    else:
        os._exit(1)
