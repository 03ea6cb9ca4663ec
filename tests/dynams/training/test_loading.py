"""Batches of Datasets: read in order by any number of workers, varied the same whoever reads."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from dynams.data import DataError
from dynams.data.datasets import DatasetData, Item, SampleSet
from dynams.training.batches import step_bounds
from dynams.training.interrupt import SIGNALS
from dynams.training.loading import Reader, Request, SampleBatches, read_samples, suited_workers


class Drawn(Dataset):
    """Items that know their index, disturbed by all three generators."""

    def __init__(self, count: int = 23, told: bool = True) -> None:
        self.count = count
        if told:
            self.targets = [index % 3 for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        noise = [index, random.random(), float(np.random.rand()), float(torch.rand(()))]
        return torch.tensor(noise, dtype=torch.float64), index % 3


class Numbered(Dataset):
    """Item i holds i; ``wrong`` are given in place of some."""

    def __init__(self, count: int = 10, wrong=None, **attributes) -> None:
        self.count = count
        self.wrong = wrong or {}
        vars(self).update(attributes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.wrong.get(index, (torch.full((1, 2, 2), index, dtype=torch.uint8), index % 2))


def batches(dataset: Dataset, workers: int = 0, **options) -> SampleBatches:
    reader = Reader({"train": dataset, "test": dataset}, seed=7, workers=workers)
    data = read_samples(DatasetData(dataset, dataset), reader)
    return SampleBatches(data.train, reader, torch.device("cpu"), **options)


def whole(pairs) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*pairs, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.fixture(scope="module")
def by_two() -> SampleBatches:
    made = batches(Drawn(), workers=2)
    yield made
    made.reader.close()


ORDER = torch.randperm(23, generator=torch.Generator().manual_seed(0))
BOUNDS = step_bounds(23, 5)


def test_workers_change_nothing(by_two: SampleBatches) -> None:
    alone = batches(Drawn())
    for epoch in (0, 1):
        pairs = zip(
            alone.epoch(ORDER, BOUNDS, epoch=epoch),
            by_two.epoch(ORDER, BOUNDS, epoch=epoch),
            strict=True,
        )
        for (images, labels), (others, other_labels) in pairs:
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)
    assert torch.equal(whole(alone.plain(2, 20, 4))[0], whole(by_two.plain(2, 20, 4))[0])


def test_an_epoch_follows_its_order_and_varies_with_epoch_and_purpose(
    by_two: SampleBatches,
) -> None:
    images, labels = whole(by_two.epoch(ORDER, BOUNDS, epoch=0))
    assert images.dtype == torch.float32
    assert images[:, 0].tolist() == ORDER.tolist()
    assert labels.tolist() == [index % 3 for index in ORDER.tolist()]
    again, _ = whole(by_two.epoch(ORDER, BOUNDS, epoch=0))
    assert torch.equal(images, again)
    for other in ({"epoch": 1}, {"epoch": 0, "purpose": "another"}):
        varied, _ = whole(by_two.epoch(ORDER, BOUNDS, **other))
        assert torch.equal(varied[:, 0], images[:, 0])
        assert not (varied[:, 1:] == images[:, 1:]).any()


def test_a_part_of_an_epoch_is_as_in_the_whole(by_two: SampleBatches) -> None:
    images, _ = whole(by_two.epoch(ORDER, BOUNDS, epoch=3))
    rest, _ = whole(by_two.epoch(ORDER, BOUNDS, epoch=3, first_step=2))
    assert torch.equal(rest, images[BOUNDS[2][0] :])
    begun = by_two.epoch(ORDER, BOUNDS, epoch=3)
    next(begun)  # and left: what was read ahead is in nobody's way
    rest, _ = whole(by_two.epoch(ORDER, BOUNDS, epoch=3, first_step=2))
    assert torch.equal(rest, images[BOUNDS[2][0] :])


def test_ranks_share_every_step() -> None:
    single = list(batches(Drawn()).epoch(ORDER, BOUNDS, epoch=0))
    ranks = [
        list(batches(Drawn(), rank=rank, processes=2).epoch(ORDER, BOUNDS, epoch=0))
        for rank in (0, 1)
    ]
    for step, (images, labels) in enumerate(single):
        shares = [ranks[0][step], ranks[1][step]]
        assert torch.equal(torch.cat([share[0] for share in shares]), images)
        assert torch.equal(torch.cat([share[1] for share in shares]), labels)


def test_reading_leaves_the_process_generators_alone() -> None:
    made = batches(Drawn())
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    whole(made.epoch(ORDER, BOUNDS, epoch=0))
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_samples_not_varied_come_from_the_scored_dataset() -> None:
    train, plain = Drawn(), Numbered(23, targets=[index % 3 for index in range(23)])
    plain.wrong = {index: (torch.tensor([index / 32]), index % 3) for index in range(23)}
    data = DatasetData(train, train, scored=plain)
    reader = Reader(data.datasets())
    samples = read_samples(data, reader).train
    made = SampleBatches(samples, reader, torch.device("cpu"))
    images, labels = whole(made.picked(torch.tensor([4, 1, 22]), 2))
    assert images.flatten().tolist() == [4 / 32, 1 / 32, 22 / 32]
    assert labels.tolist() == [1, 1, 1]
    assert whole(made.epoch(ORDER, BOUNDS, epoch=0))[0].shape == (23, 4)


def test_bytes_become_floats_and_are_pictures() -> None:
    made = batches(Numbered(), memory_format=torch.channels_last)
    images, _ = next(made.epoch(torch.arange(10), [(0, 10)], epoch=0))
    assert torch.equal(images[:, 0, 0, 0], torch.arange(10).float() / 255)
    assert images.is_contiguous(memory_format=torch.channels_last)
    pictures = made.pictures(torch.tensor([3, 1]))
    assert pictures.dtype == torch.uint8
    assert pictures[:, 0, 1, 1].tolist() == [3, 1]
    assert batches(Drawn()).pictures(torch.tensor([3])) is None


def test_a_subset_keeps_its_places() -> None:
    made = batches(Numbered())
    rows = torch.tensor([9, 4, 7])
    part = SampleBatches(made.samples.subset(rows), made.reader, made.device)
    assert len(part) == 3
    assert part.labels.tolist() == [1, 0, 1]
    images, labels = whole(part.plain(1, 3, 8))
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [4, 7]
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            (torch.zeros(1, 2, 3, dtype=torch.uint8), 1),
            r"^train\[7\]: got uint8 of shape \(1, 2, 3\), want uint8 of shape \(1, 2, 2\), as train\[0\] has$",
        ),
        ((torch.zeros(1, 2, 2), 1), r"^train\[7\]: got float32 of shape"),
        ((torch.zeros(1, 2, 2, dtype=torch.uint8), 0), r"^train\[7\]: got label 0, want 1"),
        ("nothing", r"^train\[7\]: got a str, want \(image, label\)$"),
    ],
)
def test_an_item_that_differs_from_the_others_is_named(workers: int, wrong, message: str) -> None:
    made = batches(Numbered(wrong={7: wrong}, targets=[index % 2 for index in range(10)]), workers)
    with pytest.raises(DataError, match=message):
        list(made.plain(0, 10, 4))
    made.reader.close()


class Failing(Numbered):
    """Has no item 7: a file is missing, or, with ``kill``, it takes the process with it."""

    def __getitem__(self, index: int):
        if index != 7:
            return super().__getitem__(index)
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise FileNotFoundError("7.png is missing")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_cannot_be_had_is_named_with_what_was_raised(workers: int) -> None:
    failing = Failing(kill=False, targets=[index % 2 for index in range(10)])
    made = batches(failing, workers)
    with pytest.raises(
        DataError, match=r"^train\[7\]: got FileNotFoundError from the Dataset, want .*: 7\.png is"
    ) as caught:
        list(made.plain(0, 10, 4))
    cause = caught.value.__cause__
    if workers:
        assert "in __getitem__" in str(cause)
    else:
        assert isinstance(cause, FileNotFoundError)
    made.reader.close()


def test_workers_are_let_go_while_an_error_is_told_of() -> None:
    before = set(multiprocessing.active_children())
    made = batches(Failing(kill=True, targets=[index % 2 for index in range(10)]), workers=2)
    with pytest.raises(RuntimeError, match="exited unexpectedly") as caught:
        list(made.plain(0, 10, 4))
    made.reader.close()
    assert set(multiprocessing.active_children()) <= before
    assert caught.traceback


def test_items_with_gradients_are_data() -> None:
    images = torch.rand(6, 1, 2, 2).requires_grad_()
    labelled = [(image, index % 2) for index, image in enumerate(images)]
    made = batches(labelled, workers=1)
    read, _ = whole(made.plain(0, 6, 4))
    assert torch.equal(read, images)
    assert not read.requires_grad
    made.reader.close()


def test_labels_nobody_tells_are_read_once_and_told(caplog: pytest.LogCaptureFixture) -> None:
    made = batches(Drawn(told=False))
    assert made.labels.tolist() == [index % 3 for index in range(23)]
    assert "train: reading all 23 items once for their labels" in caplog.text
    # Targets that items do not have, as where the Dataset changes them, are not believed.
    changed = Numbered(targets=[1 - index % 2 for index in range(10)])
    assert batches(changed).labels.tolist() == [index % 2 for index in range(10)]


def test_labels_that_are_told_are_not_read(caplog: pytest.LogCaptureFixture) -> None:
    assert batches(Drawn()).labels.tolist() == [index % 3 for index in range(23)]
    assert not caplog.text


def test_a_turn_that_was_overtaken_is_not_mixed_with_the_next() -> None:
    made = batches(Drawn())
    first, second = (made.plain(0, 20, 4) for _ in range(2))
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="another turn has begun"):
        next(first)
    made.reader.close()
    with pytest.raises(RuntimeError, match="it is closed"):
        next(made.plain(0, 4, 4))


class Counted(Numbered):
    """Counts what is read of it in this process."""

    reads = 0

    def __getitem__(self, index: int):
        self.reads += 1
        return super().__getitem__(index)


def test_with_workers_nothing_is_read_in_this_process() -> None:
    dataset = Counted()
    made = batches(dataset, workers=1)
    list(made.epoch(torch.arange(10), [(0, 5), (5, 10)], epoch=0))
    list(made.plain(0, 10, 5))
    assert made.pictures(torch.tensor([1])) is not None
    assert dataset.reads == 0
    made.reader.close()


class Pids(Dataset):
    targets = (0, 1)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return torch.tensor([float(os.getpid())], dtype=torch.float64), index


def test_signals_leave_the_workers_to_the_run() -> None:
    reader = Reader({"train": Pids()}, workers=1)
    request = [Request("train", "any", 0, [0, 1])]
    ((images, _),) = reader.read(request)
    worker = int(images[0, 0])
    assert worker != os.getpid()
    for number in SIGNALS:
        os.kill(worker, number)
    ((images, _),) = reader.read(request)
    assert int(images[0, 0]) == worker
    reader.close()


def test_workers_are_few_and_none_for_tensors() -> None:
    tensors = TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    assert suited_workers(DatasetData(tensors, tensors), 1) == 0
    cores = len(os.sched_getaffinity(0))
    assert suited_workers(DatasetData(Drawn(), tensors), 1) == min(8, cores)
    assert suited_workers(DatasetData(Drawn(), tensors), cores) == 1
    assert suited_workers(DatasetData(Drawn(), tensors), 2 * cores) == 0


def test_what_is_known_of_samples_tells_data_apart() -> None:
    one = read_samples(
        DatasetData(Numbered(), Numbered(4)), Reader({"train": Numbered(), "test": Numbered(4)})
    )
    assert one.num_classes == 2
    assert one.train.item == Item((1, 2, 2), torch.uint8)
    known = one.fingerprint()
    assert (known["train"], known["test"], known["dtype"]) == (10, 4, "torch.uint8")
    fewer = SampleSet(**{**vars(one.train), "labels": one.train.labels.flip(0)})
    assert type(one)(fewer, one.test).fingerprint()["labels"] != known["labels"]
