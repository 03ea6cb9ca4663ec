"""A run that was stopped anywhere and resumed ends exactly as if it had never been stopped."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from training_runs import StopAt, equal, log_lines, made_up_data, made_up_images, small_config

from dynams.training.changed_settings import changes_of_the_rest
from dynams.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dynams.training.config import TrainConfig
from dynams.training.entry import train
from dynams.training.errors import ResumeError
from dynams.training.optim import learning_rate
from dynams.training.rundir import checkpoint_path
from dynams.training.state import check_config
from dynams.training.timetable import timetable_of

DATA = made_up_data()


def final(run_dir: str | Path) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run_dir))


def assert_same_end(run_dir: str, reference: str) -> None:
    ours, wanted = final(run_dir), final(reference)
    for name in ("model", "optimizer", "sampler", "sums", "accuracy", "best_accuracy"):
        assert equal(getattr(ours, name), getattr(wanted, name)), name
    assert (ours.epoch, ours.step, ours.global_step, ours.samples) == (
        wanted.epoch,
        wanted.step,
        wanted.global_step,
        wanted.samples,
    )
    assert log_lines(run_dir) == log_lines(reference)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[TrainConfig, str, int]:
    """The configuration, directory and number of stopping points of a run that nobody stopped."""
    config = small_config(tmp_path_factory.mktemp("whole"))
    counter = StopAt()
    summary = train(config, DATA, interrupt=counter)
    assert summary.completed
    return config, summary.run_dir, counter.asked


def test_a_checkpoint_under_the_names_of_before_goes_on(uninterrupted, tmp_path):
    # Once the names of a residual network had no prefix, and a checkpoint no checksum.
    config, reference, _ = uninterrupted
    mine = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(tmp_path)))
    path = checkpoint_path(train(mine, DATA, interrupt=StopAt(9)).run_dir)
    saved = torch.load(path, weights_only=True)
    saved["model"] = {name.removeprefix("network."): it for name, it in saved["model"].items()}
    assert "stem.conv.weight" in saved["model"]
    saved["format"] = 2
    torch.save(saved, path)
    assert_same_end(train(mine, DATA, resume=str(path.parents[1])).run_dir, reference)


def test_stopped_at_any_step_or_scoring_batch_or_epoch_end(uninterrupted, tmp_path):
    config, reference, questions = uninterrupted
    places = set()
    assert questions > 20
    for question in range(1, questions + 1):
        folder = dataclasses.replace(config.run, dir=str(tmp_path / str(question)))
        mine = dataclasses.replace(config, run=folder)
        stopped = train(mine, DATA, interrupt=StopAt(question))
        assert not stopped.completed
        at = final(stopped.run_dir)
        places.add((at.epoch, at.step > 0))
        resumed = train(mine, DATA, resume=stopped.run_dir, interrupt=StopAt())
        assert resumed.completed
        assert resumed.run_dir == stopped.run_dir
        assert_same_end(resumed.run_dir, reference)
    assert {(epoch, True) for epoch in range(4)} <= places
    assert {(epoch, False) for epoch in range(1, 4)} <= places


@pytest.mark.parametrize(
    "sections",
    [
        {"selection": {"strategy": "random", "refresh_every": 2}},
        {"selection": {"strategy": "static-margin"}, "proxy": {"every": 2}},
        {"proxy": {"nested": True, "width": 0.25}},
        {
            "selection": {"schedule": "linear", "options": {"margin": {"kind": "label"}}},
            "proxy": {"width": 1.0},
        },
        {"proxy": {"every": 3}, "run": {"save_every": 2, "evaluate_every": 3}},
        {"run": {"precision": "bf16-mixed", "channels_last": True}},
        {
            "data": {"flip": True, "flips": "alternating", "pad": "reflect", "cutout": 3},
            "selection": {"strategy": "random"},
            "run": {"test_views": 6},
        },
    ],
    ids=["random", "static-margin", "nested", "full width", "rare proxy", "bfloat16", "views"],
)
def test_stopped_soon_again_and_again(sections, tmp_path):
    config = small_config(tmp_path / "whole", **sections)
    reference = train(config, DATA, interrupt=StopAt())
    part = train(small_config(tmp_path / "parts", **sections), DATA, interrupt=StopAt(5))
    stops = 0
    while not part.completed:
        stops += 1
        assert stops < 50
        part = train(config, DATA, resume=part.run_dir, interrupt=StopAt(5))
    assert stops >= 2
    assert_same_end(part.run_dir, reference.run_dir)


@pytest.mark.parametrize("strategy", ["margin", "forgetting", "selective-backprop"])
def test_saving_within_epochs_changes_no_bit(strategy, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "dynams.training.loop.save_checkpoint",
        lambda run_dir, checkpoint, best: (
            saved.append((checkpoint.epoch, checkpoint.step))
            or save_checkpoint(run_dir, checkpoint, best=best)
        ),
    )
    runs = [
        train(
            small_config(
                tmp_path,
                selection={"strategy": strategy},
                proxy={"recipe": "none"},
                run={"save_every_steps": steps, "save_every": 4},
            ),
            DATA,
        ).run_dir
        for steps in (None, 3)
    ]
    assert any(step == 3 for _, step in saved)
    assert_same_end(*runs)


def test_resuming_a_finished_run_changes_nothing(uninterrupted, tmp_path):
    config, reference, _ = uninterrupted
    copy = tmp_path / "copy"
    shutil.copytree(reference, copy)
    before = log_lines(copy)
    again = train(config, DATA, resume=copy)
    assert again.completed
    assert again.epochs == 4
    assert log_lines(copy) == before


def test_settings_that_do_not_matter_may_change(uninterrupted, tmp_path):
    config, reference, _ = uninterrupted
    stopped = train(small_config(tmp_path), DATA, interrupt=StopAt(9))
    other = dataclasses.replace(config.run, save_every=3, report=True, dir="elsewhere")
    resumed = train(dataclasses.replace(config, run=other), DATA, resume=stopped.run_dir)
    assert equal(final(resumed.run_dir).model, final(reference).model)
    assert (Path(resumed.run_dir) / "report.html").is_file()


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("optim", "lr", 0.2),
        ("selection", "budget", 0.5),
        ("proxy", "every", 2),
        ("run", "seed", 4),
        ("run", "precision", "bf16-mixed"),
    ],
)
def test_settings_that_matter_are_refused_by_name(uninterrupted, section, setting, value):
    config, reference, _ = uninterrupted
    changed = dataclasses.replace(getattr(config, section), **{setting: value})
    before = checkpoint_path(reference).read_bytes()
    with pytest.raises(ResumeError, match=rf"^{section}\.{setting}: got '?{value}'?, want"):
        train(dataclasses.replace(config, **{section: changed}), DATA, resume=reference)
    assert checkpoint_path(reference).read_bytes() == before


def test_more_epochs_go_on_by_the_schedules_of_the_longer_run(tmp_path, caplog):
    sections = {"selection": {"schedule": "linear", "tail": 0.25}}
    short = small_config(tmp_path, **sections)
    run_dir = train(short, DATA).run_dir
    longer = dataclasses.replace(short, optim=dataclasses.replace(short.optim, epochs=8))
    copies = [shutil.copytree(run_dir, tmp_path / name) for name in ("whole", "parts")]
    for copy, stop in zip(copies, (None, 9), strict=True):
        caplog.clear()
        part = train(longer, DATA, resume=copy, interrupt=StopAt(stop))
        (said,) = (record.getMessage() for record in caplog.records)
        assert said.startswith("optim.epochs: 4 -> 8: from epoch 5 on, ")
        written = TrainConfig.from_dict(yaml.safe_load((copy / "config.yaml").read_text()))
        assert written.optim.epochs == 8
        assert part.completed == (stop is None)
    assert train(longer, DATA, resume=copies[1], interrupt=StopAt()).completed
    assert_same_end(str(copies[1]), str(copies[0]))
    starts = [line for line in log_lines(copies[0]) if line["record"] == "start"]
    assert [line["config"]["optim"]["epochs"] for line in starts] == [4, 8]
    epochs = [line for line in log_lines(copies[0]) if line["record"] == "epoch"]
    never_longer = [line for line in log_lines(run_dir) if line["record"] == "epoch"]
    assert epochs[:4] == never_longer
    times = timetable_of(longer)
    for line in epochs[4:]:
        done = (line["epoch"] + (line["steps"] - 0.5) / line["steps"]) / 8
        assert line["lr"] == pytest.approx(learning_rate(longer.optim, done))
        assert line["samples"] == times.planned_size(line["epoch"], 50)
    with pytest.raises(ResumeError, match=r"^optim\.epochs: got 4, want at least 8, the epochs"):
        train(short, DATA, resume=copies[0])


def test_another_number_of_devices_goes_on_and_says_what_changes(uninterrupted):
    config, reference, _ = uninterrupted
    two = dataclasses.replace(config, run=dataclasses.replace(config.run, devices=2))
    began = check_config(final(reference), two)
    (said,) = changes_of_the_rest(began, two, 1, 2)
    assert said.startswith("run.devices: 1 -> 2: the same samples in the same order")


def test_other_data_is_refused(uninterrupted):
    config, reference, _ = uninterrupted
    fewer = dataclasses.replace(DATA, train=made_up_images(40, 1))
    with pytest.raises(ResumeError, match=r"^data: got train 40, want 50"):
        train(config, fewer, resume=reference)
    others = dataclasses.replace(DATA, train=made_up_images(50, 3))
    with pytest.raises(ResumeError, match=r"^data: got .*labels .*, want"):
        train(config, others, resume=reference)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(ResumeError, match="no checkpoint"):
        train(small_config(tmp_path), DATA, resume=tmp_path)
