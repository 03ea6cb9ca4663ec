"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pages import python_blocks

README = Path(__file__).parent.parent / "README.md"


def test_the_loop_trains_on_the_budget_after_the_warm_up() -> None:
    generator = torch.Generator().manual_seed(0)
    train_set = TensorDataset(
        torch.randn(300, 5, generator=generator), torch.randint(0, 3, (300,), generator=generator)
    )
    model = nn.Linear(5, 3)
    seen: list[int] = []

    def train_step(images: Tensor, labels: Tensor) -> None:
        assert images.shape == (len(labels), 5)
        seen.append(len(labels))

    names = {"train_set": train_set, "model": model, "epochs": 8, "train_step": train_step}
    exec(python_blocks("README.md", "In your own training loop")[0], names)
    assert sum(seen) == 2 * 300 + 6 * 180
    with torch.no_grad():
        top = model(train_set.tensors[0]).topk(2, dim=1).values.double()
    nearest = (top[:, 0] - top[:, 1]).argsort(stable=True)[:180].sort().values
    assert torch.equal(names["sampler"].indices, nearest)


def test_the_trainer_takes_the_readers_network_and_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (60,), generator=generator)
    images = torch.randn(60, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)

    class Noisy(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            image, label = super().__getitem__(index)
            return image + 0.1 * torch.randn(image.shape), label

    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
    )
    before = model[0].weight.detach().clone()
    names = {
        "train_set": Noisy(images, labels),
        "plain_set": TensorDataset(images, labels),
        "test_set": TensorDataset(images, labels),
        "model": model,
        "epochs": 3,
    }
    exec(python_blocks("README.md", "Your own network and data in the trainer")[0], names)
    assert names["summary"].completed
    assert names["summary"].proxy_width == 0.5
    assert not torch.equal(model[0].weight, before)


def test_the_kernels_examples_give_what_they_say() -> None:
    batch, classes, width, k = 20, 4, 256, 7
    names = {
        "logits": torch.randn(batch, classes),
        "labels": torch.randint(0, classes, (batch,)),
        "features": torch.randn(batch, width),
        "weight": torch.randn(classes, width),
        "bias": torch.randn(classes),
        "hidden": torch.randn(batch, width),
        "lm_head": torch.nn.Linear(width, classes, bias=False),
        "tokens": torch.randint(0, classes, (batch,)),
        "margins": torch.rand(batch),
        "k": k,
    }
    exec(python_blocks("README.md", "The kernels")[0], names)


def test_quick_start_has_two_commands() -> None:
    section = README.read_text().partition("## Quick start\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"^```bash$", section, re.MULTILINE)) == 2
