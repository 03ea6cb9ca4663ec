"""Epochs of constant length: which samples in which order, against a walk in NumPy; what is selected does not change."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from dynams.selection import SubsetSampler, linear
from sampler_inputs import N, margins_of, run, scorer, smallest

EPOCHS = 6
lengths = st.integers(1, 3 * N)


def build(length: int | None, strategy: str = "margin", **options: Any) -> SubsetSampler:
    options = {
        "budget": linear(1.0, 0.3),
        "epochs": EPOCHS,
        "warmup_epochs": 1,
        "tail": 0.2,
        "refresh_every": 2,
        "seed": 4,
        **options,
    }
    return SubsetSampler(N, strategy, epoch_length=length, **options)


def passes(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


@given(lengths, st.sampled_from(["margin", "static-margin", "random", "full"]))
def test_every_epoch_walks_its_selection_in_passes_until_it_is_long_enough(
    length: int, strategy: str
) -> None:
    sampler, plain = build(length, strategy), build(None, strategy)
    for epoch, (order, once) in enumerate(
        zip(run(sampler, EPOCHS), run(plain, EPOCHS), strict=True)
    ):
        selection = sorted(once)
        assert len(order) == length
        assert order[: len(once)] == once[:length]  # the first pass is today's order
        *whole, last = passes(order, len(selection))
        assert all(sorted(each) == selection for each in whole)
        assert len(set(last)) == len(last)
        assert set(last) <= set(selection)
        if len(whole) > 1 and len(selection) > 8:
            assert whole[0] != whole[1], epoch
    assert torch.equal(sampler.margins, plain.margins)
    assert torch.equal(sampler.indices, plain.indices)
    assert len(sampler) == length


@given(lengths, lengths, st.integers(0, 5), st.integers(0, 3))
def test_a_pass_depends_on_seed_and_epoch_alone(
    one: int, other: int, seed: int, epoch: int
) -> None:
    orders = []
    for length in (one, other):
        sampler = SubsetSampler(N, "random", budget=0.5, seed=seed, epoch_length=length)
        sampler.set_epoch(epoch)
        places = {index: place for place, index in enumerate(sampler.indices.tolist())}
        orders.append([places[index] for index in sampler.order().tolist()])
    # Longer epochs go on where shorter ones end; another selection of the same size is walked alike.
    full = SubsetSampler(N // 2, "full", seed=seed, epoch_length=max(one, other))
    full.set_epoch(epoch)
    for order in orders:
        assert order == full.order().tolist()[: len(order)]


def test_passes_of_all_epochs_and_seeds_differ() -> None:
    seen = set()
    for seed in range(3):
        for order in run(SubsetSampler(N, "full", seed=seed, epoch_length=4 * N), 3):
            seen |= {tuple(each) for each in passes(order, N)}
    assert len(seen) == 3 * 3 * 4


@given(lengths)
def test_without_shuffling_the_selection_is_repeated_ascending(length: int) -> None:
    sampler = SubsetSampler(N, budget=0.5, shuffle=False, epoch_length=length)
    sampler.begin_epoch(0, scorer(0))
    selection = smallest(margins_of(0), N // 2)
    assert list(sampler) == np.resize(np.array(selection), length).tolist()


@given(lengths)
def test_weights_follow_their_samples(length: int) -> None:
    sampler = SubsetSampler(N, "importance", budget=0.5, epoch_length=length)
    scores = torch.arange(N).float() + 1
    sampler.begin_epoch(0, lambda: [(torch.arange(N), scores)])
    assert sampler.weights is not None
    weights = dict(zip(sampler.indices.tolist(), sampler.weights.tolist(), strict=True))
    followed = sampler.order_weights()
    assert followed is not None
    assert followed.tolist() == [weights[index] for index in sampler.order().tolist()]


@given(lengths, st.integers(1, 30), st.booleans(), st.data())
def test_steps_and_a_resume_are_those_of_the_uninterrupted_loop(
    length: int, batch_size: int, drop_last: bool, data: st.DataObject
) -> None:
    def train(sampler: SubsetSampler, stop_after: int) -> tuple[list[list[int]], dict[str, Any]]:
        batches: list[list[int]] = []
        for epoch in range(sampler.epoch or 0, EPOCHS):
            sampler.begin_epoch(epoch, scorer(epoch))
            for batch in BatchSampler(sampler, batch_size, drop_last):
                batches.append(batch)
                sampler.advance(len(batch))
                if len(batches) == stop_after:
                    return batches, copy.deepcopy(sampler.state_dict())
        return batches, sampler.state_dict()

    whole, _ = train(build(length), -1)
    assert len(whole) == build(length).total_steps(batch_size, drop_last)
    if not whole:
        return
    stop = data.draw(st.integers(1, len(whole)))
    before, state = train(build(length), stop)
    resumed = build(length)
    resumed.load_state_dict(state)
    assert resumed.consumed == state["consumed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, _ = train(resumed, -1)
    assert before + after == whole


def test_a_state_is_of_one_length() -> None:
    state = build(30).state_dict()
    for length in (None, 31):
        with pytest.raises(ValueError, match=f"state: got epoch_length=30, want {length}, this"):
            build(length).load_state_dict(state)
    with pytest.raises(ValueError, match=r"state: got consumed=31, want it in \[0, 30\]"):
        build(30).load_state_dict({**state, "consumed": 31})
    longer = build(3 * N)
    longer.load_state_dict({**longer.state_dict(), "epoch": 0, "consumed": 2 * N})
    assert len(list(longer)) == N
    before_there_was_one = {
        k: v for k, v in build(None).state_dict().items() if k != "epoch_length"
    }
    build(None).load_state_dict(before_there_was_one)
    with pytest.raises(ValueError, match="state: got epoch_length=None, want 30"):
        build(30).load_state_dict(before_there_was_one)


def test_a_length_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="epoch_length: got 0, want at least 1"):
        build(0)
    with pytest.raises(TypeError, match=r"epoch_length: got 1\.5, want a whole number"):
        build(1.5)  # type: ignore[arg-type]
