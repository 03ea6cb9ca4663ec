"""A sharded sampler selects and orders as one that holds all scores, on any number of ranks, and is told what fails.

One launch for each number of ranks does everything and writes down what came of it; the tests look at parts of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynams.selection import RankShard, Signals, SubsetSampler, gather_state, linear
from dynams.selection.over_ranks import _packed, _places
from sampler_inputs import assert_states_equal, smallest
from two_ranks import told_by_ranks

N, EPOCHS, SAVED_AT, CONSUMED = 43, 5, 2, 9
WORLDS = (2, 1, 4, 8)
NAMES = ("margin", "loss", "static", "tail", "tiny", "one")
VALUES = torch.tensor([0.0, -0.0, 1.0, 2.5, -3.0, torch.inf, -torch.inf, torch.nan, 1e-40])
Pairs = Iterator[tuple[Tensor, Tensor]]


def scores_of(epoch: int, n: int = N) -> Tensor:
    """Some numbers of a kind, so that ties are the rule."""
    generator = torch.Generator().manual_seed(50 + epoch)
    return VALUES[torch.randint(0, len(VALUES), (n,), generator=generator)]


def pairs(epoch: int, samples: Tensor, n: int = N) -> Pairs:
    for indices in samples.flip(0).split(3):
        yield indices, scores_of(epoch, n)[indices]


def scored(epoch: int, n: int = N, every: int = 1) -> Callable[[], Pairs]:
    """This rank's part of the samples, or, after the first refresh, of one in `every` of all."""
    part = RankShard(n).part
    mine = torch.arange(part.start, part.stop)
    return lambda: pairs(epoch, mine[(mine + epoch) % (every if epoch > 1 else 1) == 0], n)


def margins(**options: Any) -> SubsetSampler:
    budget = linear(0.8, 0.3)
    return SubsetSampler(
        N, budget=budget, epochs=EPOCHS, warmup_epochs=1, refresh_every=1, **options
    )


def told_of(sampler: SubsetSampler, epoch: int, every: int = 1) -> dict[str, Any]:
    refresh = sampler.begin_epoch(epoch, scored(epoch, sampler.num_samples, every))
    changed = None if refresh is None else [refresh.threshold, refresh.overlap]
    return {"order": sampler.order(), "selection": sampler.indices, "changed": changed}


def samplers(sharded: bool, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Strategies' epochs, and tiny data sets: fewer samples than ranks."""
    made = {
        "margin": (margins(sharded=sharded), 3),
        "loss": (SubsetSampler(N, "loss", epochs=EPOCHS, sharded=sharded), 1),
        "static": (
            SubsetSampler(N, "static-margin", budget=linear(0.8, 0.2), epochs=5, sharded=sharded),
            1,
        ),
        "tail": (SubsetSampler(N, "entropy", epochs=5, tail=0.4, sharded=sharded), 1),
        "tiny": (SubsetSampler(5, epochs=3, sharded=sharded), 2),
        "one": (SubsetSampler(1, epochs=2, sharded=sharded), 1),
    }
    return {
        name: [told_of(sampler, epoch, every) for epoch in range(sampler.timetable.epochs or 0)]
        for name, (sampler, every) in made.items()
        if name in names
    }


def random_cases(sharded: bool, cases: int = 10) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    chosen = []
    for case in range(cases):
        n = int(torch.randint(1, 70, (), generator=generator))
        budget = float(torch.rand((), generator=generator)) * 0.98 + 0.01
        sampler = SubsetSampler(n, budget=budget, sharded=sharded)
        sampler.begin_epoch(0, scored(case, n))
        chosen.append(sampler.indices)
    return chosen


def batches(rank: int, world: int) -> list[list[int]]:
    sampler = margins(sharded=True)
    sampler.begin_epoch(1, scored(1))
    return list(sampler.shard(rank, world, 3))


def by_two_scores(sharded: bool) -> Tensor:
    """From the signals of a part."""
    part = RankShard(N).part
    mine = torch.arange(part.start, part.stop)
    scores = {"loss": scores_of(0)[mine], "irreducible_loss": scores_of(1)[mine]}
    sampler = SubsetSampler(N, "rho-loss", budget=0.3, sharded=sharded)
    sampler.begin_epoch(0, lambda: Signals(len(mine), scores))
    return sampler.indices


def made_before(sharded: bool) -> SubsetSampler:
    sampler = SubsetSampler(N, budget=0.4, sharded=sharded)
    sampler.begin_epoch(0, lambda: pairs(0, torch.arange(N)))
    return sampler


def saved(folder: Path, rank: int) -> dict[str, Any]:
    """A run that is stopped in the middle of an epoch: the states that it leaves."""
    sampler = margins(sharded=True)
    for epoch in range(SAVED_AT + 1):
        sampler.begin_epoch(epoch, scored(epoch, every=3))
    sampler.advance(CONSUMED)
    gathered = gather_state(sampler)
    if rank == 0:
        torch.save({"gathered": gathered, "own": sampler.state_dict()}, folder / "states")
    fresh = margins(sharded=True)  # nothing was scored yet, and nothing is lost
    fresh.begin_epoch(0)
    return {"gathered": gathered, "own": sampler.state_dict(), "fresh": gather_state(fresh)}


def resumed(states: dict[str, Any], sharded: bool) -> dict[str, Any]:
    sampler = margins(sharded=sharded)
    sampler.load_state_dict(states["gathered"])
    told: dict[str, Any] = {"rest": list(sampler), "gathered": gather_state(sampler)}
    told["later"] = [told_of(sampler, epoch, 3) for epoch in range(SAVED_AT + 1, EPOCHS)]
    return told


def resumed_by_rank_0s(states: dict[str, Any], rank: int) -> dict[str, Any]:
    """Its state has the scores of its own part alone."""
    sampler = margins(sharded=True)
    sampler.load_state_dict(states["own"])
    told: dict[str, Any] = {"rest": list(sampler), "again": sampler.state_dict()}
    told["whole"] = gather_state(sampler)
    before = sampler.state_dict()
    told["partial"] = said(lambda: sampler.begin_epoch(SAVED_AT + 1, scored(SAVED_AT + 1, every=3)))
    assert_states_equal(before, sampler.state_dict())
    told["later"] = [told_of(sampler, epoch) for epoch in range(SAVED_AT + 1, EPOCHS)]
    return told


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def refused(rank: int, world: int) -> dict[str, Any]:
    def failing() -> Pairs:
        yield from scored(1)()
        if rank == 1:
            raise OSError("disk")

    def before() -> Pairs:
        if rank == 1:
            raise OSError("before")
        return scored(1)()

    everything = torch.arange(N)
    sampler = margins(sharded=True)
    sampler.begin_epoch(0)
    whole = SubsetSampler(N, budget=0.8, epochs=EPOCHS)
    told: dict[str, Any] = {
        name: said(lambda score=score: sampler.begin_epoch(1, score))
        for name, score in {
            "failing": failing,
            "before": before,
            "of others": lambda: pairs(1, everything),
            "dtype": lambda: [(torch.arange(1), torch.ones(1, dtype=torch.int64))] * (rank == 1),
            "nothing": list,
        }.items()
    }
    told["epoch"] = sampler.epoch
    told["mixed"] = said(lambda: (whole if rank == 1 else sampler).begin_epoch(1, scored(1)))
    for name, one, other in (
        ("size", {"budget": 0.5}, {"budget": 0.6}),
        ("strategy", {"strategy": "loss"}, {"strategy": "entropy"}),
        ("num_samples", {}, {"num_samples": N - 1}),
    ):
        options = other if rank == 1 else one
        n = options.pop("num_samples", N)
        strange = SubsetSampler(n, sharded=True, **options)
        told[name] = said(lambda s=strange, n=n: s.begin_epoch(0, scored(1, n)))
    # One selects, by scores that it has, while the other has begun the epoch.
    static = SubsetSampler(N, "static-margin", budget=linear(0.8, 0.2), epochs=5, sharded=True)
    static.begin_epoch(0, scored(0))
    if rank == 1:
        state = {**static.state_dict(), "epoch": 2, "selected_at": 2}
        static.load_state_dict(state)
    told["elsewhere"] = said(lambda: static.begin_epoch(2))
    told["good"] = said(lambda: sampler.begin_epoch(1, scored(1)))
    told["selection"] = sampler.indices
    return told


def on_rank(rank: int, folder: Path) -> dict[str, Any]:
    world = RankShard(1).world
    states = torch.load(folder.parent / "states", weights_only=True) if world != 2 else None
    told: dict[str, Any] = {
        # Eight processes on two cores wait for each other most of the time: what four show is not shown again.
        "samplers": samplers(sharded=True, names=NAMES if world < 8 else ("margin", "tiny")),
        "random": random_cases(sharded=True, cases=10 if world < 8 else 3),
        "batches": batches(rank, world),
        "part": list(RankShard(N).part),
    }
    if world == 4:
        told["two scores"] = by_two_scores(sharded=True)
        told["early"] = told_of(EARLY, 2, every=3)
    if world == 2:
        told["saved"] = saved(folder.parent, rank)
    elif states is not None:
        told["resumed"] = resumed(states, sharded=True)
        if world < 8:
            told["lacking"] = resumed_by_rank_0s(states, rank)
    if 1 < world < 8:
        told["refused"] = refused(rank, world)
    return told


# It has scores of all samples before there is a process group.
EARLY = made_before(sharded=True)


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


@pytest.mark.parametrize("places", [[], [0], [7, 8, 15, 16, 20], list(range(21))])
def test_bits_stand_for_places(places: list[int]) -> None:
    packed = _packed(torch.tensor(places, dtype=torch.int64), 3)
    assert packed.dtype == torch.uint8
    numpys = np.zeros(24, bool)
    numpys[places] = True
    assert packed.tolist() == np.packbits(numpys, bitorder="little").tolist()
    assert _places(packed).tolist() == places


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
