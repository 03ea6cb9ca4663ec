"""What margin selection does to the hard-margin classifier when every subset is trained to its end.

T is the training set, W(S) the hard-margin solution of a subset S, W* = W(T), m_i the margin of a sample
with its sign. The statements and their proofs are in docs/method.md, "What can be proven".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import dynams_kernels as dk
from max_margin import Array, Problem, Solution, cosine, hard_margin, separable

Indices = NDArray[np.int64]
KINDS = ("gap", "probability", "distance", "label")
NEAR = 1e-6


def scores(problem: Problem, weight: Array, kind: str) -> Array:
    distances = dk.class_distances(torch.from_numpy(weight)) if kind == "distance" else None
    labels = torch.from_numpy(problem.labels) if kind == "label" else None
    margins = dk.margin(problem.logits(weight), kind=kind, labels=labels, class_distances=distances)
    return np.asarray(margins.numpy())


def select(problem: Problem, weight: Array, size: int, kind: str) -> Indices:
    values = torch.from_numpy(scores(problem, weight, kind))
    return np.asarray(dk.smallest_k(values, size).indices.numpy())


def on_margin(problem: Problem, solution: Solution) -> int:
    """M, the number of samples whose margin is the smallest there is at the solution."""
    return int((problem.margins(solution.weight) < 1 + NEAR).sum())


def enough(problem: Problem, solution: Solution, kind: str) -> int:
    """The least size whose selection at the solution holds the support vectors."""
    values = scores(problem, solution.weight, kind)
    return int((values <= values[solution.support].max() + NEAR).sum())


def refreshes(
    problem: Problem, weight: Array, size: int, kind: str, limit: int
) -> Iterator[tuple[Array, Indices, Array]]:
    """Walk (W, S selected at W, W(S)) from a start until W(S) = W, or `limit` selections."""
    for _ in range(limit):
        chosen = select(problem, weight, size, kind)
        trained = hard_margin(problem.subset(chosen)).weight
        yield weight, chosen, trained
        if np.allclose(trained, weight, atol=1e-9):
            return
        weight = trained


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    return separable(
        draw(st.integers(0, 10_000)),
        samples=draw(st.integers(4, 60)),
        dimensions=draw(st.integers(2, 6)),
        classes=draw(st.integers(2, 4)),
    )


def starts(solution: Solution) -> list[Array]:
    """Random starts, and starts that are wrong about every sample, some of them very sure."""
    random = np.random.default_rng(1)
    drawn = [random.normal(size=solution.weight.shape) for _ in range(6)]
    noise = 0.1 * random.normal(size=solution.weight.shape)
    return [*drawn, -solution.weight, -20 * solution.weight + noise]


@given(problems(), st.data())
def test_a_subsets_solution_is_shorter_unless_it_is_the_full_one(
    problem: Problem, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, problem.count))
    seed = data.draw(st.integers(0, 99))
    chosen = np.sort(np.random.default_rng(seed).permutation(problem.count)[:size])
    full, part = hard_margin(problem), hard_margin(problem.subset(chosen))
    assert part.norm <= full.norm + 1e-7
    feasible = problem.margins(part.weight).min() >= 1 - NEAR
    assert feasible == (part.norm >= full.norm * (1 - 1e-7))
    if set(full.support) <= set(chosen.tolist()):
        np.testing.assert_allclose(part.weight, full.weight, atol=1e-6)


@given(problems(), st.data())
def test_the_full_solution_keeps_itself(problem: Problem, data: st.DataObject) -> None:
    full = hard_margin(problem)
    kind = data.draw(st.sampled_from(KINDS))
    least = enough(problem, full, kind)
    size = data.draw(st.integers(least, problem.count))
    chosen = select(problem, full.weight, size, kind)
    assert set(full.support) <= set(chosen.tolist())
    np.testing.assert_allclose(
        hard_margin(problem.subset(chosen)).weight, full.weight, atol=1e-6 * (1 + full.norm)
    )


@given(problems())
def test_gap_and_label_need_no_more_than_the_samples_on_the_margin(problem: Problem) -> None:
    full = hard_margin(problem)
    assert enough(problem, full, "gap") <= on_margin(problem, full)
    assert enough(problem, full, "label") <= on_margin(problem, full)
    assert len(full.support) <= on_margin(problem, full)


def test_between_several_classes_distance_needs_more_than_the_samples_on_the_margin() -> None:
    # A support vector between classes whose weights are close is far from their boundary: 1 / ||w_p - w_c||.
    problem = separable(0, 120, 3, 3)
    full = hard_margin(problem)
    assert on_margin(problem, full) == 6
    assert enough(problem, full, "distance") > 60
    chosen = select(problem, full.weight, 60, "distance")
    assert not set(full.support) <= set(chosen.tolist())
    assert hard_margin(problem.subset(chosen)).norm < 0.999 * full.norm


@given(problems(), st.data())
def test_a_refresh_that_misses_nothing_makes_the_solution_longer_until_it_is_the_full_one(
    problem: Problem, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    size = data.draw(st.integers(1, problem.count))
    seed = data.draw(st.integers(0, 99))
    full = hard_margin(problem)
    start = np.random.default_rng(seed).normal(size=full.weight.shape)
    first = True
    for weight, chosen, trained in refreshes(problem, start, size, kind, limit=12):
        before, first = None if first else weight, False
        assert np.linalg.norm(trained) <= full.norm + 1e-7
        if before is None:  # a start is no subset's solution
            continue
        margins = problem.margins(before)
        wanted = np.flatnonzero(margins <= 1 + NEAR)
        if not set(wanted) <= set(chosen.tolist()):
            continue
        if margins.min() >= 1 - NEAR:
            np.testing.assert_allclose(before, full.weight, atol=1e-4 * (1 + full.norm))
        else:
            assert np.linalg.norm(trained) > np.linalg.norm(before)


@given(problems(), st.data())
def test_a_fixed_point_that_classifies_everything_right_is_the_full_solution(
    problem: Problem, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["gap", "label"]))
    size = data.draw(st.integers(1, problem.count))
    full = hard_margin(problem)
    start = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=full.weight.shape)
    *_, (weight, _, trained) = refreshes(problem, start, size, kind, limit=12)
    assume(np.allclose(weight, trained, atol=1e-9))
    if kind == "gap":
        assume(problem.margins(weight).min() > 0)
    np.testing.assert_allclose(weight, full.weight, atol=1e-5 * (1 + full.norm))


@pytest.mark.parametrize(("classes", "dimensions"), [(2, 3), (2, 6), (3, 3)])
@pytest.mark.parametrize("kind", ["gap", "distance"])
def test_half_of_the_samples_reach_the_full_solution_from_any_start_only_if_chosen_again(
    classes: int, dimensions: int, kind: str
) -> None:
    problem = separable(1, 120, dimensions, classes)
    full = hard_margin(problem)
    size = 60
    assert enough(problem, full, kind) <= size
    static = []
    for start in starts(full):
        walk = list(refreshes(problem, start, size, kind, limit=20))
        assert len(walk) < 20
        np.testing.assert_allclose(walk[-1][-1], full.weight, atol=1e-6 * (1 + full.norm))
        static.append(cosine(walk[0][-1], full.weight))
    # The first walk's solution is that of a subset chosen once, and known to rounding.
    assert sum(angle < 1 - 1e-6 for angle in static) >= len(static) // 2
    assert min(static) < 0.99


@pytest.mark.parametrize(("classes", "dimensions"), [(2, 3), (2, 6), (3, 3)])
def test_trained_to_the_end_room_for_the_support_vectors_alone_is_not_enough(
    classes: int, dimensions: int
) -> None:
    problem = separable(1, 120, dimensions, classes)
    full = hard_margin(problem)
    reached = 0
    for start in starts(full):
        *_, (_, _, last) = refreshes(problem, start, on_margin(problem, full), "gap", limit=30)
        reached += cosine(last, full.weight) > 1 - 1e-6
    assert reached < 4  # of eight


@given(problems(), st.data())
def test_no_subset_that_lacks_an_essential_sample_has_the_full_solution(
    problem: Problem, data: st.DataObject
) -> None:
    full = hard_margin(problem)
    everything = np.arange(problem.count)
    without = {
        i: hard_margin(problem.subset(np.delete(everything, i))).norm for i in full.support.tolist()
    }
    essential = [i for i, norm in without.items() if norm < full.norm * (1 - 1e-6)]
    assume(len(essential) > 1)
    size = data.draw(st.integers(1, len(essential) - 1))
    kind = data.draw(st.sampled_from(KINDS))
    for _, chosen, trained in refreshes(problem, full.weight, size, kind, limit=3):
        missing = [i for i in essential if i not in chosen]
        assert missing
        assert np.linalg.norm(trained) <= min(without[i] for i in missing) + 1e-7


def confident_mistake() -> tuple[Problem, Array]:
    """A separable problem, and a start that is surest of the one sample it gets wrong."""
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [1.2, 0.2], [-1.2, -0.2], [-5.0, 10.0]])
    problem = Problem(features, np.array([1, 0, 1, 0, 1]), 2)
    return problem, np.array([[-0.5, 0.0], [0.5, 0.0]])


@pytest.mark.parametrize("kind", ["gap", "probability", "distance"])
def test_without_labels_a_confident_mistake_is_never_selected(kind: str) -> None:
    problem, start = confident_mistake()
    full = hard_margin(problem)
    assert on_margin(problem, full) == 3
    for size in (3, 4):
        walk = list(refreshes(problem, start, size, kind, limit=10))
        assert len(walk) < 10
        weight, chosen, _ = walk[-1]
        assert 4 not in chosen
        assert problem.margins(weight)[4] < -1
        assert cosine(weight, full.weight) < 0.9


def test_with_labels_a_confident_mistake_is_selected_first() -> None:
    problem, start = confident_mistake()
    full = hard_margin(problem)
    *_, (_, _, trained) = refreshes(problem, start, 3, "label", limit=10)
    np.testing.assert_allclose(trained, full.weight, atol=1e-6)


def test_the_reference_is_that_of_an_independent_solver() -> None:
    from sklearn.svm import LinearSVC

    problem = separable(3, 80, 4, 2)
    svm = LinearSVC(
        C=1e4, loss="hinge", fit_intercept=False, tol=1e-8, max_iter=2_000_000, random_state=0
    ).fit(problem.features, problem.labels)
    full = hard_margin(problem)
    # z_1 - z_0 = 1 on the margin here, w x = 1 there.
    np.testing.assert_allclose(full.weight[1] - full.weight[0], svm.coef_[0], rtol=1e-3, atol=1e-3)
