"""timm and torchvision, as their guide shows them: every block of it, and the example, run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import torchvision_ops
from noted_reads import Noted
from pages import ROOT, python_blocks

torchvision_ops.declare()
timm = pytest.importorskip("timm")

BLOCKS = python_blocks("docs/guides/timm.md")
EXAMPLE = runpy.run_path(str(ROOT / "examples" / "timm_training.py"))


def pictures(channels: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    images = torch.randn(count, channels, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1) / 3
    return images, labels


def sets(channels: int, count: int = 200) -> dict[str, Any]:
    images, labels = pictures(channels, count)
    plain = TensorDataset(images, labels)
    return {"train_set": Noted(images, labels), "plain_set": plain, "test_set": plain}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def test_the_trainer_trains_a_network_of_timm() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[0], names)
    assert names["summary"].completed
    assert names["summary"].proxy_width == 0.5
    assert names["summary"].accuracy > 0.5


def test_the_trainer_trains_a_network_of_torchvision() -> None:
    names = sets(3, 64)
    exec(BLOCKS[1], names)
    assert names["summary"].completed
    assert names["summary"].proxy_width == 0.5
    assert names["model"].bn1.num_batches_tracked > 0


def test_timms_loop_trains_on_each_selected_sample_once_and_its_schedule_ends_with_the_last_update() -> (
    None
):
    names = sets(1)
    exec(BLOCKS[2], names)
    read, sampler = names["train_set"].read, names["sampler"]
    # The warm-up's batches are 3 of 64 out of 200, a selection's 1 out of 120; samplers hand out up to a batch more than is used.
    epochs = [read[: 3 * 64], read[3 * 64 : 6 * 64], read[6 * 64 : 7 * 64], read[7 * 64 :]]
    assert [len(set(epoch)) for epoch in epochs] == [192, 192, 64, 64]
    assert epochs[3] == sampler.order()[:64].tolist()
    nearest = sampler.margins.argsort(stable=True)[:120].sort().values
    assert torch.equal(sampler.indices, nearest)
    assert names["update"] == names["updates"] == 8
    assert names["optimizer"].param_groups[0]["lr"] == 0
    assert sampler.consumed == 64


def test_half_the_width_of_a_timm_network_scores() -> None:
    names = sets(1)
    exec(BLOCKS[3], names)
    network, sampler = names["network"].eval(), names["sampler"]
    with torch.no_grad():
        logits = network.plain(0.5)(names["plain_set"].tensors[0]).double()
    top = logits.topk(2).values
    torch.testing.assert_close(
        sampler.margins.double(), top[:, 0] - top[:, 1], rtol=1e-4, atol=1e-5
    )
    assert torch.equal(sampler.indices, sampler.margins.argsort(stable=True)[:120].sort().values)
    assert type(names["model"]) is type(timm.create_model("test_resnet"))


def test_the_moving_average_scores_in_the_example() -> None:
    train_set, test_set = EXAMPLE["digits"]()
    model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    average, sampler = EXAMPLE["train"](model, train_set, epochs=3)
    assert (len(sampler), len(train_set), sampler.consumed) == (862, 1437, 13 * 64)
    assert EXAMPLE["accuracy"](average, test_set) > 0.3


def test_half_the_width_scores_in_the_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["timm_training.py", "--epochs", "3", "--width", "0.5"])
    EXAMPLE["main"]()
    printed = capsys.readouterr().out
    assert "862 of 1437" in printed
    assert float(printed.split()[-1]) > 0.5
