"""Any sequence of epochs, refusals, failures, walks, counts and resumes, against a sampler of a few lines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynams.selection import SubsetSampler
from sampler_inputs import smallest

N, WARMUP, EVERY, KEPT = 10, 1, 2, 4

scorings = st.dictionaries(
    st.integers(0, N - 1), st.integers(0, 4).map(float), min_size=1, max_size=N
)
steps = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 3), scorings),
    st.tuples(st.just("fail"), st.integers(1, 3), scorings),
    st.tuples(st.just("refuse"), st.integers(1, 3), scorings),
    st.tuples(st.just("walk"), st.integers(0, N), st.none()),
    st.tuples(st.just("advance"), st.integers(0, N), st.none()),
    st.tuples(st.just("resume"), st.booleans(), st.none()),
)


class Model:
    """What the sampler is to hold, in plain Python and NumPy."""

    def __init__(self) -> None:
        self.epoch = -1
        self.block = -1
        self.known = np.full(N, -np.inf)
        self.selection = list(range(N))
        self.start = self.trained = 0

    def due(self, epoch: int) -> bool:
        return epoch >= WARMUP and (epoch - WARMUP) // EVERY != self.block

    def begin(self, epoch: int, scoring: dict[int, float]) -> None:
        if epoch == self.epoch:
            return
        if self.due(epoch):
            self.block = (epoch - WARMUP) // EVERY
            for index, margin in scoring.items():
                self.known[index] = margin
            self.selection = smallest(torch.from_numpy(self.known), KEPT)
        self.epoch, self.start, self.trained = epoch, 0, 0


def pairs(scoring: dict[int, float], spoilt: str = "") -> Iterator[tuple[Tensor, Tensor]]:
    for index, margin in scoring.items():
        yield torch.tensor([index]), torch.tensor([margin])
    if spoilt == "fail":
        raise OSError("disk")
    if spoilt == "refuse":
        yield torch.tensor([N]), torch.tensor([0.0])


def built() -> SubsetSampler:
    return SubsetSampler(N, budget=KEPT / N, warmup_epochs=WARMUP, refresh_every=EVERY, seed=1)


@pytest.mark.filterwarnings("ignore:epoch .* over and is iterated")
@given(st.lists(steps, max_size=25))
def test_whatever_happens_the_sampler_is_what_it_should_be(
    happenings: list[tuple[str, int, dict[int, float] | None]],
) -> None:
    sampler, model = built(), Model()
    sampler.begin_epoch(0)
    model.begin(0, {})
    orders: dict[int, list[int]] = {0: sampler.order().tolist()}
    for what, count, scoring in happenings:
        if what == "begin":
            epoch = model.epoch + count
            sampler.begin_epoch(epoch, lambda scoring=scoring: pairs(scoring))
            model.begin(epoch, scoring or {})
            orders.setdefault(epoch, sampler.order().tolist())
        elif what in ("fail", "refuse"):
            epoch = model.epoch + count
            if model.due(epoch):
                try:
                    sampler.begin_epoch(epoch, lambda s=scoring, w=what: pairs(s, w))
                except (OSError, ValueError):
                    pass
                else:
                    raise AssertionError("it was to fail")
        elif what == "walk":
            walk = iter(sampler)
            for _ in range(count):
                next(walk, None)
        elif what == "advance":
            count = min(count, len(model.selection) - model.start - model.trained)
            sampler.advance(count)
            model.trained += count
        else:
            resumed = built() if count else sampler
            resumed.load_state_dict(sampler.state_dict())
            sampler = resumed
            model.start, model.trained = model.start + model.trained, 0
        assert sampler.epoch == model.epoch
        assert sampler.indices.tolist() == model.selection
        assert sampler.margins.tolist() == model.known.tolist()
        assert sampler.consumed == model.start + model.trained
        assert bool(sampler.wanted(model.epoch + 1)) == model.due(model.epoch + 1)
        order = sampler.order().tolist()
        assert order == orders[model.epoch]
        assert sorted(order) == model.selection
        assert list(sampler) == order[model.start :]
