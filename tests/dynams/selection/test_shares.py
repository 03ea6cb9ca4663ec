"""Ranks' shares of an epoch, against samples dealt one by one: no sample twice, none left out but where said, equal steps."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Sampler, TensorDataset

from dynams.selection import RankShard, SubsetSampler, linear

worlds, batch_sizes = st.integers(1, 6), st.integers(1, 7)
sizes = st.integers(1, 90)


def built(size: int, epoch: int = 0, **options: Any) -> SubsetSampler:
    sampler = SubsetSampler(size, "full", **options)
    sampler.set_epoch(epoch)
    return sampler


def dealt(
    order: Sequence[int], world: int, batch_size: int, drop_last: bool
) -> list[list[list[int]]]:
    """The oracle: steps of ranks' batches, dealt like cards; those left over go round once more."""
    cards, steps = list(order), []
    while len(cards) >= world * batch_size:
        hands: list[list[int]] = [[] for _ in range(world)]
        for _ in range(batch_size):
            for hand in hands:
                hand.append(cards.pop(0))
        steps.append(hands)
    if drop_last:
        return steps
    if len(cards) >= world:
        steps.append([[] for _ in range(world)])
    for place, card in enumerate(cards):
        steps[-1][place % world].append(card)
    return steps


def walked(shares: Sequence[Sampler[Any]]) -> list[list[Any]]:
    """What ranks walk: all iterators are built before one is at its end, as by ranks side by side."""
    return [list(walk) for walk in [iter(share) for share in shares]]


@given(sizes, worlds, batch_sizes, st.booleans())
def test_batches_of_all_ranks_are_stretches_of_the_order(
    size: int, world: int, batch_size: int, drop_last: bool
) -> None:
    assume(size >= world)
    sampler = built(size)
    order = sampler.order().tolist()
    steps = dealt(order, world, batch_size, drop_last)
    shares = [sampler.shard(rank, world, batch_size, drop_last) for rank in range(world)]
    assert [len(share) for share in shares] == [len(steps)] * world
    assert walked(shares) == [[hands[rank] for hands in steps] for rank in range(world)]
    # Whoever counts full steps stands where the next one begins.
    step = world * batch_size
    ends = [step * (place + 1) for place in range(len(steps))]
    if steps and not drop_last:
        ends[-1] = size
    together = [sorted(index for hand in hands for index in hand) for hands in steps]
    assert together == [sorted(order[place * step : end]) for place, end in enumerate(ends)]
    lengths = [len(hand) for hands in steps for hand in hands]
    assert max(lengths, default=0) <= batch_size + 1
    assert min(lengths, default=1) >= 1


@given(sizes, worlds, batch_sizes, st.booleans())
def test_samples_of_all_ranks_are_stretches_of_the_order_too(
    size: int, world: int, batch_size: int, drop_last: bool
) -> None:
    assume(size >= world)
    sampler = built(size)
    kept = sampler.order().tolist()[: size - size % world]
    shares = [built(size).shard(rank, world) for rank in range(world)]
    assert [len(share) for share in shares] == [size // world] * world
    steps = dealt(kept, world, batch_size, drop_last)
    batches = [BatchSampler(share, batch_size, drop_last) for share in shares]
    assert walked(batches) == [[hands[rank] for hands in steps] for rank in range(world)]
    assert len(steps) == len(sampler.shard(0, world, batch_size, drop_last))  # as the other form


@given(st.integers(6, 60), worlds, batch_sizes, worlds, batch_sizes, st.data())
def test_a_resume_with_other_ranks_trains_on_the_rest_once(
    size: int, world: int, batch_size: int, then: int, batch_size_then: int, data: st.DataObject
) -> None:
    sampler = built(size, epoch=1)
    order = sampler.order().tolist()
    shares = [sampler.shard(rank, world, batch_size) for rank in range(world)]
    walks = [iter(share) for share in shares]
    seen: list[int] = []
    for _ in range(data.draw(st.integers(0, len(shares[0])))):
        seen += [index for walk in walks for index in next(walk)]
        shares[0].advance()
        assert sorted(order[: sampler.consumed]) == sorted(seen)
    resumed = SubsetSampler(size, "full")
    resumed.load_state_dict(copy.deepcopy(sampler.state_dict()))
    resumed.set_epoch(1)
    by_samples = walked(
        [pickle.loads(pickle.dumps(resumed)).shard(rank, then) for rank in range(then)]
    )
    left = size - len(seen)
    again = [resumed.shard(rank, then, batch_size_then) for rank in range(then)]
    if 0 < left < then:
        with pytest.warns(
            UserWarning, match=f"world: got {then}, want at most {left}, the samples"
        ):
            assert walked(again) == [[]] * then
    else:
        rest = walked(again)
        assert len({len(batches) for batches in rest}) == 1
        seen += [index for batches in rest for batch in batches for index in batch]
        assert sorted(seen) == sorted(order)
    assert [len(share) for share in again] == [resumed_length(size, then, batch_size_then)] * then
    assert [len(each) for each in by_samples] == [left // then] * then


def resumed_length(size: int, world: int, batch_size: int) -> int:
    """As of the whole epoch."""
    return len(dealt(range(size), world, batch_size, drop_last=False))


@given(worlds, batch_sizes, st.booleans(), st.none() | st.integers(6, 70), st.integers(0, 2))
def test_total_steps_are_those_of_every_rank(
    world: int, batch_size: int, drop_last: bool, epoch_length: int | None, seed: int
) -> None:
    sampler = SubsetSampler(
        40,
        "random",
        budget=linear(1.0, 0.2),
        epochs=7,
        warmup_epochs=1,
        refresh_every=2,
        tail=0.2,
        epoch_length=epoch_length,
        seed=seed,
    )
    shares = [sampler.shard(rank, world, batch_size, drop_last) for rank in range(world)]
    by_samples = BatchSampler(sampler.shard(0, world), batch_size, drop_last)
    steps = [0] * world
    steps_by_samples = 0
    for epoch in range(7):
        sampler.set_epoch(epoch)
        steps_by_samples += len(by_samples)
        for rank, batches in enumerate(walked(shares)):
            steps[rank] += len(batches)
    planned = sampler.total_steps(batch_size, drop_last, world)
    assert [*steps, steps_by_samples] == [planned] * (world + 1)


def test_a_loader_walks_a_share_with_workers_too() -> None:
    sampler = built(23)
    order = sampler.order().tolist()
    loader = DataLoader(
        TensorDataset(torch.arange(23)), batch_sampler=sampler.shard(1, 2, 4), num_workers=1
    )
    assert len(loader) == 3
    assert [batch.tolist() for (batch,) in loader] == [
        hands[1] for hands in dealt(order, 2, 4, drop_last=False)
    ]


def test_a_share_is_the_sampler_s_epoch_live() -> None:
    sampler = SubsetSampler(40, "random", budget=0.5, warmup_epochs=1)
    share, batches = sampler.shard(0, 3), sampler.shard(0, 3, 4)
    assert (len(share), len(batches)) == (13, 4)
    first = list(batches)  # begins epoch 0, as the sampler does
    assert sampler.epoch == 0
    batches.set_epoch(1)
    assert (sampler.epoch, len(share), len(batches)) == (1, 6, 2)
    assert list(batches) != first[:2]
    share.set_epoch(2)
    assert sampler.epoch == 2
    copies = [pickle.loads(pickle.dumps(each)) for each in (share, batches)]
    here, there = walked([share, batches]), walked(copies[:1]) + walked(copies[1:])
    assert here == there


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [9, 11])  # the last step is one sample larger, or one smaller
def test_an_epoch_that_is_over_warns_whoever_iterates_it_again(size: int, drop_last: bool) -> None:
    sampler = built(size)
    shares = [sampler.shard(rank, 2, 2, drop_last) for rank in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walked(shares)
    with pytest.warns(UserWarning, match="epoch 0 may be over and is iterated again"):
        iter(shares[0])
    sampler.set_epoch(1)
    for _ in range(len(shares[0])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            iter(shares[1])
        shares[1].advance()
    assert sampler.consumed == (8 if drop_last else size)
    with pytest.warns(UserWarning, match="epoch 1 is over and is iterated again"):
        iter(shares[1])


def test_an_epoch_by_samples_is_over_where_the_rest_cannot_be_dealt() -> None:
    sampler = built(11)
    share = sampler.shard(0, 2)
    sampler.advance(8)
    iter(share)
    sampler.advance(2)
    with pytest.warns(UserWarning, match="epoch 0 is over"):
        assert len(list(share)) == 5
    resumed = SubsetSampler(11, "full")
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed.shard(0, 2)) == []


def test_a_step_beyond_the_epoch_is_refused() -> None:
    batches = built(8).shard(0, 2, 4)
    batches.advance()
    with pytest.raises(
        ValueError, match="samples: got 8, want 0: all 8 of epoch 0 were trained on"
    ):
        batches.advance()
    with pytest.raises(RuntimeError, match="epoch: got none yet"):
        SubsetSampler(8, "full").shard(0, 2, 4).advance()


def test_what_is_no_share_is_refused_by_name() -> None:
    sampler = built(3)
    for arguments, message in (
        ((0, 0), "world: got 0, want at least 1"),
        ((2, 2), "rank: got 2, want at most 1"),
        ((-1, 2), "rank: got -1, want at least 0"),
        ((0, 2, 0), "batch_size: got 0, want at least 1"),
        ((0, 2, None, True), "drop_last: got True without batch_size, want both"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.shard(*arguments)  # type: ignore[call-overload]
    fewer = "world: got 4, want at most 3, the samples of the epoch"
    for share in (sampler.shard(0, 4), sampler.shard(0, 4, 2)):
        for ask in (len, iter):
            with pytest.raises(ValueError, match=fewer):
                ask(share)  # type: ignore[operator]
    with pytest.raises(ValueError, match=fewer):
        SubsetSampler(3, "full", epochs=2).total_steps(2, world=4)
    assert list(sampler.shard(0, 4, 1, drop_last=True)) == []


@given(st.integers(1, 50), st.integers(1, 9))
def test_parts_to_score_are_ascending_even_and_complete(size: int, world: int) -> None:
    parts = [list(RankShard(size, rank, world)) for rank in range(world)]
    assert [index for part in parts for index in part] == list(range(size))
    assert [len(RankShard(size, rank, world)) for rank in range(world)] == list(map(len, parts))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert list(RankShard(size)) == list(range(size))  # no process group


def test_what_is_no_part_to_score_is_refused_by_name() -> None:
    for arguments, message in (
        ((0,), "num_samples: got 0, want at least 1"),
        ((5, 1), "world: got None beside rank, want both or none"),
        ((5, None, 2), "rank: got None beside world, want both or none"),
        ((5, 2, 2), "rank: got 2, want at most 1"),
    ):
        with pytest.raises(ValueError, match=message):
            RankShard(*arguments)
