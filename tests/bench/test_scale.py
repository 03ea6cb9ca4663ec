"""What a large job pays, on paper: the formulas by hand, and that the page holds what they give."""

from __future__ import annotations

import pytest

import scale
import stream
from pages import ROOT


def test_a_sum_goes_up_and_down_a_tree_and_a_gathering_once() -> None:
    network = scale.Network(ranks=1000, hop=1e-5, bytes_a_second=1e9)
    assert network.hops == 10
    assert network.all_reduce(500) == pytest.approx(2 * 10 * 1e-5 + 2 * 500 / 1e9)
    assert network.all_gather(500) == pytest.approx(10 * 1e-5 + 1000 * 500 / 1e9)


def test_an_exact_selection_is_its_rounds_and_the_local_work() -> None:
    network = scale.Network(ranks=1000, hop=1e-5, bytes_a_second=25e9)
    rounds = 3 * 20e-5 + 2 * 40_960 / 25e9
    told = 2 * 10e-5 + 1000 * 520 / 25e9
    assert scale.exact_seconds(network, 10**9) == pytest.approx(rounds + told + 288e-6)
    assert scale.exact_seconds(network, 10**6) == pytest.approx(rounds + told + 276e-6)


def test_the_page_holds_what_the_formulas_give() -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    assert scale.table(scale.Network()) in page
    assert scale.stream_table() in page


def test_a_stream_is_measured_against_the_true_rank() -> None:
    row = stream.a_long_stream(100_000, 0.01, size=5000)
    assert float(row["kept"]) == pytest.approx(0.6, abs=0.01)
    assert float(row["threshold's rank errs by"]) < 0.01
    assert stream.true_rank(5.0) == pytest.approx(0.6827, abs=1e-4)  # one standard deviation
