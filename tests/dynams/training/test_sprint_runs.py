"""Runs of the sprint network: its first layer is computed of the training images, once, the same everywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from training_runs import StopAt, equal, made_up_data, made_up_images, small_config

from dynams.data import ImageData
from dynams.models import whitening_filters
from dynams.training.batches import ImageBatches
from dynams.training.checkpoint import load_checkpoint
from dynams.training.config import ModelConfig, TrainConfig
from dynams.training.entry import train
from dynams.training.resolve import build_network, check_early, resolve
from dynams.training.rundir import checkpoint_path
from dynams.training.whitening import whiten

DATA = made_up_data()
SPRINT = {"name": "sprint", "base_channels": None, "channels": [4, 6], "depth": 2}


def sprint_config(folder: Path) -> TrainConfig:
    return small_config(folder, model=SPRINT, optim={"epochs": 3, "batch_size": 20})


def first_weight(run_dir: str) -> torch.Tensor:
    return load_checkpoint(checkpoint_path(run_dir)).model["network.first.weight"]


def test_first_weights_are_of_the_normalised_training_images_and_stay(tmp_path: Path) -> None:
    run_dir = train(sprint_config(tmp_path), DATA).run_dir
    images = (DATA.train.images.double() / 255 - 0.35) / 0.25
    torch.testing.assert_close(
        first_weight(run_dir).double(), whitening_filters(images), rtol=1e-3, atol=1e-3
    )


def test_a_resumed_run_ends_as_one_that_nobody_stopped(tmp_path: Path) -> None:
    whole = train(sprint_config(tmp_path / "whole"), DATA)
    for question in (2, 9):
        stopped = train(sprint_config(tmp_path / f"{question}"), DATA, interrupt=StopAt(question))
        assert not stopped.completed
        resumed = train(sprint_config(tmp_path), DATA, resume=stopped.run_dir)
        ends = [load_checkpoint(checkpoint_path(each.run_dir)) for each in (resumed, whole)]
        assert equal(ends[0].model, ends[1].model)
        assert equal(ends[0].optimizer, ends[1].optimizer)


def test_every_process_computes_the_same_first_weights() -> None:
    config = TrainConfig(model=ModelConfig(name="sprint", channels=[4, 6], depth=2))
    weights = []
    for rank in range(2):
        batches = ImageBatches(
            DATA.train, torch.device("cpu"), DATA.mean, DATA.std, DATA.augmentation,
            seed=0, rank=rank, processes=2,
        )  # fmt: skip
        network = build_network(config, (0.5, 1.0), channels=1, classes=3)
        whiten(network, batches, seed=0)
        weights.append(network.network.first.weight)  # type: ignore[attr-defined]
    assert torch.equal(*weights)


def test_images_too_small_are_refused_by_the_setting(tmp_path: Path) -> None:
    config = small_config(tmp_path, model={**SPRINT, "channels": [4, 6, 8]})
    said = "data.image_size: got images of 8 x 8 pixels, want at least 9 x 9 for model.name=sprint"
    with pytest.raises(ValueError, match=said):
        train(config, DATA)


@pytest.mark.parametrize("channels_last", [False, True])
def test_trains_channels_last_on_the_cpu_too(tmp_path: Path, channels_last: bool) -> None:
    run = {"channels_last": channels_last, "accelerator": "cpu"}
    resolved = resolve(small_config(tmp_path, model=SPRINT, run=run), DATA)
    assert (resolved.memory_format == torch.channels_last) == channels_last
    # Their strided 1x1 convolutions are not safe there.
    assert resolve(small_config(tmp_path, run=run), DATA).memory_format == torch.contiguous_format
    assert train(resolved.config, DATA).completed


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "resnet8", "channels": [4]}, r"model.channels: got \[4\] with resnet8, want"),
        ({"name": "sprint", "base_channels": 4}, "model.base_channels: got 4 with sprint, want"),
        ({"name": "sprint", "depth": 4}, "model.depth: got 4, want at most 3"),
        ({"name": "sprinter"}, "model.name: got 'sprinter', want one of"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(model, said) -> None:
    with pytest.raises(ValueError, match=said):
        check_early(TrainConfig(model=ModelConfig(**model)))


def test_trains_a_holdout_model_of_its_own_whitening(tmp_path: Path) -> None:
    config = small_config(
        tmp_path,
        model=SPRINT,
        data={"holdout": 0.4},
        selection={"strategy": "rho-loss", "holdout_epochs": 1, "warmup_epochs": 0},
        optim={"epochs": 1, "batch_size": 20},
    )
    data = ImageData(
        made_up_images(60, 1), DATA.test, DATA.mean, DATA.std, augmentation=DATA.augmentation
    )
    assert train(dataclasses.replace(config), data).completed
