"""Resume is exact: from every step, with and without workers, the rest is the uninterrupted run's."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dynams.selection import MarginSampler, linear
from dynams.selection.margin_sampler import MARGIN_STRATEGIES

N, EPOCHS, BATCH = 22, 4, 4


def build(strategy: Any, **options: Any) -> MarginSampler:
    options = {
        "budget": linear(1.0, 0.5),
        "epochs": EPOCHS,
        "refresh_every": 2,
        "warmup_epochs": 1,
        "seed": 3,
        **options,
    }
    return MarginSampler(N, strategy=strategy, **options)


def score(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    # The last samples are never scored after the first refresh: resume must know their old scores.
    count = N if epoch < 2 else N - 4
    margins = torch.rand(count, generator=generator)
    for indices in torch.arange(count).split(5):
        yield indices, margins[indices]


def train(
    sampler: MarginSampler, workers: int, stop_after: int | None = None, epochs: int = EPOCHS
) -> tuple[list[list[int]], dict[str, Any] | None]:
    """Batches of the run from where the sampler is; the state after `stop_after` of them."""
    loader = DataLoader(
        TensorDataset(torch.arange(N)), batch_size=BATCH, sampler=sampler, num_workers=workers
    )
    batches: list[list[int]] = []
    for epoch in range(sampler.epoch or 0, epochs):
        sampler.begin_epoch(epoch, lambda epoch=epoch: score(epoch))
        consumed = sampler.consumed
        for (indices,) in loader:
            batches.append(indices.tolist())
            consumed += len(indices)
            if len(batches) == stop_after:
                # Workers have read ahead: only the loop knows what was trained on.
                return batches, sampler.state_dict(consumed)
    return batches, None


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.parametrize("strategy", MARGIN_STRATEGIES)
def test_resume_from_every_step_continues_the_run(strategy: str) -> None:
    whole, _ = train(build(strategy), workers=0)
    for step in range(1, len(whole) + 1):
        before, state = train(build(strategy), workers=0, stop_after=step)
        assert state is not None
        resumed = build(strategy)
        resumed.load_state_dict(through_a_file(state))
        after, _ = train(resumed, workers=0)
        assert before + after == whole


def test_resume_from_every_step_with_two_workers_continues_the_run() -> None:
    # Three epochs of 5, 5 and 2 batches: starting worker processes is what takes time here.
    def sampler() -> MarginSampler:
        return build("margin", budget=linear(0.9, 0.3), epochs=3, warmup_epochs=0)

    whole, _ = train(sampler(), workers=0, epochs=3)
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 3]
    for step in range(1, len(whole) + 1):
        before, state = train(sampler(), workers=2, epochs=3, stop_after=step)
        assert state is not None
        resumed = sampler()
        resumed.load_state_dict(through_a_file(state))
        after, _ = train(resumed, workers=2, epochs=3)
        assert before + after == whole


@pytest.mark.parametrize("strategy", MARGIN_STRATEGIES)
def test_resume_from_every_sample_continues_the_walk(strategy: str) -> None:
    sampler = build(strategy)
    for epoch in range(EPOCHS):
        sampler.begin_epoch(epoch, lambda epoch=epoch: score(epoch))
        order = sampler.order().tolist()
        walk = iter(sampler)
        for place in range(len(order) + 1):
            resumed = build(strategy)
            resumed.load_state_dict(copy.deepcopy(sampler.state_dict()))
            assert resumed.consumed == place
            assert resumed.begin_epoch(epoch) is None
            assert list(resumed) == order[place:]
            assert resumed.order().tolist() == order
            assert len(resumed) == len(order)
            next(walk, None)


def test_a_resumed_epoch_may_be_interrupted_again() -> None:
    whole, _ = train(build("margin"), workers=0)
    first, state = train(build("margin"), workers=0, stop_after=2)
    second = build("margin")
    second.load_state_dict(state or {})
    more, state = train(second, workers=0, stop_after=2)
    third = build("margin")
    third.load_state_dict(state or {})
    rest, _ = train(third, workers=0)
    assert first + more + rest == whole


def test_only_the_first_walk_after_a_resume_starts_in_the_middle() -> None:
    sampler = build("full")
    sampler.begin_epoch(0)
    order = list(sampler)
    sampler.load_state_dict(sampler.state_dict(consumed=5))
    assert list(sampler) == order[5:]
    assert list(sampler) == order


def test_a_state_is_a_copy() -> None:
    sampler = build("margin")
    for epoch in (0, 1):
        sampler.begin_epoch(epoch, lambda: score(1))
    state = sampler.state_dict()
    before = copy.deepcopy(state)
    sampler.indices.zero_()
    sampler.begin_epoch(3, lambda: score(3))
    assert torch.equal(state["indices"], before["indices"])
    other = build("margin")
    other.load_state_dict(state)
    state["indices"].zero_()
    assert torch.equal(other.indices, before["indices"])


@pytest.mark.parametrize("consumed", [-1, N + 1])
def test_consumed_outside_the_epoch_is_refused(consumed: int) -> None:
    sampler = build("full")
    sampler.begin_epoch(0)
    with pytest.raises(ValueError, match=rf"consumed must be in \[0, {N}\], got {consumed}"):
        sampler.state_dict(consumed)
    with pytest.raises(ValueError, match=rf"consumed must be in \[0, {N}\], got {consumed}"):
        sampler.load_state_dict({**sampler.state_dict(), "consumed": consumed})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": N + 1}, f"num_samples={N + 1}, this has {N}"),
        ({"seed": 4}, "seed=4, this has 3"),
        ({"strategy": "static"}, "strategy='static', this has 'margin'"),
        ({"shuffle": False}, "shuffle=False, this has True"),
        ({"warmup_epochs": 0}, "warmup_epochs=0, this has 1"),
        ({"indices": torch.tensor([0, N])}, "indices must be in"),
        ({"indices": torch.tensor([[0, 1]])}, "indices must have shape"),
        ({"indices": torch.tensor([], dtype=torch.int64)}, "selection is empty"),
        ({"scores": {}}, "state lacks scores of gap"),
        ({"weights": torch.ones(1)}, "weights must have shape"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    changes: dict[str, Any], message: str
) -> None:
    source = build("margin")
    source.begin_epoch(0)
    sampler = build("margin")
    for epoch in (0, 1):
        sampler.begin_epoch(epoch, lambda: score(1))
    order, margins = sampler.order(), sampler.selector.state_dict()["margins"]
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict({**source.state_dict(), **changes})
    assert torch.equal(sampler.order(), order)
    assert torch.equal(sampler.selector.state_dict()["margins"], margins)


def test_a_state_that_lacks_an_entry_is_refused_by_name() -> None:
    state = build("margin").state_dict()
    del state["indices"], state["epoch"]
    with pytest.raises(ValueError, match="state lacks epoch, indices"):
        build("margin").load_state_dict(state)


def test_another_refresh_interval_after_a_resume_counts_from_the_last_refresh() -> None:
    sampler = MarginSampler(N, budget=0.5, refresh_every=1)
    for epoch in range(6):
        sampler.begin_epoch(epoch, lambda epoch=epoch: score(epoch))
    resumed = MarginSampler(N, budget=0.5, refresh_every=4)
    resumed.load_state_dict(sampler.state_dict())
    assert [epoch for epoch in range(6, 13) if resumed.due(epoch)] == [8, 9, 10, 11, 12]
    resumed.begin_epoch(8, lambda: score(8))
    assert [epoch for epoch in range(8, 13) if resumed.due(epoch)] == [12]
