"""What margin selection does to a linear classifier trained by gradient steps, chosen again every Q steps.

Hinge loss max(0, 1 - m_i) averaged over the k selected samples, ridge lambda / 2 ||W||^2, float64, steps
1 / (1 + lambda t). With lambda k alpha <= 1 for the largest multiplier alpha of the hard-margin solution W*,
the full data's minimiser is W* itself (the hinge is an exact penalty). The statements and their proofs are
in docs/method.md, "What can be proven".
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dynams_kernels as dk
from dynams.selection import SubsetSampler
from max_margin import Array, Problem, Solution, cosine, hard_margin, separable

Choose = Callable[[Tensor], Tensor]
NEAR = 1e-6
SAME = 0.998  # cosine of what counts as the same separator


def selecting(problem: Problem, size: int, kind: str) -> Choose:
    """The `size` samples of smallest margin, as a function of the weight."""
    features, labels = torch.from_numpy(problem.features), torch.from_numpy(problem.labels)

    def choose(weight: Tensor) -> Tensor:
        return dk.margin_topk(
            features @ weight.T,
            size,
            kind=kind,
            labels=labels if kind == "label" else None,
            class_distances=dk.class_distances(weight) if kind == "distance" else None,
        ).indices

    return choose


def gradient(problem: Problem, weights: Tensor, chosen: Tensor, share: float) -> Tensor:
    """Subgradient of share * sum of the chosen samples' hinge losses, (n, C, D).

    Args:
        weights: (n, C, D), as many classifiers.
        chosen: (n, k) int64, the samples of each.
    """
    features, labels = torch.from_numpy(problem.features)[chosen], torch.from_numpy(problem.labels)
    labels = labels[chosen][..., None]
    logits = features @ weights.transpose(1, 2)
    own = logits.gather(2, labels)
    best, other = logits.scatter(2, labels, -torch.inf).max(2, keepdim=True)
    violated = share * (own - best < 1).double()
    signs = torch.zeros_like(logits).scatter(2, other, violated).scatter(2, labels, -violated)
    return signs.transpose(1, 2) @ features


def train(
    problem: Problem,
    weights: Tensor,
    choose: Choose,
    *,
    every: int,
    steps: int,
    ridge: float,
    first: int = 0,
) -> Tensor:
    """Train (n, C, D) classifiers at once; each gets a selection of its own. The mean of the last half."""
    mean = torch.zeros_like(weights)
    for step in range(steps):
        if step % every == 0:
            chosen = torch.stack([choose(weight) for weight in weights])
        slope = gradient(problem, weights, chosen, 1.0 / chosen.shape[1]) + ridge * weights
        weights = weights - slope / (1.0 + ridge * (first + step))
        if step >= steps // 2:
            mean += weights / (steps - steps // 2)
    return mean


def ridge_for(size: int, solution: Solution) -> float:
    """Half of the largest ridge under which the hinge is an exact penalty."""
    return 0.5 / (size * float(solution.multipliers.max()))


def on_margin(problem: Problem, solution: Solution) -> int:
    return int((problem.margins(solution.weight) < 1 + NEAR).sum())


def starts(solution: Solution) -> Tensor:
    """Random starts, and starts that are wrong about every sample, some of them very sure."""
    random = np.random.default_rng(1)
    drawn = list(random.normal(size=(6, *solution.weight.shape)))
    noise = 0.1 * random.normal(size=solution.weight.shape)
    return torch.from_numpy(np.stack([*drawn, -solution.weight, -5 * solution.weight + noise]))


def angles(weights: Tensor, solution: Solution) -> list[float]:
    return [cosine(weight.numpy(), solution.weight) for weight in weights]


CASES = [(2, 3, 0), (2, 6, 1), (3, 3, 0), (5, 6, 0)]


@pytest.mark.parametrize(("classes", "dimensions", "seed"), CASES)
@pytest.mark.parametrize("every", [1, 10])
def test_from_any_start_the_gap_reaches_the_full_separator_with_no_more_than_the_support_vectors(
    classes: int, dimensions: int, seed: int, every: int
) -> None:
    problem = separable(seed, 120, dimensions, classes)
    full = hard_margin(problem)
    size = on_margin(problem, full)
    assert size <= 18
    ridge = ridge_for(size, full)
    choose = selecting(problem, size, "gap")
    dynamic = train(problem, starts(full), choose, every=every, steps=3000, ridge=ridge)
    assert min(angles(dynamic, full)) > SAME


@pytest.mark.parametrize(("classes", "dimensions", "seed"), CASES)
def test_chosen_once_at_a_bad_start_the_same_number_of_samples_does_not(
    classes: int, dimensions: int, seed: int
) -> None:
    problem = separable(seed, 120, dimensions, classes)
    full = hard_margin(problem)
    size = on_margin(problem, full)
    begin, choose = starts(full), selecting(problem, size, "gap")
    lacking = [not set(full.support) <= set(choose(weight).tolist()) for weight in begin]
    assert sum(lacking) >= 6
    static = train(problem, begin, choose, every=10**9, steps=3000, ridge=ridge_for(size, full))
    bad = [angle for angle, lacks in zip(angles(static, full), lacking, strict=True) if lacks]
    assert max(bad) < SAME
    assert np.median(bad) < 0.95


@pytest.mark.parametrize(("classes", "dimensions", "seed"), [(2, 3, 0), (2, 6, 1), (3, 3, 1)])
def test_from_any_start_the_distance_reaches_the_full_separator_with_the_support_vectors(
    classes: int, dimensions: int, seed: int
) -> None:
    problem = separable(seed, 120, dimensions, classes)
    full = hard_margin(problem)
    weight = torch.from_numpy(full.weight)
    distances = dk.class_distances(weight)
    margins = dk.margin(problem.logits(full.weight), kind="distance", class_distances=distances)
    size = int((margins <= margins[full.support].max() + NEAR).sum())
    assert size < 40
    ridge = ridge_for(size, full)
    choose = selecting(problem, size, "distance")
    dynamic = train(problem, starts(full), choose, every=10, steps=4000, ridge=ridge)
    assert min(angles(dynamic, full)) > SAME


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 5), st.integers(0, 99), st.data())
def test_near_the_full_solution_the_gap_misses_no_sample_that_has_a_loss(
    seed: int, classes: int, dimensions: int, direction: int, data: st.DataObject
) -> None:
    problem = separable(seed, 40, dimensions, classes)
    full = hard_margin(problem)
    margins = problem.margins(full.weight)
    off = margins[margins >= 1 + NEAR]
    room = min(1.0, float(off.min()) - 1.0) if len(off) else 1.0
    longest = float(np.linalg.norm(problem.features, axis=1).max())
    radius = room / (2 * np.sqrt(2) * longest)
    step = np.random.default_rng(direction).normal(size=full.weight.shape)
    weight = full.weight + 0.999 * radius * step / np.linalg.norm(step)
    size = data.draw(st.integers(on_margin(problem, full), problem.count))
    chosen = selecting(problem, size, "gap")(torch.from_numpy(weight)).tolist()
    assert set(np.flatnonzero(problem.margins(weight) < 1)) <= set(chosen)


def test_where_it_misses_none_training_is_that_on_all_samples_step_by_step() -> None:
    problem = separable(1, 120, 6, 2)
    full = hard_margin(problem)
    size = on_margin(problem, full)
    ridge, choose = ridge_for(size, full), selecting(problem, size, "gap")
    everything = torch.arange(problem.count)[None]
    subset = whole = torch.from_numpy(full.weight)[None] * 1.02
    seen = 0
    for step in range(2000, 2500):
        chosen = choose(subset[0])[None]
        violated = np.flatnonzero(problem.margins(subset[0].numpy()) < 1)
        assert set(violated) <= set(chosen[0].tolist())
        seen += len(violated)
        rate = 1.0 / (1.0 + ridge * step)
        subset = subset - rate * (gradient(problem, subset, chosen, 1 / size) + ridge * subset)
        whole = whole - rate * (gradient(problem, whole, everything, 1 / size) + ridge * whole)
        torch.testing.assert_close(subset, whole, rtol=1e-10, atol=1e-10)
    assert seen > 100


def average_of_the_largest(problem: Problem, weight: Array, size: int) -> float:
    losses = np.maximum(0.0, 1.0 - problem.margins(weight))
    return float(np.sort(losses)[-size:].mean())


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 5), st.data())
def test_with_labels_the_selected_samples_gradient_is_one_of_a_convex_loss(
    seed: int, classes: int, dimensions: int, data: st.DataObject
) -> None:
    problem = separable(seed, 30, dimensions, classes)
    size = data.draw(st.integers(1, 30))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    here, there = random.normal(size=(2, classes, dimensions))
    weight = torch.from_numpy(here)
    chosen = selecting(problem, size, "label")(weight)
    slope = gradient(problem, weight[None], chosen[None], 1.0 / size)[0].numpy()
    tangent = average_of_the_largest(problem, here, size) + float((slope * (there - here)).sum())
    assert average_of_the_largest(problem, there, size) >= tangent - 1e-9


@pytest.mark.parametrize(("classes", "dimensions", "seed"), CASES)
def test_with_labels_chosen_every_step_any_start_and_any_size_reach_the_full_separator(
    classes: int, dimensions: int, seed: int
) -> None:
    problem = separable(seed, 120, dimensions, classes)
    full = hard_margin(problem)
    # One sample at a time: for the largest loss alone the hinge is exact with lambda sum(alpha) <= 1.
    for size, ridge in (
        (1, 0.5 / float(full.multipliers.sum())),
        (on_margin(problem, full), ridge_for(on_margin(problem, full), full)),
    ):
        choose = selecting(problem, size, "label")
        dynamic = train(problem, starts(full), choose, every=1, steps=3000, ridge=ridge)
        assert min(angles(dynamic, full)) > SAME


def confident_mistake() -> tuple[Problem, Tensor]:
    """A separable problem, and a start that is surest of the one sample it gets wrong."""
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [1.2, 0.2], [-1.2, -0.2], [-5.0, 10.0]])
    start = torch.tensor([[[-0.5, 0.0], [0.5, 0.0]]], dtype=torch.float64)
    return Problem(features, np.array([1, 0, 1, 0, 1]), 2), start


def test_a_confident_mistake_stays_without_labels_and_a_warm_up_on_everything_heals_it() -> None:
    problem, start = confident_mistake()
    full = hard_margin(problem)
    size = on_margin(problem, full)
    ridge = ridge_for(problem.count, full)
    kinds = {kind: selecting(problem, size, kind) for kind in ("gap", "distance", "label")}
    everything = torch.arange(problem.count)

    def reached(choose: Choose, begin: Tensor, first: int = 0) -> float:
        run = train(problem, begin, choose, every=5, steps=3000, ridge=ridge, first=first)
        return angles(run, full)[0]

    assert reached(kinds["gap"], start) < 0.9
    assert reached(kinds["distance"], start) < 0.9
    assert reached(kinds["label"], start) > SAME
    warm = train(problem, start, lambda weight: everything, every=1, steps=200, ridge=ridge)
    assert reached(kinds["gap"], warm, first=200) > SAME
    assert reached(kinds["distance"], warm, first=200) > SAME


def test_too_few_samples_for_the_support_vectors_need_not_reach_it() -> None:
    problem = separable(0, 120, 3, 2)
    full = hard_margin(problem)
    assert on_margin(problem, full) == 3
    ridge = ridge_for(1, full)
    choose = selecting(problem, 1, "gap")
    few = train(problem, starts(full), choose, every=500, steps=3000, ridge=ridge)
    assert min(angles(few, full)) < 0.98


@pytest.mark.parametrize(("strategy", "reaches"), [("margin", True), ("static-margin", False)])
def test_the_sampler_reaches_it_where_it_chooses_again(strategy: str, reaches: bool) -> None:
    problem = separable(0, 120, 3, 3)
    full = hard_margin(problem)
    size = 12
    assert on_margin(problem, full) <= size
    features, everything = torch.from_numpy(problem.features), torch.arange(problem.count)
    sampler = SubsetSampler(problem.count, strategy, budget=size / problem.count, refresh_every=2)
    weight, ridge, mean = starts(full)[4:5], ridge_for(size, full), []
    for epoch in range(300):
        logits = features @ weight[0].T
        sampler.begin_epoch(epoch, lambda z=logits: [(everything, dk.margin(z))])
        assert len(sampler) == size
        for step in range(10 * epoch, 10 * epoch + 10):
            chosen = sampler.indices[None]
            slope = gradient(problem, weight, chosen, 1 / size) + ridge * weight
            weight = weight - slope / (1.0 + ridge * step)
        mean.append(weight)
    (angle,) = angles(torch.stack(mean[150:]).mean(0), full)
    assert (angle > SAME) == reaches
    if not reaches:
        assert angle < 0.98


@pytest.mark.parametrize(("classes", "dimensions", "seed"), [(2, 3, 1), (3, 3, 1)])
def test_logistic_loss_comes_the_nearer_the_smaller_its_ridge(
    classes: int, dimensions: int, seed: int
) -> None:
    from sklearn.linear_model import LogisticRegression

    problem = separable(seed, 120, dimensions, classes)
    full = hard_margin(problem)
    size = 60
    assert on_margin(problem, full) <= size

    def logistic(part: Problem, ridge: float) -> Array:
        fitted = LogisticRegression(
            C=1 / (ridge * part.count),
            fit_intercept=False,
            tol=1e-10,
            max_iter=5000,
            solver="newton-cg",
        ).fit(part.features, part.labels)
        rows = np.asarray(fitted.coef_, dtype=np.float64)
        weight = np.zeros((classes, dimensions))  # a class that was not selected keeps no weight
        weight[fitted.classes_] = np.concatenate([-rows, rows]) / 2 if len(rows) == 1 else rows
        return weight

    choose = selecting(problem, size, "gap")
    apart, static = [], []
    for ridge in (1e-2, 1e-4, 1e-6):
        whole = logistic(problem, ridge)
        weight = starts(full)[1].numpy()
        walk = []
        for _ in range(15):
            weight = logistic(problem.subset(choose(torch.from_numpy(weight)).numpy()), ridge)
            walk.append(cosine(weight, whole))
        apart.append(1 - walk[-1])
        static.append(1 - walk[0])
    assert all(later < earlier for earlier, later in pairwise(apart))
    assert apart[-1] < 1e-3
    assert static[-1] > 10 * apart[-1]
