"""The oracle itself, against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import oracle

INF, NAN = math.inf, math.nan


def test_gap_of_rows_worked_by_hand() -> None:
    z = np.array([[1.0, 5.0, 3.0], [2.0, 2.0, 1.0], [INF, 0.0, 0.0], [INF, INF, 0.0], [NAN, 1, 2]])
    assert oracle.margin(z)[:4].tolist() == [2.0, 0.0, INF, 0.0]
    assert math.isnan(oracle.margin(z)[4])


def test_probability_takes_the_limit_at_infinity() -> None:
    z = np.array([[INF, 1.0, INF], [-INF, -INF, -INF], [INF, 0.0, -INF], [math.log(3), 0.0, -INF]])
    expected = [[0.5, 0.0, 0.5], [1 / 3] * 3, [1.0, 0.0, 0.0], [0.75, 0.25, 0.0]]
    np.testing.assert_allclose(oracle.softmax(z), expected, rtol=1e-15)
    np.testing.assert_allclose(oracle.margin(z, "probability"), [0, 0, 1, 0.5], rtol=1e-15)


def test_label_margin_is_signed() -> None:
    z = np.array([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [4.0, 4.0, 0.0], [-INF, -INF, -INF]])
    got = oracle.margin(z, "label", np.array([1, 2, 0, 2]))
    assert got.tolist() == [2.0, -2.0, 0.0, 0.0]


def test_distance_is_the_nearest_boundary_not_the_second_class() -> None:
    z = np.array([[5.0, 4.0, 2.0]])
    apart = np.array([[0.0, 1.0, 6.0], [1.0, 0.0, 1.0], [6.0, 1.0, 0.0]])
    assert oracle.margin(z, "distance", None, apart).tolist() == [0.5]
    twins = np.zeros((3, 3))
    assert oracle.margin(z, "distance", None, twins).tolist() == [INF]
    assert oracle.margin(z * 0, "distance", None, twins).tolist() == [0.0]


def test_scores_of_a_row_worked_by_hand() -> None:
    z = np.log(np.array([[1.0, 2.0, 5.0]]))
    got = oracle.scores(z, oracle.SCORE_KINDS, np.array([1]))
    assert list(got) == list(oracle.SCORE_KINDS)
    expected = {
        "gap": math.log(2.5),
        "probability": 3 / 8,
        "label": -math.log(2.5),
        "loss": math.log(4),
        "el2n": math.sqrt((1 + 36 + 25) / 64),
        "entropy": sum(-p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8)),
        "confidence": 3 / 8,
    }
    for kind, value in expected.items():
        assert got[kind][0] == pytest.approx(value, rel=1e-14), kind


def test_loss_shares_the_mass_at_infinity() -> None:
    z = np.array([[INF, INF, 0.0], [INF, INF, 0.0], [-INF, -INF, -INF], [0.0, -INF, -INF]])
    got = oracle.loss(z, np.array([1, 2, 0, 1]))
    assert got.tolist() == [math.log(2), INF, math.log(3), INF]


@pytest.mark.parametrize(
    ("width", "used"),
    [(None, 7), (3, 3), (7, 7), (1.0, 7), (0.5, 4), (0.05, 1), (0.2, 1), (0.3, 2)],
)
def test_width_names_leading_columns(width: int | float | None, used: int) -> None:
    assert oracle.columns(7, width) == used


def test_class_distances_of_a_right_triangle() -> None:
    w = np.array([[0.0, 0.0, 9.0], [3.0, 0.0, 9.0], [0.0, 4.0, 9.0]])
    expected = [[0, 3, 4], [3, 0, 5], [4, 5, 0]]
    np.testing.assert_allclose(oracle.class_distances(w), expected, rtol=1e-15)
    np.testing.assert_allclose(oracle.class_distances(w * 1e200), np.multiply(expected, 1e200))
    assert oracle.class_distances(w, 1)[1].tolist() == [3.0, 0.0, 3.0]


def test_selection_of_the_hard_values() -> None:
    v = np.array([NAN, 0.0, -0.0, INF, -INF, 0.0, NAN, -INF])
    assert oracle.smallest_k(v, 8, "value").tolist() == [4, 7, 1, 2, 5, 3, 0, 6]
    assert oracle.smallest_k(v, 4).tolist() == [1, 2, 4, 7]
    assert oracle.smallest_k(v, 3, "value").tolist() == [4, 7, 1]
    assert oracle.smallest_k(v, 0).tolist() == []


def test_selector_oracle_puts_unscored_first_and_keeps_the_smallest_repeat() -> None:
    s = oracle.Selector(5)
    s.update([3, 1, 3, 1], [2.0, NAN, 1.0, 7.0])
    s.update([0], [-INF])
    values, indices = s.smallest(4)
    assert indices.tolist() == [0, 2, 3, 4]
    assert values.tolist() == [-INF, -INF, 1.0, -INF]
    assert s.smallest(2)[1].tolist() == [2, 4]


def test_check_refuses_what_differs() -> None:
    oracle.check(torch.tensor([0.0, NAN, INF]), np.array([-0.0, NAN, INF]))
    oracle.check(torch.tensor([INF]), np.array([1e39]))
    for got, want in [(1.0, 1.0000003), (NAN, 1.0), (1.0, NAN), (INF, -INF), (INF, 1.0)]:
        with pytest.raises(AssertionError):
            oracle.check(torch.tensor([got]), np.array([want]), ulps=1)
    assert not oracle.same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert oracle.same_bits(torch.tensor([NAN]), torch.tensor([NAN]))
