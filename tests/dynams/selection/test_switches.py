"""Quotas, class balance, exploration and the noise guard, around any strategy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import Selection, Strategy, SubsetSampler, Visits
from dynams.selection.methods import (
    Craig,
    Full,
    Importance,
    InfoBatch,
    Loss,
    Margin,
    Random,
    StaticMargin,
)
from dynams.selection.quotas import class_parts, equal_quotas, proportional_quotas
from dynams.selection.signals import Signals
from dynams.selection.switches import (
    Aged,
    ClassBalanced,
    Exploring,
    NoiseGuard,
    Shares,
    aged_ranks,
    with_switches,
)
from strategy_inputs import generator, signals, tensor

sizes = st.lists(st.integers(0, 30), max_size=8)


def select(strategy: Strategy, known: Signals, size: int, seed: int = 0) -> Selection:
    return strategy.select(known, size, epoch=0, progress=0.0, generator=generator(seed))


def labelled(gaps: list[float], labels: list[int]) -> Signals:
    return Signals(len(gaps), {"gap": tensor(gaps)}, torch.tensor(labels))


@given(sizes, st.data())
def test_proportional_quotas_are_by_largest_remainder(
    groups: list[int], data: st.DataObject
) -> None:
    total = data.draw(st.integers(0, sum(groups)))
    quotas = proportional_quotas(groups, total)
    assert sum(quotas) == total
    everything = max(sum(groups), 1)
    extra = []
    for quota, group in zip(quotas, groups, strict=True):
        whole, remainder = divmod(total * group, everything)
        assert quota in (whole, whole + 1)
        assert quota <= group
        extra.append((quota - whole, remainder))
    lucky = [remainder for more, remainder in extra if more]
    others = [remainder for more, remainder in extra if not more]
    assert min(lucky, default=everything) >= max(others, default=0)


@given(sizes, st.data())
def test_equal_quotas_are_level_but_for_full_groups(groups: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(groups)))
    quotas = equal_quotas(groups, total)
    assert sum(quotas) == total
    assert all(quota <= group for quota, group in zip(quotas, groups, strict=True))
    open_quotas = [quota for quota, group in zip(quotas, groups, strict=True) if quota < group]
    if open_quotas:
        assert max(quotas) <= min(open_quotas) + 1


def test_quotas_by_hand() -> None:
    assert proportional_quotas([50, 30, 20], 7) == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert proportional_quotas([1, 1, 1], 2) == [1, 1, 0]  # equal remainders: the first
    assert equal_quotas([10, 2, 10], 12) == [5, 2, 5]
    assert equal_quotas([10, 2, 10], 13) == [6, 2, 5]
    for share in (proportional_quotas, equal_quotas):
        with pytest.raises(ValueError, match="total: got 4, want at most 3"):
            share([1, 2], 4)


@given(st.lists(st.integers(-2, 3), max_size=40), st.integers(1, 9), st.integers(0, 9))
def test_parts_are_of_one_class_and_hold_every_sample_once(
    labels: list[int], part_size: int, seed: int
) -> None:
    parts = class_parts(torch.tensor(labels, dtype=torch.int64), part_size, generator(seed))
    assert sorted(index for part in parts for index in part.tolist()) == list(range(len(labels)))
    for part in parts:
        members = labels.count(labels[int(part[0])])
        assert len({labels[index] for index in part.tolist()}) == 1
        count = -(-members // part_size)
        assert len(part) in (members // count, members // count + 1)
        assert part.tolist() == sorted(part.tolist())


def test_each_class_gives_its_smallest_margins() -> None:
    known = labelled([5, 6, 7, 8, 1, 2, 3, 4], [0, 0, 0, 0, 1, 1, 2, 2])
    assert select(Margin(), known, 4).indices.tolist() == [4, 5, 6, 7]
    assert select(ClassBalanced(Margin()), known, 4).indices.tolist() == [0, 1, 4, 6]
    equal = ClassBalanced(Margin(), "equal")
    assert select(equal, known, 6).indices.tolist() == [0, 1, 4, 5, 6, 7]
    assert equal.needs == {"gap", "labels"}


@pytest.mark.parametrize("shares", ["proportional", "equal"])
def test_of_every_class_the_extreme_scores_ties_by_index_and_nan_last(shares: Shares) -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice([-4, 0, 7, 10**9], 200, p=[0.1, 0.2, 0.3, 0.4])
    scores = rng.integers(0, 9, 200).astype(np.float32)
    scores[rng.random(200) < 0.2] = np.nan
    known = Signals(200, {"loss": torch.from_numpy(scores)}, torch.from_numpy(labels))
    share = proportional_quotas if shares == "proportional" else equal_quotas
    for size in (0, 1, 77, 200):
        classes, counts = np.unique(labels, return_counts=True)
        want = []
        for label, quota in zip(classes, share(counts.tolist(), size), strict=True):
            members = np.flatnonzero(labels == label)
            falling = np.where(np.isnan(scores[members]), np.inf, -scores[members])
            want += members[np.argsort(falling, kind="stable")[:quota]].tolist()
        got = select(ClassBalanced(Loss(), shares), known, size)
        assert got.indices.tolist() == sorted(want)
        assert got.weights is None


def test_equal_shares_leave_weighted_means_unbiased() -> None:
    rng = np.random.default_rng(0)
    labels = [0] * 9 + [1] * 3
    known = Signals(12, {"el2n": tensor(rng.random(12))}, torch.tensor(labels))
    losses = rng.exponential(size=12)
    strategy, source, means = ClassBalanced(Importance(), "equal"), generator(1), []
    for _ in range(400):
        selection = strategy.select(known, 4, epoch=0, progress=0.0, generator=source)
        assert selection.weights is not None
        means.append(np.mean(selection.weights.numpy() * losses[selection.indices.numpy()]))
    error = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - losses.mean()) < 5 * error


def test_clusters_keep_their_sizes_under_equal_shares() -> None:
    known = signals(40, classes=2)
    selection = select(ClassBalanced(Craig(), "equal"), known, 8)
    assert selection.weights is not None
    assert known.labels is not None
    clusters = selection.weights.numpy() * 40 / 8
    np.testing.assert_allclose(clusters, np.round(clusters), atol=1e-4)
    for label in (0, 1):
        chosen = known.labels[selection.indices].numpy() == label
        assert chosen.sum() == 4
        assert clusters[chosen].sum() == pytest.approx(int((known.labels == label).sum()), rel=1e-5)


def test_exploration_draws_evenly_from_the_rest() -> None:
    known = labelled([0, 1, 2, 3, 4, 5, 6, 7], [0] * 8)
    draws = [
        select(Exploring(Margin(), 0.4), known, 5, seed).indices.tolist() for seed in range(500)
    ]
    assert all(draw[:3] == [0, 1, 2] for draw in draws)
    counts = np.bincount([index for draw in draws for index in draw], minlength=8)[3:]
    assert counts.sum() == 1000
    assert np.abs(counts - 200).max() < 5 * np.sqrt(500 * 0.24)
    assert select(Exploring(Margin(), 0.0), known, 5).indices.tolist() == [0, 1, 2, 3, 4]


def test_explored_samples_weigh_one() -> None:
    known = signals(30)
    selection = select(Exploring(Craig(), 0.5), known, 10)
    taken = select(Craig(), known, 5)
    assert selection.weights is not None
    assert taken.weights is not None
    weights = dict(zip(selection.indices.tolist(), selection.weights.tolist(), strict=True))
    for index, weight in zip(taken.indices.tolist(), taken.weights.tolist(), strict=True):
        assert weights.pop(index) == weight
    assert list(weights.values()) == [1.0] * 5


def test_unbiased_exploration_by_hand() -> None:
    known = labelled([0, 1, 2, 3, 4, 5], [0] * 6)
    selection = select(Exploring(Margin(), 0.5, unbiased=True), known, 4)
    assert selection.weights is not None
    # Two for certain, at 4 / 6; two of the other four, each for two of them.
    assert selection.indices[:2].tolist() == [0, 1]
    assert selection.weights.tolist() == pytest.approx([2 / 3, 2 / 3, 4 / 3, 4 / 3])
    assert select(Exploring(Margin(), 0.0, unbiased=True), known, 4).weights is None


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 9))
def test_unbiased_exploration_counts_every_sample_once_on_average(
    count: int, share: float, budget: float, largest: bool, seed: int
) -> None:
    scores = tensor(np.random.default_rng(seed).integers(0, 9, count))
    known = Signals(count, {"gap": scores, "loss": scores})
    strategy = Exploring(Loss() if largest else Margin(), share, unbiased=True)
    size = round(budget * count)
    selection = select(strategy, known, size, seed)
    taken = set(select(strategy.strategy, known, size - int(share * size + 0.5)).indices.tolist())
    assert taken <= set(selection.indices.tolist())
    explored = size - len(taken)
    if explored == 0:
        assert selection.weights is None
        return
    assert selection.weights is not None
    # A sample that was not taken is drawn with this probability: weight times probability is the same for all.
    drawn = explored / (count - len(taken))
    for index, weight in zip(selection.indices.tolist(), selection.weights.tolist(), strict=True):
        assert weight * (1 if index in taken else drawn) == pytest.approx(size / count, rel=1e-5)
    assert selection.weights.mean().item() == pytest.approx(1.0, rel=1e-5)


def test_unbiased_exploration_leaves_means_over_classes_unbiased() -> None:
    rng = np.random.default_rng(0)
    known = Signals(12, {"gap": tensor(rng.random(12))}, torch.tensor([0] * 9 + [1] * 3))
    losses = rng.exponential(size=12)
    strategy = ClassBalanced(Exploring(Margin(), 0.5, unbiased=True), "equal")
    source, means = generator(1), []
    for _ in range(400):
        selection = strategy.select(known, 8, epoch=0, progress=0.0, generator=source)
        assert selection.weights is not None
        means.append(np.mean(selection.weights.numpy() * losses[selection.indices.numpy()]))
    assert abs(np.mean(means) - losses.mean()) < 5 * np.std(means) / np.sqrt(len(means))


def test_the_guard_leaves_out_the_most_suspicious() -> None:
    known = Signals(
        6,
        {"loss": tensor([1, 9, 2, np.nan, 3, 4]), "label": tensor([-1, 2, np.nan, 1, -5, 3])},
    )
    assert select(NoiseGuard(Loss(), 1 / 3), known, 2).indices.tolist() == [4, 5]
    by_margin = NoiseGuard(Loss(), 1 / 3, "label")
    assert select(by_margin, known, 2).indices.tolist() == [1, 5]
    assert by_margin.needs == {"loss", "label"}
    # Of six, two suspects; but five are wanted, so one only goes: the NaN.
    assert select(NoiseGuard(Loss(), 1 / 3), known, 5).indices.tolist() == [0, 1, 2, 4, 5]
    assert select(NoiseGuard(Full(), 1 / 3), known, 6).indices.tolist() == [0, 2, 4, 5]


def test_switches_combine_guard_first_then_classes_then_exploration() -> None:
    assert with_switches(Margin()) == Margin()
    assert with_switches(
        Margin(), class_shares="equal", exploration=0.2, noise_share=0.1, noise_score="label"
    ) == NoiseGuard(ClassBalanced(Exploring(Margin(), 0.2), "equal"), 0.1, "label")
    for inner in (Margin(), StaticMargin()):
        switched = with_switches(inner, class_shares="equal", exploration=0.2, noise_share=0.1)
        assert switched.dynamic == inner.dynamic
    assert not with_switches(Loss(), noise_share=0.1).needs - {"loss"}


def test_what_does_not_fit_is_refused() -> None:
    for make in (ClassBalanced, Exploring):
        with pytest.raises(ValueError, match="got InfoBatch, want a strategy that keeps to a size"):
            make(InfoBatch())
    with pytest.raises(ValueError, match="shares: got 'even', want one of proportional, equal"):
        ClassBalanced(Random(), "even")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="score: got 'gap', want one of loss, label"):
        NoiseGuard(Random(), 0.1, "gap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"share: got 1\.0, want a number in \[0, 1\)"):
        NoiseGuard(Random(), 1.0)
    with pytest.raises(ValueError, match=r"exploration: got 1\.5, want a number in \[0, 1\]"):
        with_switches(Random(), exploration=1.5)
    with pytest.raises(
        ValueError, match="unbiased: got Importance, want a strategy that ranks by one"
    ):
        with_switches(Importance(), exploration=0.5, unbiased=True)
    with pytest.raises(ValueError, match=r"exploration: got 0\.0, want above 0"):
        with_switches(Margin(), unbiased=True)


@given(st.integers(0, 40), st.integers(0, 99), st.sampled_from([0.0, 0.25, 3.0]), st.data())
def test_age_and_chance_are_added_to_the_rank_by_difficulty(
    count: int, seed: int, age_weight: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    size = data.draw(st.integers(0, count))
    softness = data.draw(st.sampled_from([0.0, 1.0]))
    # Few values: many are equal, some are NaN.
    gaps = rng.choice([-1.0, 0.5, 2.0, np.inf, np.nan], count)
    epochs = rng.choice([-np.inf, 0.0, 2.0, 3.0, 6.0], count)
    known = Signals(count, {"gap": tensor(gaps), "last_epoch": tensor(epochs)})
    strategy = Aged(Margin(), age_weight, softness)
    got = strategy.select(known, size, epoch=7, progress=0.5, generator=generator(seed))

    ranks = np.empty(count)
    ranks[np.lexsort((np.arange(count), gaps, np.isnan(gaps)))] = np.arange(count)[::-1] / max(
        count, 1
    )
    drawn = torch.rand(count, generator=generator(seed), dtype=torch.float64).numpy()
    for place in range(count):
        if epochs[place] == -np.inf:
            ranks[place] = np.inf
        else:
            ranks[place] += age_weight * (6.0 - epochs[place]) + softness * drawn[place]
    want = np.argsort(-ranks, kind="stable")[:size]
    assert got.indices.tolist() == sorted(want.tolist())
    assert got.weights is None


def test_a_sampler_keeps_apart_who_was_never_trained_on() -> None:
    """The scores it stores have a finite number in the place of -inf."""
    strategy = with_switches(Margin(), softness=0.5)
    visits = Visits(10, strategy.needs)
    visits.record(0, torch.arange(5), torch.rand(5, 3), torch.zeros(5, dtype=torch.int64))
    sampler = SubsetSampler(10, strategy, budget=0.5, score=visits.signals)
    sampler.begin_epoch(1)
    assert sampler.indices.tolist() == [5, 6, 7, 8, 9]


def test_a_sample_left_out_long_enough_comes_before_any_that_was_not() -> None:
    skipped = torch.tensor([0.0, 4.0, 3.0])
    for easiest_first in (torch.tensor([0.0, 9.0, 1.0]), torch.tensor([0.0, torch.nan, 1.0])):
        ranks = aged_ranks(easiest_first, skipped, age_weight=0.25)
        torch.testing.assert_close(ranks, torch.tensor([2 / 3, 1.0, 13 / 12], dtype=torch.float64))


def test_ranks_of_what_does_not_fit_are_refused() -> None:
    ranking = torch.tensor([0.0, 1.0])
    with pytest.raises(
        ValueError, match=r"^ranking and skipped: got shapes \(2,\) and \(1,\), want"
    ):
        aged_ranks(ranking, ranking[:1], age_weight=0.25)
    with pytest.raises(ValueError, match=r"^generator: got None, want one with softness 1$"):
        aged_ranks(ranking, ranking, age_weight=0.25, softness=1.0)


def test_age_is_for_strategies_that_rank_by_one_score() -> None:
    assert with_switches(Margin()) == Margin()
    aged = with_switches(Margin(), age_weight=0.25, exploration=0.1)
    assert aged == Exploring(Aged(Margin(), 0.25), 0.1)
    assert aged.needs == {"gap", "last_epoch"}
    with pytest.raises(ValueError, match=r"^age_weight: got Craig, want a strategy that ranks"):
        with_switches(Craig(), age_weight=0.25)
    with pytest.raises(ValueError, match=r"^softness: got -1.0, want a number in \[0, inf\)$"):
        with_switches(Margin(), softness=-1.0)
