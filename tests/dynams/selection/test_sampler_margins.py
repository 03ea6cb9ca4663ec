"""What the sampler selects by margins handed over in pairs, and when, against a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import SubsetSampler, linear, power
from sampler_inputs import N, margins_of, run, scorer, smallest


@given(
    st.lists(
        st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("nan")]),
            st.floats(-100, 100, width=32),
        ),
        min_size=1,
        max_size=60,
    ),
    st.floats(0.01, 1.0),
    st.integers(1, 9),
)
def test_the_selection_is_the_oracles_smallest_margins(
    values: list[float], budget: float, batch: int
) -> None:
    margins = torch.tensor(values, dtype=torch.float32)
    n = len(values)
    sampler = SubsetSampler(n, budget=budget)
    refresh = sampler.begin_epoch(
        0, lambda: ((part, margins[part]) for part in torch.arange(n).split(batch))
    )
    k = max(1, int(n * budget + 0.5))
    assert sampler.indices.tolist() == smallest(margins, k)
    assert refresh is not None
    assert refresh.indices.tolist() == smallest(margins, k)
    torch.testing.assert_close(refresh.margins, margins, equal_nan=True, rtol=0, atol=0)
    assert sorted(sampler) == smallest(margins, k)
    chosen = margins[sampler.indices]
    np.testing.assert_equal(refresh.threshold, float(chosen.numpy().max()))


@pytest.mark.parametrize("warmup_epochs", [0, 1, 3])
@pytest.mark.parametrize("refresh_every", [1, 2, 5])
def test_margin_refreshes_every_q_epochs_after_the_warm_up(
    warmup_epochs: int, refresh_every: int
) -> None:
    sampler = SubsetSampler(N, budget=0.5, refresh_every=refresh_every, warmup_epochs=warmup_epochs)
    calls: list[int] = []
    previous: list[int] | None = None
    for epoch in range(12):
        due = epoch >= warmup_epochs and (epoch - warmup_epochs) % refresh_every == 0
        assert bool(sampler.wanted(epoch)) == due
        refresh = sampler.begin_epoch(epoch, scorer(epoch, calls=calls))
        assert (refresh is not None) == due
        assert not sampler.wanted(epoch)
        if epoch < warmup_epochs:
            assert sampler.indices.tolist() == list(range(N))
        if refresh is not None:
            selection = smallest(margins_of(epoch), N // 2)
            assert refresh.epoch == epoch
            assert sampler.indices.tolist() == selection
            if previous is None:
                assert refresh.overlap is None
            else:
                shared = len(set(selection) & set(previous)) / len(selection)
                assert refresh.overlap == pytest.approx(shared)
            previous = selection
    assert calls == list(range(warmup_epochs, 12, refresh_every))


def test_static_selects_once_at_the_first_refresh() -> None:
    sampler = SubsetSampler(N, "static-margin", budget=0.4, warmup_epochs=2, refresh_every=2)
    calls: list[int] = []
    orders = run(sampler, 10, calls)
    assert calls == [2]
    assert all(sorted(order) == list(range(N)) for order in orders[:2])
    assert all(sorted(order) == smallest(margins_of(2), 16) for order in orders[2:])
    assert orders[2] != orders[3]


def test_static_follows_a_schedule_on_its_first_scores() -> None:
    schedule = linear(1.0, 0.5)
    sampler = SubsetSampler(N, "static-margin", budget=schedule, epochs=6, refresh_every=2)
    calls: list[int] = []
    orders = run(sampler, 6, calls)
    assert calls == [0]
    for epoch, order in enumerate(orders):
        k = int(N * schedule((epoch - epoch % 2) / 5) + 0.5)
        assert sorted(order) == smallest(margins_of(0), k)


def test_static_changes_at_refreshes_only_and_tells_only_of_changes() -> None:
    budgets = (0.5, 0.5, 0.5, 0.25, 0.25, 0.25)
    sampler = SubsetSampler(
        N,
        "static-margin",
        budget=lambda progress: budgets[round(progress * 5)],
        epochs=6,
        refresh_every=2,
    )
    refreshes = [sampler.begin_epoch(epoch, scorer(epoch)) for epoch in range(6)]
    told = [epoch for epoch, refresh in enumerate(refreshes) if refresh is not None]
    assert told == [0, 4]
    assert refreshes[4] is not None
    assert len(refreshes[4].indices) == N // 4
    assert refreshes[4].overlap == 1.0


def test_a_refresh_keeps_its_margins_through_later_ones() -> None:
    sampler = SubsetSampler(N)
    first = sampler.begin_epoch(0, scorer(0))
    sampler.begin_epoch(1, scorer(1))
    assert first is not None
    assert torch.equal(first.margins, margins_of(0))


def test_a_schedule_sets_the_size_of_every_refresh() -> None:
    schedule = power(1.0, 0.25, 2.0)
    sampler = SubsetSampler(N, budget=schedule, epochs=8, warmup_epochs=1, refresh_every=2)
    for epoch in range(8):
        sampler.begin_epoch(epoch, scorer(epoch))
        start = epoch - (epoch - 1) % 2
        budget = 1.0 if epoch == 0 else schedule((start - 1) / 6)
        assert len(sampler) == int(N * budget + 0.5)
        assert sampler.budget_at(epoch) == budget
    assert budget == 0.25


@pytest.mark.parametrize("strategy", ["margin", "static-margin", "random"])
def test_a_block_whose_first_epochs_are_skipped_is_as_large_as_planned(strategy: str) -> None:
    sampler = SubsetSampler(N, strategy, budget=linear(1.0, 0.5), epochs=12, refresh_every=4)
    for epoch in (0, 6, 7, 11):
        sampler.begin_epoch(epoch, scorer(epoch))
        assert len(sampler) == sampler.timetable.planned_size(epoch, N)


@given(st.data())
def test_samples_never_scored_come_first_and_others_keep_their_last_margin(
    data: st.DataObject,
) -> None:
    sampler = SubsetSampler(12, budget=0.5)
    known = np.full(12, -np.inf)
    for epoch in range(3):
        scored = data.draw(st.lists(st.integers(0, 11), min_size=1, unique=True))
        margins = torch.tensor([float(epoch * 7 % 5 - i % 3) for i in scored])
        known[scored] = margins.numpy()
        refresh = sampler.begin_epoch(
            epoch, lambda scored=scored, margins=margins: [(torch.tensor(scored), margins)]
        )
        assert sampler.indices.tolist() == smallest(torch.from_numpy(known), 6)
        assert refresh is not None
        assert refresh.margins.tolist() == known.tolist()


def test_skipping_over_a_refresh_makes_it_due() -> None:
    sampler = SubsetSampler(N, budget=0.5, refresh_every=4)
    sampler.begin_epoch(0, scorer(0))
    assert not sampler.wanted(3)
    assert sampler.wanted(4)
    assert sampler.wanted(6)
    sampler.begin_epoch(6, scorer(6))
    assert not sampler.wanted(7)
    assert sampler.wanted(8)


def test_pairs_are_of_whatever_score_the_strategy_ranks_by() -> None:
    sampler = SubsetSampler(N, "loss", budget=0.25)
    refresh = sampler.begin_epoch(0, scorer(0))
    assert sampler.indices.tolist() == smallest(-margins_of(0), N // 4)
    assert refresh is not None
    assert refresh.margins.eq(-torch.inf).all()


def test_half_precision_margins_are_taken(device: str) -> None:
    sampler = SubsetSampler(4, budget=0.5, device=device)
    margins = torch.tensor([3.0, 1.0, 2.0, 0.0], dtype=torch.bfloat16)
    refresh = sampler.begin_epoch(0, lambda: [(torch.arange(4), margins)])
    assert refresh is not None
    assert sampler.indices.tolist() == [1, 3]
    assert {t.device.type for t in (sampler.indices, sampler.order(), refresh.margins)} == {device}


def test_another_default_device_changes_nothing() -> None:
    indices, margins = torch.arange(N), margins_of(0)
    with torch.device("meta"):
        sampler = SubsetSampler(N, budget=0.5, device="cpu")
        sampler.begin_epoch(0, lambda: [(indices, margins)])
        assert sorted(sampler) == smallest(margins, N // 2)
