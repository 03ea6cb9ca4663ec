"""Every draw has its own generator, which depends on nothing but where the draw is."""

from __future__ import annotations

import itertools

import torch

from dynams.training.seeds import derive_seed, generator


def draw(**where) -> list[int]:
    return torch.randint(0, 2**31, (4,), generator=generator("cpu", **where)).tolist()


def test_the_same_place_gives_the_same_numbers():
    where = {"seed": 3, "purpose": "augmentation", "epoch": 5, "step": 7, "rank": 1}
    assert draw(**where) == draw(**where)


def test_every_part_of_the_place_matters():
    base = {"seed": 3, "purpose": "augmentation", "epoch": 5, "step": 7, "rank": 1}
    others = [{**base, key: value} for key, value in base.items()]
    for changed, key in zip(others, base, strict=True):
        changed[key] = "weights" if key == "purpose" else base[key] + 1
    draws = [draw(**where) for where in [base, *others]]
    assert all(a != b for a, b in itertools.combinations(draws, 2))


def test_places_do_not_collide_by_adding_up():
    seeds = {derive_seed(a, b) for a in range(100) for b in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    draw(seed=0, purpose="augmentation")
    assert torch.equal(torch.random.get_rng_state(), before)
