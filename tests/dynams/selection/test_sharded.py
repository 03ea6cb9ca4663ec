"""A sharded sampler selects and orders as one that holds all scores, on any number of ranks, and is told what fails.

One launch for each number of ranks does everything and writes down what came of it; the tests look at parts of that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import STRATEGIES, SubsetSampler, linear
from dynams.selection.kept_scores import KeptScores
from dynams.selection.over_ranks import _packed, _places
from dynams.selection.part_scores import PartScores
from pages import ROOT
from sampler_inputs import assert_states_equal, smallest
from sharded_runs import (
    CONSUMED,
    EPOCHS,
    SAVED_AT,
    N,
    by_two_scores,
    made_before,
    margins,
    on_rank,
    pairs,
    random_cases,
    resumed,
    said,
    samplers,
    scored,
    scores_of,
    told_of,
)
from two_ranks import told_by_ranks

WORLDS = (2, 1, 4, 8)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    made = {}
    for world in WORLDS:
        (folder / f"{world}").mkdir()
        made[world] = told_by_ranks(on_rank, folder / f"{world}", world)
    return made


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What a sampler that holds all scores does in one process."""
    return samplers(sharded=False)


def assert_told_equal(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("world", WORLDS)
def test_epochs_are_those_of_a_sampler_with_all_scores(
    told: dict[int, list[dict[str, Any]]], expected: dict[str, Any], world: int
) -> None:
    for rank in told[world]:
        assert {"margin", "tiny"} <= rank["samplers"].keys()
        for name, epochs in rank["samplers"].items():
            assert_told_equal(epochs, expected[name])
        chosen = rank["random"]
        assert len(chosen) >= 3
        assert_told_equal(chosen, random_cases(sharded=False, cases=len(chosen)))


def test_margins_selected_are_numpys(told: dict[int, list[dict[str, Any]]]) -> None:
    kept = np.full(N, -np.inf)
    budget = linear(0.8, 0.3)
    epochs = told[8][3]["samplers"]["margin"]
    for epoch in range(1, EPOCHS):
        again = [i for i in range(N) if epoch == 1 or (i + epoch) % 3 == 0]
        kept[again] = scores_of(epoch).double().numpy()[again]
        size = int(N * margins().budget_at(epoch) + 0.5)
        assert epochs[epoch]["selection"].tolist() == smallest(torch.from_numpy(kept), size)
    assert margins().budget_at(1) == 0.8 == budget(0.0)


@pytest.mark.parametrize("world", WORLDS)
def test_every_rank_gets_its_share_of_the_one_order(
    told: dict[int, list[dict[str, Any]]], world: int
) -> None:
    sampler = margins()
    sampler.begin_epoch(1, lambda: pairs(1, torch.arange(N)))
    order = sampler.order().tolist()
    shares = [rank["batches"] for rank in told[world]]
    assert len({len(each) for each in shares}) == 1
    walked = [
        samples[place]
        for step in zip(*shares, strict=True)
        for place in range(max(map(len, step)))
        for samples in step
        if place < len(samples)
    ]
    assert walked == order
    assert sorted(i for each in told[world] for i in each["part"]) == list(range(N))


def test_signals_are_of_a_rank_s_part(told: dict[int, list[dict[str, Any]]]) -> None:
    assert all(torch.equal(rank["two scores"], by_two_scores(sharded=False)) for rank in told[4])


def test_a_sampler_older_than_the_process_group_keeps_the_scores_of_its_part(
    told: dict[int, list[dict[str, Any]]],
) -> None:
    expected = told_of(made_before(sharded=False), 2, every=3)
    assert expected["changed"][1] < 1
    for rank in told[4]:
        assert_told_equal(rank["early"], expected)


def uninterrupted() -> SubsetSampler:
    sampler = margins()
    for epoch in range(SAVED_AT + 1):
        sampler.begin_epoch(epoch, scored(epoch, every=3))
    sampler.advance(CONSUMED)
    return sampler


def test_a_gathered_state_is_that_of_a_sampler_with_all_scores(
    told: dict[int, list[dict[str, Any]]],
) -> None:
    first, second = (rank["saved"] for rank in told[2])
    assert_states_equal(first["gathered"], uninterrupted().state_dict())
    assert_states_equal(second["gathered"], second["own"])
    assert [each["own"]["scores"]["gap"]["part"] for each in (first, second)] == [[0, 21], [21, 43]]
    few = SubsetSampler(3)  # fewer than ranks
    few.begin_epoch(0, scored(0, 3))
    assert_states_equal(told[4][0]["few"], few.state_dict())
    fresh = margins()
    fresh.begin_epoch(0)
    assert_states_equal(first["fresh"], fresh.state_dict())
    # And the other way round: a state of all is taken up by each for its part.
    for world in (1, 4, 8):
        gathered = [rank["resumed"]["gathered"] for rank in told[world]]
        assert_states_equal(gathered[0], first["gathered"])


@pytest.mark.parametrize("world", [1, 4, 8])
def test_another_number_of_ranks_goes_on_in_the_middle_of_an_epoch(
    told: dict[int, list[dict[str, Any]]], expected: dict[str, Any], world: int
) -> None:
    rest = uninterrupted().order()[CONSUMED:].tolist()
    states = {"gathered": told[2][0]["saved"]["gathered"]}
    for each in [rank["resumed"] for rank in told[world]] + [resumed(states, sharded=False)]:
        assert each["rest"] == rest
        assert_told_equal(each["later"], expected["margin"][SAVED_AT + 1 :])


@pytest.mark.parametrize("world", [1, 4])
def test_scores_that_a_state_lacks_are_asked_for_and_never_taken_for_unscored(
    told: dict[int, list[dict[str, Any]]], world: int
) -> None:
    sampler = uninterrupted()
    rest = sampler.order()[CONSUMED:].tolist()
    later = [told_of(sampler, epoch) for epoch in range(SAVED_AT + 1, EPOCHS)]
    said = [rank["lacking"] for rank in told[world]]
    for each in said:
        assert each["rest"] == rest  # what was selected needs no scores
        assert_states_equal(each["whole"], each["again"])
        assert "samples in [" in each["partial"], each["partial"]
        assert "that the loaded state lacks" in each["partial"]
        assert_told_equal(each["later"], later)
    own = [each["partial"].startswith("ValueError: score: got no gap of ") for each in said]
    assert any(own)
    assert all(
        mine or each["partial"].startswith("RuntimeError: rank ")
        for mine, each in zip(own, said, strict=True)
    )


@pytest.mark.parametrize("world", [2, 4])
def test_what_fails_on_one_rank_is_told_to_all(
    told: dict[int, list[dict[str, Any]]], world: int
) -> None:
    said = [rank["refused"] for rank in told[world]]
    other, failed = said[0], said[1]
    giving = "RuntimeError: rank 1 could not give its scores: "
    assert (failed["failing"], other["failing"]) == ("OSError: disk", f"{giving}OSError: disk")
    assert failed["before"] == "OSError: before"
    assert other["before"].endswith("rank 1 could not begin an epoch: OSError: before")
    dtype = "TypeError: margins: got torch.int64, want a floating point tensor"
    assert (failed["dtype"], other["dtype"]) == (dtype, giving + dtype)
    part = told[world][0]["part"]
    assert other["of others"] == (
        f"ValueError: indices: got 0 to {N - 1}, want them in [0, {part[-1] + 1}): a sharded sampler's rank "
        f"scores its part of the {N} samples, RankShard({N}).part, and no other"
    )
    for each in said:
        assert each["nothing"].startswith("ValueError: score: got no margins on any rank, want")
        assert each["epoch"] == 0  # nothing has changed
        assert "want it to" in each["mixed"]
        for name, one, two in (
            ("size", 22, 26),
            ("strategy", "Loss(ties='index')", "Entropy(ties='index')"),
            ("num_samples", N, N - 1),
        ):
            wanted = f"{name}: got {two} on rank 1 and {one} on rank 0, want the same on all"
            assert each[name].endswith(wanted), each[name]
        assert each["elsewhere"] != "done"
        # Afterwards they go on together.
        assert each["good"] == "done"
        assert torch.equal(each["selection"], other["selection"])


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4))
def test_scores_move_to_another_part_and_none_is_made_up(bounds: list[tuple[int, int]]) -> None:
    kept = PartScores(12, frozenset({"gap"}), "cpu")
    everything = torch.arange(12.0)
    kept, _ = kept.updated([(torch.arange(12), everything)])
    known = set(range(12))
    for low, high in map(sorted, bounds):
        kept = kept._at(range(low, high))
        known &= set(range(low, high))
        margins = KeptScores.margins.fget(kept)  # type: ignore[attr-defined]
        expected = [float(i) if i in known else -np.inf for i in range(low, high)]
        assert margins.tolist() == expected
        lacks = said(kept._check_held)
        assert lacks.startswith("ValueError: score: got no gap of") == (len(known) < high - low)


@pytest.mark.parametrize("places", [[], [0], [7, 8, 15, 16, 20], list(range(21))])
def test_bits_stand_for_places(places: list[int]) -> None:
    packed = _packed(torch.tensor(places, dtype=torch.int64), 3)
    assert packed.dtype == torch.uint8
    numpys = np.zeros(24, bool)
    numpys[places] = True
    assert packed.tolist() == np.packbits(numpys, bitorder="little").tolist()
    assert _places(packed).tolist() == places


def test_the_page_names_the_strategies_that_can_be_sharded() -> None:
    page = (ROOT / "docs" / "selection.md").read_text(encoding="utf-8")
    named = page.partition("- **Strategies** that rank")[2].partition("Others,")[0]
    epochs = {name for name in STRATEGIES if hasattr(STRATEGIES[name], "select")}
    usable = {
        name
        for name in epochs
        if said(lambda name=name: SubsetSampler(N, name, sharded=True)) == "done"
    }
    assert {each for each in named.split("`") if each in STRATEGIES} == usable


@pytest.mark.parametrize(
    "strategy", ["random", "full", "importance", "craig", "infobatch", "forgetting"]
)
def test_strategies_that_need_all_scores_in_one_place_are_refused(strategy: str) -> None:
    with pytest.raises(
        ValueError, match=r"sharded: got True with \w+.*, want a strategy that ranks"
    ):
        SubsetSampler(N, strategy, sharded=True)
    with pytest.raises(TypeError, match="sharded: got 1, want True or False"):
        SubsetSampler(N, sharded=1)  # type: ignore[arg-type]


def test_states_that_no_sampler_saves_are_refused() -> None:
    sampler = margins(sharded=True)
    state = sampler.state_dict()
    kept = state["scores"]["gap"]
    for wrong in (
        {**kept, "part": [3, N + 3]},
        {**kept, "part": [0, 2]},
        {**kept, "part": [1]},
        {"margins": kept["margins"]},
    ):
        with pytest.raises(
            ValueError, match=r"state: got gap of .* samples as part .*, want it in"
        ):
            sampler.load_state_dict({**state, "scores": {"gap": wrong}})
    with pytest.raises(ValueError, match="state: got no scores of gap, want them"):
        sampler.load_state_dict({**state, "scores": {}})
    part = {**kept, "num_samples": 2, "margins": kept["margins"][:2], "part": [0, 2]}
    with pytest.raises(ValueError, match=r"state: got gap of 2 of 43 samples, .* gather_state"):
        margins().load_state_dict({**state, "scores": {"gap": part}})
