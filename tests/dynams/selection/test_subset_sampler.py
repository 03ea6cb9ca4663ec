"""The sampler of any strategy: what it asks for and when, weights, the tail, what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynams.selection import STRATEGIES, Signals, Strategy, SubsetSampler, build_strategy, linear
from dynams.selection import with_switches as switched
from strategy_inputs import signals

N = 30


def built(name: str, **options: Any) -> Strategy:
    strategy = build_strategy(name, **options)
    assert isinstance(strategy, Strategy)
    return strategy


def known(epoch: int) -> Signals:
    return signals(N, seed=epoch)


def of_epochs() -> list[str]:
    return [name for name in STRATEGIES if isinstance(build_strategy(name), Strategy)]


def test_signals_are_asked_for_by_name_and_only_where_a_selection_needs_them() -> None:
    sampler = SubsetSampler(N, built("glister"), refresh_every=2, warmup_epochs=1)
    for epoch in range(6):
        due = epoch % 2 == 1
        assert sampler.wanted(epoch) == (sampler.strategy.needs if due else frozenset())
        assert (sampler.begin_epoch(epoch, lambda: known(1)) is not None) == due
        assert sampler.wanted(epoch) == frozenset()
    plain = SubsetSampler(N, built("static-random"))
    assert plain.wanted(0) == frozenset()
    assert plain.begin_epoch(0) is not None


@pytest.mark.parametrize("name", of_epochs())
def test_whether_signals_are_to_come_is_known_beforehand(name: str) -> None:
    for dynamic in (None, True, False):
        sampler = SubsetSampler(
            N, built(name), epochs=9, refresh_every=2, warmup_epochs=2, tail=0.25, dynamic=dynamic
        )
        asked, told = [], []
        for epoch in range(9):
            asked.append(bool(sampler.wanted(epoch)))
            sampler.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
            told.append(sampler.wanted_after(epoch))
        assert told == [any(asked[epoch + 1 :]) for epoch in range(9)]


def test_without_a_known_end_nothing_is_annealed() -> None:
    """InfoBatch keeps everything in the last epochs: nobody knows which these are."""
    for epochs, kept in ((None, [False] * 9), (9, [False] * 7 + [True] * 2)):
        sampler = SubsetSampler(N, "infobatch", epochs=epochs)
        found = []
        for epoch in range(9):
            refresh = sampler.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
            assert refresh is not None
            found.append(len(refresh.indices) == N and refresh.weights is None)
        assert found == kept


def test_selections_are_those_of_the_strategy_with_its_weights_in_order() -> None:
    strategy = built("importance", replacement=True)
    sampler = SubsetSampler(N, strategy, budget=0.5, seed=4)
    refresh = sampler.begin_epoch(0, lambda: known(0))
    assert refresh is not None
    assert refresh.weights is not None
    weights = dict(zip(refresh.indices.tolist(), refresh.weights.tolist(), strict=True))
    in_order = sampler.order_weights()
    assert in_order is not None
    assert [weights[i] for i in sampler.order().tolist()] == in_order.tolist()
    assert len(set(in_order.tolist())) > 1
    # Distinct draws give distinct selections; the same seed and block give the same.
    again = SubsetSampler(N, strategy, budget=0.5, seed=4)
    again.begin_epoch(0, lambda: known(0))
    assert torch.equal(again.order(), sampler.order())
    other = SubsetSampler(N, strategy, budget=0.5, seed=5)
    other.begin_epoch(0, lambda: known(0))
    assert not torch.equal(other.indices, sampler.indices)


def test_the_tail_trains_on_everything_without_weights() -> None:
    sampler = SubsetSampler(
        N, built("importance"), budget=linear(1.0, 0.5), epochs=8, refresh_every=2, tail=0.25
    )
    sizes = []
    for epoch in range(8):
        refresh = sampler.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
        sizes.append(len(sampler))
        assert sampler.timetable.planned_size(epoch, N) == len(sampler)
        assert (refresh is not None) == (epoch in (0, 2, 4, 6))
        assert (sampler.weights is None) == (epoch >= 6)
    # The schedule runs over the first six epochs and reaches its end with the last of them.
    assert sizes == [30, 30, 24, 24, 18, 18, 30, 30]
    assert sampler.budget_at(6) == 1.0
    assert sampler.phase(5) == "selected"
    assert sampler.phase(6) == "tail"


def test_a_static_strategy_can_be_made_dynamic_and_the_other_way_round() -> None:
    for name, published in (("el2n", False), ("loss", True)):
        for dynamic in (None, True, False):
            sampler = SubsetSampler(N, built(name), budget=0.5, dynamic=dynamic)
            asked = []
            for epoch in range(3):
                asked.append(bool(sampler.wanted(epoch)))
                sampler.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
            again = published if dynamic is None else dynamic
            assert asked == [True, again, again]


def test_static_draws_are_nested_when_the_budget_falls() -> None:
    sampler = SubsetSampler(N, built("static-random"), budget=linear(1.0, 0.2), epochs=5)
    before = set(range(N))
    for epoch in range(5):
        sampler.begin_epoch(epoch)
        assert set(sampler.indices.tolist()) <= before
        before = set(sampler.indices.tolist())


def test_static_features_are_scored_again_where_a_schedule_needs_them() -> None:
    options = {"budget": linear(1.0, 0.5), "epochs": 4, "dynamic": False}
    craig = SubsetSampler(N, built("craig"), **options)
    loss = SubsetSampler(N, built("loss"), **options)
    asked: dict[str, list[bool]] = {"craig": [], "loss": []}
    for epoch in range(4):
        for name, sampler in (("craig", craig), ("loss", loss)):
            asked[name].append(bool(sampler.wanted(epoch)))
            sampler.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
            assert len(sampler) == sampler.timetable.planned_size(epoch, N)
    assert asked == {"craig": [True] * 4, "loss": [True, False, False, False]}


def test_a_strategy_that_decides_its_size_is_asked_as_it_is() -> None:
    sampler = SubsetSampler(N, built("infobatch", delta=0.9), budget=0.1, epochs=4)
    for epoch in range(4):
        sampler.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
        assert sampler.budget_at(epoch) == 1.0
        assert len(sampler) > 3
    assert len(sampler) == N  # progress 1 lies in its own annealing


@pytest.mark.parametrize("name", of_epochs())
def test_a_state_taken_anywhere_continues_the_run(name: str) -> None:
    def make() -> SubsetSampler:
        strategy = built(name)
        if strategy.budgeted:
            strategy = switched(strategy, class_shares="proportional", exploration=0.2)
        return SubsetSampler(
            N,
            strategy,
            budget=linear(1.0, 0.5),
            epochs=8,
            refresh_every=2,
            warmup_epochs=1,
            tail=0.2,
        )

    whole = make()
    for epoch in range(8):
        whole.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
        resumed = make()
        whole.advance(3)
        resumed.load_state_dict(whole.state_dict())
        assert list(resumed) == whole.order().tolist()[3:]
        if epoch == 3:
            early = resumed
        if epoch >= 3:
            early.begin_epoch(epoch, lambda epoch=epoch: known(epoch))
            assert torch.equal(early.order(), whole.order())
            ours, wanted = early.order_weights(), whole.order_weights()
            assert (ours is None) == (wanted is None)
            if ours is not None and wanted is not None:
                assert torch.equal(ours, wanted)


def test_a_state_of_another_strategy_or_tail_is_refused() -> None:
    state = SubsetSampler(N, built("importance", smoothing=0.2), epochs=8).state_dict()
    with pytest.raises(
        ValueError, match=r"got strategy=.Importance\(.*smoothing=0.2\)., want .Imp"
    ):
        SubsetSampler(N, built("importance"), epochs=8).load_state_dict(state)
    with pytest.raises(ValueError, match="got tail_epochs=0, want 4"):
        SubsetSampler(N, built("importance", smoothing=0.2), epochs=8, tail=0.5).load_state_dict(
            state
        )


def test_margins_are_told_where_the_strategy_knows_them() -> None:
    strategy = switched(built("margin"), noise_share=0.1, noise_score="label")
    sampler = SubsetSampler(N, strategy, budget=0.5)
    refresh = sampler.begin_epoch(0, lambda: known(0))
    assert refresh is not None
    assert torch.equal(refresh.margins, known(0).score("gap"))
    assert refresh.threshold == float(refresh.margins[refresh.indices].max())
    other = SubsetSampler(N, built("entropy"), budget=0.5)
    refresh = other.begin_epoch(0, lambda: known(0))
    assert refresh is not None
    assert refresh.margins.eq(-torch.inf).all()
    assert refresh.threshold != refresh.threshold
