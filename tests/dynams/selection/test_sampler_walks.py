"""The order that an epoch is walked in: whose position it is, what begins an epoch, what warns."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from dynams.selection import SubsetSampler
from sampler_inputs import N, margins_of, run, scorer, smallest

STRATEGIES = ("margin", "static-margin", "random", "full")


@given(st.sampled_from(STRATEGIES), st.booleans(), st.data())
def test_iterators_of_an_epoch_are_independent_and_alike(
    strategy: str, shuffle: bool, data: st.DataObject
) -> None:
    sampler = SubsetSampler(N, strategy, budget=0.3, shuffle=shuffle, score=scorer(0))
    sampler.set_epoch(0)
    order = sampler.order().tolist()
    assert sorted(order) == sampler.indices.tolist()
    if data.draw(st.booleans()):
        sampler.advance(data.draw(st.integers(0, len(order))))
        start = sampler.consumed
        sampler.load_state_dict(sampler.state_dict())
    else:
        start = 0
    walks = [(iter(sampler), []) for _ in range(3)]
    for place in data.draw(st.lists(st.integers(0, 2), max_size=60)):
        walk, seen = walks[place]
        seen.extend(item for item in [next(walk, None)] if item is not None)
    assert sampler.consumed == start
    for walk, seen in walks:
        assert [*seen, *walk] == order[start:]


def test_an_old_epochs_iterator_goes_on_while_the_next_begins() -> None:
    sampler = SubsetSampler(N, "random", budget=0.5)
    sampler.set_epoch(0)
    order, walk = sampler.order().tolist(), iter(sampler)
    first = next(walk)
    sampler.set_epoch(1)
    assert [first, *walk] == order
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the end of the old walk is not that of the new epoch
        assert list(sampler) == sampler.order().tolist() != order


def test_iterating_an_epoch_that_was_not_begun_anew_warns_and_repeats_it() -> None:
    sampler = SubsetSampler(N, budget=0.5, score=scorer(0))
    loader = DataLoader(TensorDataset(torch.arange(N)), batch_size=8, sampler=sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.set_epoch(0)
        next(iter(loader))  # a look at the first batch
        first = [batch.tolist() for (batch,) in loader]
    with pytest.warns(
        UserWarning, match="epoch 0 may be over and is iterated again, .* call set_epoch"
    ):
        assert [batch.tolist() for (batch,) in loader] == first
    sampler.set_epoch(0)  # no new epoch
    with pytest.warns(UserWarning, match="epoch 0 may be over"):
        iter(sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.set_epoch(1)
        list(sampler)


def test_a_walk_that_is_not_asked_beyond_its_last_sample_counts_as_walked() -> None:
    sampler = SubsetSampler(4, "full")
    sampler.set_epoch(0)
    walk = iter(sampler)
    for _ in range(4):
        next(walk)
    with pytest.warns(UserWarning, match="epoch 0 may be over"):
        iter(sampler)


def test_a_loop_that_counts_is_warned_by_what_it_trained_on_not_by_what_was_read_ahead() -> None:
    sampler = SubsetSampler(8, "full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(2):
            sampler.set_epoch(epoch)
            if epoch:
                list(sampler)  # as by workers of an iterator that is thrown away
            list(sampler)
            sampler.advance(8)
    with pytest.warns(UserWarning, match="epoch 1 is over and is iterated again"):
        iter(sampler)
    resumed = SubsetSampler(8, "full")
    resumed.load_state_dict(sampler.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(resumed) == list(resumed) == []


def test_the_first_walk_begins_epoch_0_as_frameworks_expect() -> None:
    calls: list[int] = []
    sampler = SubsetSampler(N, budget=0.5, score=scorer(0, calls=calls))
    assert len(sampler) == N
    walk = iter(sampler)
    sampler.set_epoch(0)  # comes after the iterator was built
    assert calls == [0]
    assert sorted(walk) == smallest(margins_of(0), N // 2)
    unscored = SubsetSampler(N)
    with pytest.raises(ValueError, match="score: got None, want a function that gives scores"):
        iter(unscored)
    assert unscored.epoch is None


def test_set_epoch_scores_where_a_refresh_is_due_by_the_score_given_at_construction() -> None:
    calls: list[int] = []

    def score() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        calls.append(len(calls))
        return scorer(calls[-1])()

    sampler = SubsetSampler(N, budget=0.5, warmup_epochs=1, refresh_every=2, score=score)
    for epoch in range(6):
        assert sampler.set_epoch(epoch) is None
        assert sampler.epoch == epoch
    assert calls == [0, 1, 2]
    assert sampler.indices.tolist() == smallest(margins_of(2), N // 2)
    sampler.begin_epoch(7, scorer(9))  # another one for this epoch
    assert calls == [0, 1, 2]
    assert sampler.indices.tolist() == smallest(margins_of(9), N // 2)


def test_beginning_an_epoch_twice_changes_nothing() -> None:
    sampler = SubsetSampler(N, budget=0.5)
    calls: list[int] = []
    sampler.begin_epoch(0, scorer(0, calls=calls))
    sampler.advance(5)
    walk = iter(sampler)
    first = [next(walk) for _ in range(5)]
    assert sampler.begin_epoch(0, scorer(9, calls=calls)) is None
    sampler.set_epoch(0)
    assert calls == [0]
    assert sampler.consumed == 5
    assert first + list(walk) == sampler.order().tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_permutation_depends_only_on_seed_and_epoch(strategy: str) -> None:
    sampler = SubsetSampler(N, strategy, budget=0.5, seed=5)
    run(sampler, 3)
    places = [sampler.indices.tolist().index(index) for index in sampler.order().tolist()]
    plain = SubsetSampler(len(sampler), "full", seed=5)
    plain.set_epoch(2)
    assert places == list(plain)
    assert sorted(places) == list(range(len(sampler)))


def test_random_draws_anew_every_q_epochs_and_repeats_by_seed() -> None:
    def subsets(seed: int) -> list[tuple[int, ...]]:
        sampler = SubsetSampler(N, "random", budget=0.5, refresh_every=2, seed=seed)
        return [tuple(sorted(order)) for order in run(sampler, 8)]

    one = subsets(0)
    assert all(len(set(subset)) == N // 2 for subset in one)
    assert one[0::2] == one[1::2]
    assert len(set(one[0::2])) == 4
    assert one == subsets(0)
    assert not set(one) & set(subsets(1))


def test_a_random_subset_does_not_depend_on_the_epochs_before() -> None:
    walked = SubsetSampler(N, "random", budget=0.5, refresh_every=2)
    run(walked, 6)
    jumped = SubsetSampler(N, "random", budget=0.5, refresh_every=2)
    jumped.set_epoch(5)
    assert torch.equal(walked.indices, jumped.indices)
    assert torch.equal(walked.order(), jumped.order())


def test_orders_differ_between_epochs_and_seeds_and_touch_no_global_generator() -> None:
    before = torch.get_rng_state()
    orders = set()
    for seed in range(4):
        orders |= {tuple(order) for order in run(SubsetSampler(N, "full", seed=seed), 4)}
    assert len(orders) == 16
    run(SubsetSampler(N, "random"), 3)
    run(SubsetSampler(N), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_is_a_copy(shuffle: bool) -> None:
    sampler = SubsetSampler(N, budget=0.5, shuffle=shuffle)
    sampler.begin_epoch(0, scorer(0))
    order = sampler.order()
    assert order.dtype == torch.int64
    if not shuffle:
        assert order.tolist() == sampler.indices.tolist()
    order.zero_()
    assert sampler.indices.tolist() == smallest(margins_of(0), N // 2)


def test_a_batch_sampler_drops_the_last_as_told() -> None:
    sampler = SubsetSampler(N, budget=0.5)
    sampler.begin_epoch(0, scorer(0))
    assert [len(batch) for batch in BatchSampler(sampler, 8, drop_last=True)] == [8, 8]


@given(st.sampled_from(STRATEGIES), st.integers(1, 9), st.integers(0, 3), st.booleans())
def test_total_steps_are_those_of_a_loop_over_all_epochs(
    strategy: str, batch_size: int, warmup_epochs: int, drop_last: bool
) -> None:
    sampler = SubsetSampler(
        N, strategy, budget=0.3, epochs=7, refresh_every=2, warmup_epochs=warmup_epochs, tail=0.2
    )
    planned = sampler.total_steps(batch_size, drop_last)
    loader = BatchSampler(sampler, batch_size, drop_last)
    steps = 0
    for epoch in range(7):
        sampler.begin_epoch(epoch, scorer(epoch))
        steps += sum(1 for _ in loader)
        assert sampler.total_steps(batch_size, drop_last) == planned
    assert steps == planned


def test_orders_are_the_same_on_every_device(device: str) -> None:
    for strategy in STRATEGIES:
        here = SubsetSampler(N, strategy, budget=0.5, device=device)
        assert run(here, 3) == run(SubsetSampler(N, strategy, budget=0.5), 3)
