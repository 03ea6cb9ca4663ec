"""What a caller has set in torch does not change a run: default device, default dtype, no gradients, inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import training_runs as runs
from torch import Tensor, nn
from torch.utils.data import Dataset

from dynams.selection import SubsetSampler
from dynams.training import load_checkpoint, train
from dynams.training.rundir import checkpoint_path


@contextmanager
def defaults() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], Any]] = {
    "defaults": defaults,
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
}


class Items(Dataset[tuple[Tensor, int]]):
    """Images and labels of a user's, which tells no labels by itself."""

    def __init__(self, seed: int) -> None:
        self.made = runs.made_up_images(40, seed)

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.made.images[row] / 255.0, int(self.made.labels[row])


DATA, ITEMS = runs.made_up_data(), (Items(1), Items(2))


def own_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def configured(folder: Path) -> dict[str, Tensor]:
    """The weights of a run of ours, stopped and resumed in its middle."""
    config = runs.small_config(folder, optim={"epochs": 2}, proxy={"recipe": "distill"})
    ended = train(config, DATA, interrupt=runs.StopAt(4))
    ended = train(config, DATA, resume=ended.run_dir)
    assert ended.completed
    return load_checkpoint(checkpoint_path(ended.run_dir)).model


def own(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a network and Datasets of a user's."""
    config = runs.small_config(folder, optim={"epochs": 2})
    ended = train(config, ITEMS, model=model)
    return load_checkpoint(checkpoint_path(ended.run_dir)).model


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("wanted")
    return configured(folder / "ours"), own(folder / "own", own_network())


def same(got: dict[str, Tensor], want: dict[str, Tensor]) -> bool:
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_is_the_same(
    setting: str, wanted: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path
) -> None:
    model = own_network()
    with SETTINGS[setting]():
        assert same(configured(tmp_path / "ours"), wanted[0])
        assert same(own(tmp_path / "own", model), wanted[1])


def test_a_network_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with torch.inference_mode():
        model = own_network()
        with pytest.raises(ValueError, match=r"^model: got .*inference_mode, want "):
            own(tmp_path, model)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_sampler_walks_and_resumes(setting: str) -> None:
    indices, margins = torch.arange(40), torch.rand(40)

    def walk() -> list[list[int]]:
        walks, states = [], []
        sampler = SubsetSampler(40, budget=0.5, score=lambda: [(indices, margins)])
        for epoch in range(2):
            sampler.set_epoch(epoch)
            walks.append(list(sampler))
            sampler.advance(7)
            states.append(sampler.state_dict())
        other = SubsetSampler(40, budget=0.5)
        other.load_state_dict(states[-1])
        return [*walks, list(other)]

    want = walk()
    with ExitStack() as stack:
        stack.enter_context(SETTINGS[setting]())
        got = walk()
        assert got == want


def test_a_sampler_made_in_inference_mode_is_used_outside() -> None:
    with torch.inference_mode():
        sampler = SubsetSampler(40, budget=0.5)
        sampler.begin_epoch(0, lambda: [(torch.arange(40), torch.rand(40))])
    sampler.begin_epoch(1, lambda: [(torch.arange(40), torch.rand(40))])
    other = SubsetSampler(40, budget=0.5)
    other.load_state_dict(sampler.state_dict())
    assert len(list(other)) == 20
