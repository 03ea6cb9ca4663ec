"""The strategies that rank by one score: which end they keep, ties, NaN, and what the score is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import Strategy, build_strategy
from dynams.selection.methods import (
    BatchRhoLoss,
    Margin,
    RhoLoss,
    StaticMargin,
    hardest,
    largest,
    last_layer_gradient_norm,
    least_certain,
    memorisation_scores,
    random_subset,
    rho_loss,
    smallest,
    smallest_margins,
)
from dynams.selection.methods.ranked import Ranked
from dynams.selection.signals import Signals
from strategy_inputs import generator, gradients, signals, tensor

LARGEST_FIRST = ("loss", "el2n", "grand", "forgetting", "confidence", "entropy", "memorisation")


def chosen(strategy: object, known: Signals, size: int, seed: int = 0) -> list[int]:
    assert isinstance(strategy, Strategy)
    selection = strategy.select(known, size, epoch=0, progress=0.0, generator=generator(seed))
    assert selection.weights is None
    return selection.indices.tolist()


def scored(name: str, values: list[float]) -> Signals:
    return Signals(len(values), {name: tensor(values)})


@pytest.mark.parametrize("kind", ["gap", "probability", "distance", "label"])
@pytest.mark.parametrize("strategy", [Margin, StaticMargin])
def test_margins_keep_the_smallest(strategy: type[Margin], kind: str) -> None:
    known = scored(kind, [3.0, -1.0, 2.0, 0.5, 2.0])
    assert chosen(strategy(kind=kind), known, 3) == [1, 2, 3]
    assert strategy(kind=kind).needs == {kind}


@pytest.mark.parametrize("name", LARGEST_FIRST)
def test_difficulty_and_doubt_keep_the_largest(name: str) -> None:
    known = scored(name, [0.3, 0.9, 0.2, 0.95, 0.1])
    assert chosen(build_strategy(name), known, 2) == [1, 3]
    assert build_strategy(name).needs == {name}


@pytest.mark.parametrize("name", LARGEST_FIRST)
def test_nan_is_taken_last(name: str) -> None:
    known = scored(name, [torch.nan, -2.0, torch.nan, -torch.inf, 1.0])
    assert chosen(build_strategy(name), known, 3) == [1, 3, 4]


@given(
    st.lists(st.sampled_from([-1.0, 0.0, -0.0, 2.0, np.inf, -np.inf, np.nan]), max_size=30),
    st.data(),
)
def test_smallest_and_largest_are_stable_sorts(values: list[float], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(values)))
    array = np.array(values)
    for keep, keys in (
        (smallest, array),
        (smallest_margins, array),
        (largest, -array),
        (hardest, -array),
        (least_certain, -array),
    ):
        expected = np.sort(np.argsort(keys, kind="stable")[:size])
        assert keep(torch.tensor(values), size).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["margin", "static-margin", *LARGEST_FIRST])
def test_groups_are_ranked_as_all_samples_are(name: str) -> None:
    strategy = build_strategy(name)
    assert isinstance(strategy, Ranked)
    known = scored("gap" if "margin" in name else name, [0.3, 0.9, 0.2, 0.95, 0.1])
    grouped = strategy.select_grouped(known, torch.zeros(5, dtype=torch.int64), [2])
    assert grouped.indices.tolist() == chosen(strategy, known, 2)


def test_ties_go_by_index_or_by_the_order_given() -> None:
    values = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert smallest(values, 2).tolist() == [0, 1]
    assert smallest(values, 2, order=torch.tensor([3, 2, 1, 0])).tolist() == [1, 3]
    assert smallest(values, 3, order=torch.tensor([2, 3, 1, 0])).tolist() == [1, 2, 3]


def test_sizes_out_of_range_are_refused() -> None:
    for size, bound in ((-1, "at least 0"), (3, "at most 2")):
        for keep in (smallest, largest, smallest_margins, hardest, least_certain):
            with pytest.raises(ValueError, match=f"size: got {size}, want {bound}"):
                keep(torch.zeros(2), size)
        with pytest.raises(ValueError, match=f"size: got {size}, want {bound}"):
            random_subset(2, size, generator())


def test_counts_of_events_break_ties_evenly() -> None:
    known = scored("forgetting", [1.0, 2.0, 1.0, 1.0, 1.0])
    draws = [chosen(build_strategy("forgetting"), known, 2, seed) for seed in range(400)]
    assert all(1 in draw for draw in draws)
    counts = np.bincount([index for draw in draws for index in draw], minlength=5)[[0, 2, 3, 4]]
    # Each of the four equal ones in a quarter of the draws: five standard deviations of 100.
    assert np.abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_grand_is_the_norm_of_the_last_layers_gradient() -> None:
    known = signals(17, classes=5, width=6)
    assert known.features is not None
    assert known.residuals is not None
    norm = last_layer_gradient_norm(known.score("el2n"), known.features.norm(dim=1))
    expected = np.linalg.norm(gradients(known.features, known.residuals), axis=1)
    np.testing.assert_allclose(norm.numpy(), expected, rtol=1e-5)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_memorisation_is_the_difference_that_a_sample_makes(
    networks: int, samples: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    right, member = rng.random((2, networks, samples)) < 0.6
    scores = memorisation_scores(torch.from_numpy(right), torch.from_numpy(member)).tolist()
    for sample, score in enumerate(scores):
        with_it, without = right[member[:, sample], sample], right[~member[:, sample], sample]
        if len(with_it) and len(without):
            assert score == pytest.approx(with_it.mean() - without.mean(), abs=1e-7)
        else:
            assert np.isnan(score)


def test_memorisation_of_other_networks_is_refused() -> None:
    right = torch.zeros(4, 3, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"got shapes \(4, 3\) and \(3, 3\), want \(T, N\) for both"
    ):
        memorisation_scores(right, right[:3])


def rho(loss: list[float], irreducible: list[float]) -> Signals:
    return Signals(len(loss), {"loss": tensor(loss), "irreducible_loss": tensor(irreducible)})


def test_rho_loss_passes_over_the_noisy_and_the_learnt() -> None:
    # Noisy: large loss that nothing lowers. Learnt: small loss. Learnable: the third and the fifth.
    known = rho([5.0, 0.1, 2.0, 4.0, 3.0], [4.9, 0.05, 0.1, 3.9, 0.2])
    reducible = rho_loss(known.score("loss"), known.score("irreducible_loss"))
    np.testing.assert_allclose(reducible.numpy(), [0.1, 0.05, 1.9, 0.1, 2.8], atol=1e-6)
    assert largest(reducible, 2).tolist() == chosen(RhoLoss(), known, 2) == [2, 4]
    with pytest.raises(ValueError, match=r"irreducible: got shape \(5, 1\), want \(5,\)"):
        rho_loss(reducible, reducible[:, None])


@pytest.mark.parametrize(("share", "kept"), [(0.01, [4]), (0.4, [2, 4]), (1.0, [0, 1, 2, 3, 4])])
def test_rho_loss_of_a_batch_keeps_its_share(share: float, kept: list[int]) -> None:
    batch = rho([5.0, 0.1, 2.0, 4.0, 3.0], [4.9, 0.05, 0.1, 3.9, 0.2])
    choice = BatchRhoLoss(share).keep(batch, progress=0.0, generator=generator())
    assert choice.indices.tolist() == kept
    assert choice.weights is None


def test_random_draws_are_uniform_and_full_is_everything() -> None:
    known = Signals(6)
    assert chosen(build_strategy("full"), known, 2) == list(range(6))
    for name in ("random", "static-random"):
        draws = [chosen(build_strategy(name), known, 2, seed) for seed in range(600)]
        assert draws[7] == random_subset(6, 2, generator(7)).tolist()
        pairs, counts = np.unique(draws, axis=0, return_counts=True)
        assert len(pairs) == 15
        assert np.abs(counts - 40).max() < 5 * np.sqrt(600 / 15)


def test_selections_live_where_the_signals_do(device: str) -> None:
    known = Signals(3, {"gap": torch.tensor([2.0, 1.0, 3.0], device=device)})
    for name in ("margin", "random", "full"):
        strategy = build_strategy(name)
        assert isinstance(strategy, Strategy)
        selection = strategy.select(known, 2, epoch=0, progress=0.0, generator=generator())
        assert selection.indices.device == known.score("gap").device
