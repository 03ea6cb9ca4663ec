"""Resume is exact: from every step, with and without workers, the rest is the uninterrupted run's."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dynams.selection import SubsetSampler, linear, with_switches

N, EPOCHS, BATCH = 22, 4, 4
STRATEGIES = ("margin", "static-margin", "random", "full")


def build(strategy: Any = "margin", **options: Any) -> SubsetSampler:
    options = {
        "budget": linear(1.0, 0.5),
        "epochs": EPOCHS,
        "refresh_every": 2,
        "warmup_epochs": 1,
        "seed": 3,
        **options,
    }
    return SubsetSampler(N, strategy, **options)


def score(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    # The last samples are never scored after the first refresh: resume must know their old scores.
    count = N if epoch < 2 else N - 4
    margins = torch.rand(count, generator=generator)
    for indices in torch.arange(count).split(5):
        yield indices, margins[indices]


def loader_of(sampler: SubsetSampler, workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(torch.arange(N)),
        batch_size=BATCH,
        sampler=sampler,
        num_workers=workers,
        **options,
    )


def train(
    sampler: SubsetSampler,
    workers: int = 0,
    stop_after: int | None = None,
    epochs: int = EPOCHS,
    *,
    iterators: int = 1,
) -> tuple[list[list[int]], dict[str, Any]]:
    """Batches of the run from where the sampler is, and the state after `stop_after` of them.

    Every epoch the loader's iterator is built `iterators` times, as some frameworks do, and the last is used.
    """
    options = {"persistent_workers": True} if workers and iterators == 1 else {}
    loader = loader_of(sampler, workers, **options)
    batches: list[list[int]] = []
    for epoch in range(sampler.epoch or 0, epochs):
        sampler.begin_epoch(epoch, lambda epoch=epoch: score(epoch))
        for _ in range(iterators):
            iterator = iter(loader)
        for (indices,) in iterator:
            batches.append(indices.tolist())
            sampler.advance(len(indices))
            if len(batches) == stop_after:
                return batches, sampler.state_dict()
    return batches, sampler.state_dict()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_from_every_step_continues_the_run(strategy: str) -> None:
    whole, _ = train(build(strategy))
    for step in range(1, len(whole) + 1):
        before, state = train(build(strategy), stop_after=step)
        resumed = build(strategy)
        resumed.load_state_dict(through_a_file(state))
        after, _ = train(resumed, iterators=1 + step % 2)
        assert before + after == whole


@pytest.mark.parametrize("iterators", [1, 2])
def test_resume_with_workers_that_read_ahead_continues_the_run(iterators: int) -> None:
    # Two epochs of 5 and 3 batches: starting worker processes is what takes time here. Four batches are
    # read ahead by each iterator.
    def sampler() -> SubsetSampler:
        return build(budget=linear(0.9, 0.5), epochs=2, warmup_epochs=0, refresh_every=1)

    whole, _ = train(sampler(), epochs=2)
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 4, 4, 4, 3]
    for step in (2, 5, 6):
        before, state = train(sampler(), 2, step, 2, iterators=iterators)
        resumed = sampler()
        resumed.load_state_dict(through_a_file(state))
        after, _ = train(resumed, 2, epochs=2, iterators=iterators)
        assert before + after == whole


def test_without_a_count_nothing_that_was_not_trained_on_is_left_out() -> None:
    sampler = build("full")
    sampler.set_epoch(0)
    trained = next(iter(loader_of(sampler, 2)))[0]  # and four batches were read ahead
    resumed = build("full")
    resumed.load_state_dict(sampler.state_dict())
    assert len(trained) == BATCH
    assert list(resumed) == sampler.order().tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_from_every_sample_continues_the_order(strategy: str) -> None:
    sampler = build(strategy)
    for epoch in range(EPOCHS):
        sampler.begin_epoch(epoch, lambda epoch=epoch: score(epoch))
        order = sampler.order().tolist()
        for place in range(len(order) + 1):
            assert sampler.consumed == place
            resumed = build(strategy)
            resumed.load_state_dict(copy.deepcopy(sampler.state_dict()))
            assert resumed.consumed == place
            assert resumed.begin_epoch(epoch) is None
            for _ in range(2):
                walk = iter(resumed)
                assert next(walk, None) == next(iter(order[place:]), None)
            assert resumed.consumed == place  # nothing was trained on
            assert resumed.order().tolist() == order
            assert len(resumed) == len(order)
            if place < len(order):
                sampler.advance(1)


def test_a_resumed_epoch_may_be_interrupted_again() -> None:
    whole, _ = train(build())
    first, state = train(build(), stop_after=2)
    second = build()
    second.load_state_dict(state)
    more, state = train(second, stop_after=2)
    third = build()
    third.load_state_dict(state)
    rest, _ = train(third)
    assert first + more + rest == whole


def test_a_framework_that_counts_from_0_after_a_resume_leaves_the_epoch_as_it_is() -> None:
    sampler = build("random")
    for epoch in range(3):
        sampler.set_epoch(epoch)
    sampler.advance(3)
    resumed = build("random")
    resumed.load_state_dict(sampler.state_dict())
    with pytest.warns(UserWarning, match="epoch: got 0, want at least 2, the current one, which s"):
        resumed.set_epoch(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told once
        resumed.set_epoch(1)
        assert (resumed.epoch, resumed.consumed) == (2, 3)
        assert list(resumed) == sampler.order().tolist()[3:]
        resumed.set_epoch(3)
    assert resumed.consumed == 0


def test_a_state_is_a_copy() -> None:
    sampler = build()
    for epoch in (0, 1):
        sampler.begin_epoch(epoch, lambda: score(1))
    state = sampler.state_dict()
    before = copy.deepcopy(state)
    sampler.indices.zero_()
    sampler.begin_epoch(3, lambda: score(3))
    assert torch.equal(state["indices"], before["indices"])
    other = build()
    other.load_state_dict(state)
    state["indices"].zero_()
    assert torch.equal(other.indices, before["indices"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_samples": N + 1}, ValueError, f"got num_samples={N + 1}, want {N}, this sampler's"),
        ({"seed": 4}, ValueError, "got seed=4, want 3"),
        ({"strategy": "Random()"}, ValueError, r"got strategy='Random\(\)', want .Margin\("),
        ({"shuffle": False}, ValueError, "got shuffle=False, want True"),
        ({"warmup_epochs": 0}, ValueError, "got warmup_epochs=0, want 1"),
        ({"indices": torch.tensor([0, N])}, ValueError, f"got indices 0 to {N}, want them in"),
        ({"indices": torch.tensor([[0, 1]])}, ValueError, "got indices of shape"),
        ({"indices": torch.tensor([], dtype=torch.int64)}, ValueError, r"indices of shape \(0,\)"),
        ({"indices": torch.tensor([4, 4])}, ValueError, "got indices in another order or twice"),
        ({"indices": [0]}, TypeError, "state: indices: got list, want an int64 tensor"),
        ({"weights": torch.ones(1)}, ValueError, "got weights of shape"),
        ({"scores": {}}, ValueError, "got no scores of gap"),
        ({"scores": {"gap": {"num_samples": 1, "margins": torch.zeros(1)}}}, ValueError, "want 22"),
        ({"consumed": N + 1}, ValueError, rf"got consumed={N + 1}, want it in \[0, {N}\]"),
        ({"consumed": -1}, ValueError, "got consumed=-1"),
        ({"consumed": None}, TypeError, "state: consumed: got None, want a whole number"),
        ({"epoch": "1"}, TypeError, "state: epoch: got '1', want a whole number"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    source = build()
    source.begin_epoch(0)
    sampler = build()
    for epoch in (0, 1):
        sampler.begin_epoch(epoch, lambda: score(1))
    sampler.advance(2)
    order, margins = sampler.order(), sampler.margins
    with pytest.raises(error, match=message):
        sampler.load_state_dict({**source.state_dict(), **changes})
    assert torch.equal(sampler.order(), order)
    assert torch.equal(sampler.margins, margins)
    assert (sampler.epoch, sampler.consumed) == (1, 2)


def test_a_state_that_lacks_an_entry_is_refused_by_name() -> None:
    state = build().state_dict()
    del state["indices"], state["epoch"]
    with pytest.raises(ValueError, match="state: got no epoch, indices"):
        build().load_state_dict(state)
    with pytest.raises(TypeError, match="state: got None, want what state_dict"):
        build().load_state_dict(None)  # type: ignore[arg-type]


def test_a_state_of_a_foreign_strategy_is_known_by_its_class() -> None:
    class Odd:
        needs: frozenset[str] = frozenset()
        dynamic = budgeted = True

        def select(self, signals: Any, size: int, **_: Any) -> Any:
            raise NotImplementedError

    one, other = Odd(), Odd()  # at two addresses, as in another process
    build(one).load_state_dict(build(other).state_dict())
    wrapped = build(with_switches(one, exploration=0.1))
    wrapped.load_state_dict(build(with_switches(other, exploration=0.1)).state_dict())


def test_another_refresh_interval_after_a_resume_counts_from_the_last_refresh() -> None:
    sampler = SubsetSampler(N, budget=0.5, refresh_every=1)
    for epoch in range(6):
        sampler.begin_epoch(epoch, lambda epoch=epoch: score(epoch))
    resumed = SubsetSampler(N, budget=0.5, refresh_every=4)
    resumed.load_state_dict(sampler.state_dict())
    assert [epoch for epoch in range(6, 13) if resumed.wanted(epoch)] == [8, 9, 10, 11, 12]
    resumed.begin_epoch(8, lambda: score(8))
    assert [epoch for epoch in range(8, 13) if resumed.wanted(epoch)] == [12]
