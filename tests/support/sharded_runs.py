"""What tests of sharded samplers have every rank do: selections, states and refusals, and the scores that it is all about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynams.selection import RankShard, Signals, SubsetSampler, gather_state, linear
from sampler_inputs import assert_states_equal

N, EPOCHS, SAVED_AT, CONSUMED = 43, 5, 2, 9
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
        few = SubsetSampler(3, sharded=True)
        few.begin_epoch(0, scored(0, 3))
        told["few"] = gather_state(few)
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
