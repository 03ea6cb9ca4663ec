"""What several processes agree on: when to stop, and the means of what each has for itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynams.training import distributed
from dynams.training.distributed import Agreement, average_buffers, own_buffers, put_back


class Pair:
    """Stands in for the engine with two processes; notes what is compared, and adds the other's part."""

    world_size = 2
    global_rank = 0
    device = torch.device("cpu")

    def __init__(self, other: Any = None) -> None:
        self.other = other
        self.compared = 0

    def all_reduce(self, mine: Tensor, reduce_op: str) -> Tensor:
        self.compared += 1
        other = mine if self.other is None else self.other
        return {"max": torch.maximum(mine, other), "mean": (mine + other) / 2}[reduce_op]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(distributed.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(("seconds", "most"), [(0.001, 16), (0.3, 3), (3.0, 1)])
def test_processes_compare_once_a_second_or_at_every_batch(monkeypatch, seconds, most):
    clock, pair = Clock(monkeypatch), Pair()
    stopping = Agreement(pair, lambda: False)
    compared_at = []
    for question in range(100):
        clock.now += seconds
        before = pair.compared
        assert not stopping()
        if pair.compared > before:
            compared_at.append(question)
    assert compared_at[0] == 0
    assert {later - sooner for sooner, later in pairwise(compared_at)} == {most}


def test_work_of_another_kind_is_compared_at_its_first_batch(monkeypatch):
    clock, pair = Clock(monkeypatch), Pair()
    stopping = Agreement(pair, lambda: False)
    for _ in range(3):
        clock.now += 0.001
        stopping()
    stopping.begin()
    before = pair.compared
    stopping()
    assert pair.compared == before + 1


def test_the_wish_of_one_is_everybodys_and_stays():
    stopping = Agreement(Pair(other=torch.tensor([1.0, 0.5])), lambda: False)
    assert stopping()
    assert all(stopping() for _ in range(3))


def test_means_of_what_is_equal_stay_it_and_a_process_has_its_own_again():
    module = nn.BatchNorm1d(3)
    with torch.no_grad():
        module.running_mean.copy_(torch.tensor([0.1, 1 / 3, 7e-8]))
    own = own_buffers(Pair(), module)
    assert sorted(own) == ["running_mean", "running_var"]
    average_buffers(Pair(), module)
    assert torch.equal(module.running_mean, own["running_mean"])
    average_buffers(Pair(other=torch.zeros(6, dtype=torch.float64)), module)
    assert torch.equal(module.running_mean, own["running_mean"] / 2)
    put_back(module, own)
    assert torch.equal(module.running_mean, own["running_mean"])
