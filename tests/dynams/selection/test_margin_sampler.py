"""What the sampler selects, when, in which order, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from dynams.selection import MarginSampler, linear, power
from dynams.selection.margin_sampler import MARGIN_STRATEGIES

N = 40


def margins_of(epoch: int, n: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + epoch)
    # Few distinct values: ties are the rule.
    return torch.randint(0, n // 3 + 1, (n,), generator=generator).float()


def scorer(
    epoch: int, n: int = N, calls: list[int] | None = None
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    def score() -> Iterator[tuple[Tensor, Tensor]]:
        if calls is not None:
            calls.append(epoch)
        margins = margins_of(epoch, n)
        for indices in torch.arange(n).split(7):
            yield indices, margins[indices]

    return score


def run(sampler: MarginSampler, epochs: int, calls: list[int] | None = None) -> list[list[int]]:
    """The order of every epoch."""
    orders = []
    for epoch in range(epochs):
        sampler.begin_epoch(epoch, scorer(epoch, calls=calls))
        orders.append(list(sampler))
    return orders


def smallest(margins: Tensor, k: int) -> list[int]:
    """The oracle: NumPy's stable sort, NaN last."""
    order = np.argsort(margins.double().numpy(), kind="stable")
    return sorted(order[:k].tolist())


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
    sampler = MarginSampler(n, budget=budget)
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
    sampler = MarginSampler(N, budget=0.5, refresh_every=refresh_every, warmup_epochs=warmup_epochs)
    calls: list[int] = []
    previous: list[int] | None = None
    for epoch in range(12):
        due = epoch >= warmup_epochs and (epoch - warmup_epochs) % refresh_every == 0
        assert sampler.due(epoch) == due
        refresh = sampler.begin_epoch(epoch, scorer(epoch, calls=calls))
        assert (refresh is not None) == due
        assert not sampler.due(epoch)
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
    sampler = MarginSampler(N, budget=0.4, strategy="static", warmup_epochs=2, refresh_every=2)
    calls: list[int] = []
    orders = run(sampler, 10, calls)
    assert calls == [2]
    assert all(sorted(order) == list(range(N)) for order in orders[:2])
    assert all(sorted(order) == smallest(margins_of(2), 16) for order in orders[2:])
    assert orders[2] != orders[3]


def test_static_follows_a_schedule_on_its_first_scores() -> None:
    schedule = linear(1.0, 0.5)
    sampler = MarginSampler(N, budget=schedule, epochs=6, strategy="static", refresh_every=2)
    calls: list[int] = []
    orders = run(sampler, 6, calls)
    assert calls == [0]
    for epoch, order in enumerate(orders):
        k = int(N * schedule((epoch - epoch % 2) / 5) + 0.5)
        assert sorted(order) == smallest(margins_of(0), k)


def test_static_changes_at_refreshes_only_and_tells_only_of_changes() -> None:
    budgets = (0.5, 0.5, 0.5, 0.25, 0.25, 0.25)
    sampler = MarginSampler(
        N,
        budget=lambda progress: budgets[round(progress * 5)],
        epochs=6,
        strategy="static",
        refresh_every=2,
    )
    refreshes = [sampler.begin_epoch(epoch, scorer(epoch)) for epoch in range(6)]
    assert [refresh is not None for refresh in refreshes] == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert refreshes[4] is not None
    assert len(refreshes[4].indices) == N // 4
    assert refreshes[4].overlap == 1.0


def test_a_refresh_keeps_its_margins_through_later_ones() -> None:
    sampler = MarginSampler(N)
    first = sampler.begin_epoch(0, scorer(0))
    sampler.begin_epoch(1, scorer(1))
    assert first is not None
    assert torch.equal(first.margins, margins_of(0))


def test_random_draws_anew_every_q_epochs_and_repeats_by_seed() -> None:
    def subsets(seed: int) -> list[tuple[int, ...]]:
        sampler = MarginSampler(N, budget=0.5, strategy="random", refresh_every=2, seed=seed)
        return [tuple(sorted(order)) for order in run(sampler, 8)]

    one = subsets(0)
    assert all(len(set(subset)) == N // 2 for subset in one)
    assert one[0::2] == one[1::2]
    assert len(set(one[0::2])) == 4
    assert one == subsets(0)
    assert not set(one) & set(subsets(1))


def test_random_needs_no_scores_and_tells_what_changed() -> None:
    sampler = MarginSampler(N, budget=0.5, strategy="random")
    first, second = sampler.begin_epoch(0), sampler.begin_epoch(1)
    assert first is not None
    assert second is not None
    assert first.overlap is None
    shared = len(set(first.indices.tolist()) & set(second.indices.tolist())) / (N // 2)
    assert second.overlap == pytest.approx(shared)
    assert np.isnan(second.threshold)
    assert second.margins.eq(-torch.inf).all()


def test_a_random_subset_does_not_depend_on_the_epochs_before() -> None:
    walked = MarginSampler(N, budget=0.5, strategy="random", refresh_every=2)
    run(walked, 6)
    jumped = MarginSampler(N, budget=0.5, strategy="random", refresh_every=2)
    jumped.begin_epoch(5)
    assert torch.equal(walked.indices, jumped.indices)
    assert torch.equal(walked.order(), jumped.order())


def test_full_keeps_every_sample_and_never_changes() -> None:
    sampler = MarginSampler(N, strategy="full")
    for epoch in range(4):
        assert not sampler.due(epoch)
        assert sampler.begin_epoch(epoch) is None
        assert sorted(sampler) == list(range(N))
        assert sampler.budget_at(epoch) == 1.0


def test_a_schedule_sets_the_size_of_every_refresh() -> None:
    schedule = power(1.0, 0.25, 2.0)
    sampler = MarginSampler(N, budget=schedule, epochs=8, warmup_epochs=1, refresh_every=2)
    for epoch in range(8):
        sampler.begin_epoch(epoch, scorer(epoch))
        start = epoch - (epoch - 1) % 2
        budget = 1.0 if epoch == 0 else schedule((start - 1) / 6)
        assert len(sampler) == int(N * budget + 0.5)
    assert sampler.budget_at(0) == 1.0
    assert sampler.budget_at(7) == 0.25


def test_a_foreign_schedule_is_asked_and_checked() -> None:
    sampler = MarginSampler(N, budget=lambda progress: 0.5 - progress, epochs=3)
    assert sampler.budget_at(0) == 0.5
    assert sampler.begin_epoch(0, scorer(0)) is not None
    with pytest.raises(ValueError, match=r"got -0.5, want a number in \(0, 1\]"):
        sampler.begin_epoch(2, scorer(2))
    assert sampler.epoch == 0


def test_samples_never_scored_come_first() -> None:
    sampler = MarginSampler(10, budget=0.4)
    scored = torch.tensor([0, 1, 2, 3, 4, 5, 7, 9])
    sampler.begin_epoch(0, lambda: [(scored, -torch.arange(8.0))])
    assert sampler.indices.tolist() == [6, 7, 8, 9]


def test_samples_not_scored_again_keep_their_scores() -> None:
    sampler = MarginSampler(6, budget=0.5)
    sampler.begin_epoch(0, lambda: [(torch.arange(6), torch.arange(6.0))])
    sampler.begin_epoch(1, lambda: [(torch.tensor([0, 5]), torch.tensor([9.0, 1.5]))])
    assert sampler.indices.tolist() == [1, 2, 5]


@pytest.mark.parametrize("strategy", MARGIN_STRATEGIES)
def test_the_permutation_depends_only_on_seed_and_epoch(strategy: Any) -> None:
    sampler = MarginSampler(N, budget=0.5, strategy=strategy, seed=5)
    run(sampler, 3)
    places = [sampler.indices.tolist().index(index) for index in sampler]
    plain = MarginSampler(len(sampler), strategy="full", seed=5)
    plain.begin_epoch(2)
    assert places == list(plain)
    assert sorted(places) == list(range(len(sampler)))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = set()
    for seed in range(4):
        orders |= {tuple(order) for order in run(MarginSampler(N, strategy="full", seed=seed), 4)}
    assert len(orders) == 16


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    run(MarginSampler(N, strategy="random"), 3)
    run(MarginSampler(N), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffling_the_order_ascends() -> None:
    sampler = MarginSampler(N, budget=0.5, shuffle=False)
    sampler.begin_epoch(0, scorer(0))
    assert list(sampler) == sampler.indices.tolist() == smallest(margins_of(0), N // 2)


@pytest.mark.parametrize("shuffle", [True, False])
def test_order_is_what_iteration_walks_and_is_a_copy(shuffle: bool) -> None:
    sampler = MarginSampler(N, budget=0.5, shuffle=shuffle)
    sampler.begin_epoch(0, scorer(0))
    order = sampler.order()
    assert order.dtype == torch.int64
    assert order.tolist() == list(sampler)
    assert len(order) == len(sampler)
    order.zero_()
    assert sampler.indices.tolist() == smallest(margins_of(0), N // 2)


def test_a_second_walk_of_an_epoch_is_the_same_walk() -> None:
    sampler = MarginSampler(N)
    sampler.begin_epoch(0, scorer(0))
    assert list(sampler) == list(sampler)


def test_beginning_an_epoch_twice_changes_nothing() -> None:
    sampler = MarginSampler(N, budget=0.5)
    calls: list[int] = []
    sampler.begin_epoch(0, scorer(0, calls=calls))
    walk = iter(sampler)
    first = [next(walk) for _ in range(5)]
    assert sampler.begin_epoch(0, scorer(9, calls=calls)) is None
    assert sampler.begin_epoch(0) is None
    assert calls == [0]
    assert sampler.consumed == 5
    assert first + list(walk) == list(sampler)


def test_going_back_is_refused() -> None:
    sampler = MarginSampler(N, strategy="full")
    sampler.begin_epoch(3)
    with pytest.raises(ValueError, match="epoch must not lie before the current one, 3; got 2"):
        sampler.begin_epoch(2)
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        sampler.begin_epoch(-1)


def test_skipping_over_a_refresh_makes_it_due() -> None:
    sampler = MarginSampler(N, budget=0.5, refresh_every=4)
    sampler.begin_epoch(0, scorer(0))
    assert not sampler.due(3)
    assert sampler.due(4)
    assert sampler.due(6)
    sampler.begin_epoch(6, scorer(6))
    assert not sampler.due(7)
    assert sampler.due(8)


def test_use_before_the_first_epoch_is_refused() -> None:
    sampler = MarginSampler(N)
    assert len(sampler) == N
    with pytest.raises(RuntimeError, match="call begin_epoch"):
        iter(sampler)
    with pytest.raises(RuntimeError, match="call begin_epoch"):
        sampler.order()


def test_a_data_loader_takes_it_and_draws_the_selection() -> None:
    sampler = MarginSampler(N, budget=0.5)
    loader = DataLoader(TensorDataset(torch.arange(N)), batch_size=8, sampler=sampler)
    for epoch in range(3):
        sampler.begin_epoch(epoch, scorer(epoch))
        drawn = torch.cat([indices for (indices,) in loader])
        assert torch.equal(drawn, sampler.order())
        assert sorted(drawn.tolist()) == smallest(margins_of(epoch), N // 2)
        assert len(loader) == 3


def test_a_batch_sampler_drops_the_last_as_told() -> None:
    sampler = MarginSampler(N, budget=0.5)
    sampler.begin_epoch(0, scorer(0))
    assert [len(batch) for batch in BatchSampler(sampler, 8, drop_last=True)] == [8, 8]


def bad_pairs() -> list[Any]:
    arange, zeros = torch.arange, torch.zeros
    return [
        pytest.param(arange(4), zeros(5), ValueError, "margins must have the shape", id="sizes"),
        pytest.param(
            arange(4), zeros(4, 1), ValueError, "margins must have the shape", id="column"
        ),
        pytest.param(arange(4).view(2, 2), zeros(2, 2), ValueError, "indices must have", id="2-D"),
        pytest.param(arange(4).int(), zeros(4), TypeError, "indices must be an int64", id="int32"),
        pytest.param([0, 1], zeros(2), TypeError, "indices must be an int64", id="list"),
        pytest.param(
            arange(4), arange(4), TypeError, "margins must be a floating", id="int margins"
        ),
        pytest.param(
            arange(4), [0.0] * 4, TypeError, "margins must be a floating", id="list margins"
        ),
        pytest.param(
            arange(4) + N - 2,
            zeros(4),
            ValueError,
            r"in \[0, 40\), got values from",
            id="too large",
        ),
        pytest.param(
            arange(4) - 1, zeros(4), ValueError, r"in \[0, 40\), got values from", id="negative"
        ),
        pytest.param(arange(0), zeros(0), ValueError, "score gave no margins", id="nothing"),
    ]


@pytest.mark.parametrize(("indices", "margins", "error", "message"), bad_pairs())
def test_a_bad_pair_is_refused_by_name_and_changes_nothing(
    indices: Any, margins: Any, error: type[Exception], message: str
) -> None:
    sampler = MarginSampler(N, budget=0.5)
    sampler.begin_epoch(0, scorer(0))
    before = sampler.state_dict()
    good = (torch.arange(3), torch.full((3,), -9.0))
    pairs = [(indices, margins)] if len(indices) == 0 else [good, (indices, margins)]
    with pytest.raises(error, match=message):
        sampler.begin_epoch(1, lambda: pairs)
    assert_states_equal(sampler.state_dict(), before)
    assert sampler.due(1)


def test_a_scorer_that_fails_changes_nothing_and_may_be_tried_again() -> None:
    def failing() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.arange(3), torch.full((3,), -9.0)
        raise OSError("disk")

    sampler = MarginSampler(N, budget=0.5)
    sampler.begin_epoch(0, scorer(0))
    before = sampler.state_dict()
    with pytest.raises(OSError, match="disk"):
        sampler.begin_epoch(1, failing)
    assert_states_equal(sampler.state_dict(), before)
    sampler.begin_epoch(1, scorer(1))
    assert sampler.indices.tolist() == smallest(margins_of(1), N // 2)


def test_a_missing_score_is_refused_where_it_is_due() -> None:
    sampler = MarginSampler(N, warmup_epochs=1)
    sampler.begin_epoch(0)
    with pytest.raises(ValueError, match="score must be given: epoch 1"):
        sampler.begin_epoch(1)
    assert sampler.epoch == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples: got 0, want at least 1"),
        ({"budget": 0.0}, "budget: got"),
        ({"budget": 1.5}, "budget: got"),
        ({"refresh_every": 0}, "refresh_every: got 0"),
        ({"warmup_epochs": -1}, "warmup_epochs: got -1"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"strategy": "loss"}, "one of margin, static, random, full; got 'loss'"),
        ({"budget": linear(1.0, 0.5)}, "epochs: got None"),
        ({"budget": lambda progress: 0.5}, "epochs: got None"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarginSampler(**{"num_samples": N, **options})


def test_a_level_schedule_needs_no_epochs() -> None:
    assert MarginSampler(N, budget=linear(0.5, 0.5)).budget_at(100) == 0.5


def test_half_precision_margins_are_taken(device: str) -> None:
    sampler = MarginSampler(4, budget=0.5, device=device)
    margins = torch.tensor([3.0, 1.0, 2.0, 0.0], dtype=torch.bfloat16)
    refresh = sampler.begin_epoch(0, lambda: [(torch.arange(4), margins)])
    assert refresh is not None
    assert sampler.indices.tolist() == [1, 3]
    assert {t.device.type for t in (sampler.indices, sampler.order(), refresh.margins)} == {device}


def test_orders_are_the_same_on_every_device(device: str) -> None:
    for strategy in MARGIN_STRATEGIES:
        here = MarginSampler(N, budget=0.5, strategy=strategy, device=device)
        cpu = MarginSampler(N, budget=0.5, strategy=strategy)
        assert run(here, 3) == run(cpu, 3)


def assert_states_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_states_equal(one[key], other[key])
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other
