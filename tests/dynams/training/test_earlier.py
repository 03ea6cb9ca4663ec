"""What a run goes on from, above all where the same command begins it and goes on with it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from training_runs import StopAt, equal, log_lines, made_up_data, small_config

from dynams.cli.options import parse
from dynams.training import earlier, journal
from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.config import TrainConfig
from dynams.training.earlier import Earlier, check_same_state
from dynams.training.entry import train
from dynams.training.errors import ResumeError
from dynams.training.rundir import BEST, checkpoint_path

DATA = made_up_data()


def named(folder: Path, **sections: dict[str, Any]) -> TrainConfig:
    sections.setdefault("run", {})["name"] = "mine"
    return small_config(folder, **sections)


def final(run_dir: str | Path) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run_dir))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return Path(train(named(tmp_path_factory.mktemp("whole")), DATA, resume="auto").run_dir)


def test_one_command_begins_goes_on_and_is_done(whole, tmp_path, caplog):
    config = named(tmp_path, run={"save_every_steps": 3})
    stops = 0
    while not (part := train(config, DATA, resume="auto", interrupt=StopAt(7))).completed:
        assert part.run_dir == str(tmp_path / "mine")
        stops += 1
        assert stops < 20
    assert stops > 2
    assert equal(final(part.run_dir).model, final(whole).model)
    assert log_lines(part.run_dir) == log_lines(whole)
    before = log_lines(part.run_dir)
    assert train(config, DATA, resume="auto").completed
    assert log_lines(part.run_dir) == before
    assert "all 4 epochs are done" in caplog.text


@pytest.mark.parametrize("steps", [None, 7])
def test_what_another_process_has_done_meanwhile_is_kept(whole, tmp_path, monkeypatch, steps):
    config, run_dir = named(tmp_path), tmp_path / "mine"
    if steps is not None:
        assert not train(config, DATA, resume="auto", interrupt=StopAt(steps)).completed

    @contextmanager
    def claimed_late(folder, patience):  # the other has it until it has ended
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        yield True

    monkeypatch.setattr(journal, "claimed", claimed_late)
    with pytest.raises(ResumeError, match="another process has gone on with it meanwhile"):
        train(config, DATA, resume="auto")
    assert final(run_dir).global_step == final(whole).global_step
    assert log_lines(run_dir) == log_lines(whole)
    monkeypatch.undo()
    assert train(config, DATA, resume="auto").completed


def test_what_had_saved_nothing_yet_is_begun_anew(whole, tmp_path):
    run_dir = tmp_path / "mine"
    shutil.copytree(whole, run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    (run_dir / "log.jsonl").write_text('{"record": "sta')
    assert train(named(tmp_path), DATA, resume="auto").completed
    assert log_lines(run_dir) == log_lines(whole)


def test_the_best_checkpoint_stands_in_for_a_damaged_last_one(whole, tmp_path, caplog):
    run_dir = tmp_path / "mine"
    shutil.copytree(whole, run_dir)
    last, best = checkpoint_path(run_dir), checkpoint_path(run_dir, BEST)
    last.write_bytes(last.read_bytes()[:-9])
    assert train(named(tmp_path), DATA, resume="auto").completed
    assert f"damaged: {last}: " in caplog.text
    assert "best.pt is whole, from epoch " in caplog.text
    assert equal(final(run_dir).model, final(whole).model)
    for path in (last, best):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ResumeError, match=r"^damaged: .*last\.pt: "):
        train(named(tmp_path), DATA, resume="auto")


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"run\.name: got mine, want another name: .*thesis\.tex"):
        train(named(tmp_path), DATA, resume="auto")
    assert [item.name for item in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(ResumeError, match=r"^resume: got auto, want run\.name with it"):
        train(small_config(tmp_path), DATA, resume="auto")


def test_a_run_that_is_running_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr("dynams.training.journal._PATIENCE", 0.1)

    class Again(StopAt):
        @property
        def requested(self) -> bool:
            if super().requested:
                with pytest.raises(
                    ResumeError, match=r"^resume: got .*mine, want a run that is not running"
                ):
                    train(named(tmp_path), DATA, resume="auto", interrupt=StopAt())
            return False

    assert train(named(tmp_path), DATA, resume="auto", interrupt=Again(9)).completed


def test_machines_that_see_different_states_are_refused(whole, monkeypatch):
    there = Earlier.at(whole)
    for told, said in (
        ([16, None], "process 1 begins, process 0 goes on after step 16"),
        ([None, None, 8], "process 2 goes on after step 8, process 0 begins"),
    ):
        monkeypatch.setattr(earlier, "told_by_all", lambda fabric, mine, told=told: told)
        with pytest.raises(ResumeError, match=f"^resume: {said}, want run.dir on a disk that all"):
            check_same_state(None, there)


def test_options_beside_auto_count_on_top_of_the_runs_own(whole):
    argv = [f"--run.dir={whole.parent}", "--run.name=mine", "--resume=auto"]
    request = parse([*argv, "--run.threads=1"])
    assert request.resume == "auto"
    assert request.config.run.threads == 1
    assert request.config.model.base_channels == 4
    elsewhere = parse([f"--run.dir={whole.parent}", "--run.name=other", "--resume=auto"])
    assert elsewhere.config.model.base_channels is None
    assert parse(["--resume=auto", "--run.name=x", "--preset=cifar10", "--data.path=y"]).config
    assert parse(argv).config.optim.epochs == 4


def test_a_resumed_run_has_as_many_processes_as_were_started(whole, monkeypatch):
    environment = {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_PORT": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse([f"--resume={whole}"]).config.run.devices == 4
    assert parse([f"--resume={whole}", "--run.devices=2"]).config.run.devices == 2
