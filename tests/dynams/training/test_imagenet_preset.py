"""The command that trains on ImageNet unattended, on a handful of images: stopped in an epoch's middle, it goes on by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import StopAt, equal, log_lines

from dynams.cli.main import main
from dynams.cli.options import parse
from dynams.training import load_checkpoint, train
from dynams.training.rundir import checkpoint_path
from image_shards import Pictures
from pages import blocks_of

# All that differs from the page's command: sizes, and what is shown.
SMALL = {
    "data.image_size": 40,
    "data.crop": "random-resized",
    "data.crop_size": 32,
    "data.workers": 0,
    "model.base_channels": 4,
    "selection.warmup_epochs": 1,
    "optim.epochs": 3,
    "optim.batch_size": 8,
    "run.devices": 1,
    "run.accelerator": "cpu",
    "run.precision": "32-true",
    "run.save_every_steps": 2,
    "run.tensorboard": "false",
    "run.report": "false",
    "run.progress": "false",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 24), ("val", 6)):
        Pictures.made(count, size=(40, 44), seed=len(split)).write_folder(path / split)
    return path


def command(folder: Path, runs: Path) -> list[str]:
    """The page's command, as a small run."""
    (block,) = blocks_of("docs/imagenet.md", "bash")
    words = block.split()[2:]
    given = dict(zip(words[::2], words[1::2], strict=True))
    given |= {"--data.path": str(folder), "--run.dir": str(runs)}
    given |= {f"--{name}": str(value) for name, value in SMALL.items()}
    return [word for pair in given.items() for word in pair]


def test_one_command_begins_the_run_and_goes_on_with_it(folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *command(folder, whole)]) == 0
    request = parse(command(folder, parts))
    assert request.resume == "auto"
    assert request.config.data.storage == "index"
    stopped = train(request.config, resume="auto", interrupt=StopAt(5))
    assert not stopped.completed
    assert Path(stopped.run_dir) == parts / "imagenet"
    assert main(["train", *command(folder, parts)]) == 0
    first, second = (load_checkpoint(checkpoint_path(each / "imagenet")) for each in (whole, parts))
    assert equal(first.model, second.model)
    refreshes = [line for line in log_lines(whole / "imagenet") if line["record"] == "refresh"]
    assert [line["selected"] for line in refreshes] == [12, 12]
