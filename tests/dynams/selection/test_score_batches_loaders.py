"""score_batches numbers samples as they come, and refuses loaders that do not give all of them in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from dynams.selection import SubsetSampler, score_batches

N = 23


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def count(model: nn.Module, loader: Any) -> int:
    return sum(len(scores) for _, scores in score_batches(model, loader))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.zeros(4, 3, 8, 8))


def loaders(count: int = N) -> list[Any]:
    data = TensorDataset(torch.randn(count, 3, 8, 8))
    order = SequentialSampler(data)
    sampler = SubsetSampler(count, "full")
    own = [[0, 1], [2, 3]]
    return [
        (
            DataLoader(data, shuffle=True),
            "order of a RandomSampler, want shuffle=False, or indices",
        ),
        (DataLoader(data, sampler=sampler), "in the order of a SubsetSampler"),
        (DataLoader(data, batch_sampler=BatchSampler(sampler, 4, False)), "a SubsetSampler"),
        (DataLoader(data, batch_sampler=own), "in the order of a list"),  # type: ignore[arg-type]
        (DataLoader(data, batch_size=None, sampler=sampler), "in the order of a SubsetSampler"),
        (DataLoader(data, batch_size=5, drop_last=True), "got drop_last=True, want the last 3"),
        (DataLoader(data, batch_sampler=BatchSampler(order, 5, True)), "want the last 3 samples"),
        (DataLoader(Stream(), num_workers=2), "an IterableDataset in 2 workers, want at most one"),
        (without_order(data), "got in_order=False, want batches in order"),
        (without_order(Stream()), "got in_order=False, want batches in order"),
    ]


def without_order(data: Any) -> DataLoader[Any]:
    loader = DataLoader(data, num_workers=1)
    loader.in_order = False  # an argument since torch 2.6
    return loader


@pytest.mark.parametrize(("loader", "message"), loaders())
def test_a_loader_that_does_not_give_all_samples_in_order_is_refused(
    loader: DataLoader[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^loader: .*{message}"):
        score_batches(network(), loader)


def test_a_loader_that_leaves_samples_out_on_its_way_is_refused_at_the_end() -> None:
    images = torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def valid(samples: list[Any]) -> Tensor:
        return torch.stack([image for (image,) in samples if not image.equal(images[2])])

    data = TensorDataset(images)
    model = network()
    with pytest.raises(ValueError, match=f"^loader: got {N - 1} samples, want all {N}, or indices"):
        list(score_batches(model, DataLoader(data, batch_size=5, collate_fn=valid)))
    told = score_batches(
        model,
        DataLoader(data, batch_size=5, collate_fn=valid),
        indices=lambda batch: (torch.arange(len(batch)), batch),
    )
    assert sum(len(indices) for indices, _ in told) == N - 1
    # What a data set gives may be batches already.
    batches = DataLoader(images.split(5), batch_size=None)  # type: ignore[arg-type]
    assert count(model, batches) == N
    first = DataLoader(images.split(5), collate_fn=lambda one: one[0])  # type: ignore[arg-type]
    assert count(model, first) == N


def test_a_loader_that_gives_no_batches_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^loader: got int, want a DataLoader or batches$"):
        score_batches(network(), 3)  # type: ignore[arg-type]
