"""Two ranks train on shares of one selection: on what the plain loop trains on, and from the middle of an epoch too."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from dynams.selection import RankShard, SubsetSampler, linear, score_batches
from two_ranks import told_by_two

N, FEATURES, CLASSES = 48, 4, 3
EPOCHS, BATCH = 5, 2
STOP = (2, 5)


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    # Double precision: the order of sums in a batch decides no selection.
    inputs = torch.randn(N, FEATURES, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, CLASSES, (N,), generator=generator)


def learner() -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    return model


class Trained:
    """A training by the plain loop, or by that of two ranks: what it trained on, and how to go on with it."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        inputs, labels = samples()
        self.train_set = TensorDataset(torch.arange(N), inputs, labels)
        self.model = learner()
        self.forward: nn.Module = self.model if world == 1 else DistributedDataParallel(self.model)
        plain = TensorDataset(inputs)
        scoring = (
            DataLoader(plain, 12)
            if world == 1
            else DataLoader(plain, 12, sampler=RankShard(len(plain)))
        )
        self.sampler = SubsetSampler(
            N,
            budget=linear(1.0, 0.5),
            epochs=EPOCHS,
            refresh_every=2,
            score=lambda: score_batches(self.forward, scoring),
        )
        if world == 1:
            self.loader = DataLoader(self.train_set, 2 * BATCH, sampler=self.sampler)
            self.advance = lambda: self.sampler.advance(2 * BATCH)
        else:
            share = self.sampler.shard(rank, world, BATCH)
            self.loader = DataLoader(self.train_set, batch_sampler=share)
            self.advance = share.advance
        self.trained: list[tuple[int, list[int]]] = []

    def train(self, stop: tuple[int, int] | None = None) -> dict[str, Any]:
        """All epochs, or until so many steps of an epoch: the state then."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.3)
        for epoch in range(self.sampler.epoch or 0, EPOCHS):
            self.sampler.set_epoch(epoch)
            for step, (indices, inputs, labels) in enumerate(self.loader):
                if (epoch, step) == stop:
                    return self.state()
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.forward(inputs), labels).backward()
                optimizer.step()
                self.trained.append((epoch, indices.tolist()))
                self.advance()
        return self.state()

    def state(self) -> dict[str, Any]:
        return {
            "model": {name: each.clone() for name, each in self.model.state_dict().items()},
            "sampler": self.sampler.state_dict(),
            "trained": list(self.trained),
        }

    def load(self, state: dict[str, Any]) -> Trained:
        self.model.load_state_dict(state["model"])
        self.sampler.load_state_dict(state["sampler"])
        self.trained = list(state["trained"])
        return self


def trained(rank: int, folder: Path) -> dict[str, Any]:
    stopped = Trained(rank, 2).train(STOP)
    one = torch.load(folder / "one", weights_only=True)
    one["trained"] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {
            "whole": Trained(rank, 2).train(),
            "stopped": stopped,
            "of one": Trained(rank, 2).load(one).train(),
        }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(Trained().train(STOP), folder / "one")
    return told_by_two(trained, folder)


def together(told: list[dict[str, Any]], name: str) -> list[tuple[int, list[int]]]:
    """What both ranks trained on, step by step, each step's samples ascending."""
    steps = zip(*(each[name]["trained"] for each in told), strict=True)
    both = []
    for (epoch, mine), (same_epoch, others) in steps:
        assert epoch == same_epoch
        both.append((epoch, sorted(mine + others)))
    return both


def in_steps(trained: list[tuple[int, list[int]]]) -> list[tuple[int, list[int]]]:
    return [(epoch, sorted(indices)) for epoch, indices in trained]


def test_two_ranks_train_on_what_the_plain_loop_does_and_learn_the_same(
    told: list[dict[str, Any]],
) -> None:
    plain = Trained().train()
    assert together(told, "whole") == in_steps(plain["trained"])
    sizes = [sum(len(step) for at, step in together(told, "whole") if at == e) for e in range(5)]
    assert sizes == [48, 48, 36, 36, 24]
    for each in told:
        torch.testing.assert_close(each["whole"]["model"], plain["model"])


def test_a_resume_from_the_middle_of_an_epoch_goes_on_with_other_ranks(
    told: list[dict[str, Any]],
) -> None:
    plain = Trained().train()
    steps = in_steps(plain["trained"])
    at = len(together(told, "stopped"))
    assert 0 < at < len(steps)
    assert together(told, "stopped") == steps[:at]
    assert together(told, "of one") == steps[at:]  # begun by one process
    assert told[0]["of one"]["sampler"]["consumed"] == 24
    alone = Trained().load(told[0]["stopped"])  # begun by two, goes on in one
    alone.trained = []
    ended = alone.train()
    assert in_steps(ended["trained"]) == steps[at:]
    torch.testing.assert_close(ended["model"], plain["model"])
