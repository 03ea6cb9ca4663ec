"""What a run will need is asked for before it starts."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from training_runs import made_up_data, small_config

from dynams.training import preflight
from dynams.training.entry import train
from dynams.training.run import TrainingRun
from dynams.training.rundir import checkpoint_path

DATA = made_up_data()


@pytest.mark.parametrize(
    ("module", "setting"),
    [
        ("matplotlib.figure", "report"),
        ("PIL.Image", "report"),
        ("rich.progress", "progress"),
    ],
)
def test_a_missing_package_is_told_before_the_run(tmp_path, monkeypatch, module, setting):
    monkeypatch.setitem(sys.modules, module, None)
    package = {"PIL.Image": "pillow"}.get(module, module.partition(".")[0])
    said = rf"^run\.{setting}: {package} is not installed.*, or run without: --run\.{setting} false"
    with pytest.raises(ImportError, match=said):
        train(small_config(tmp_path, run={setting: True}), DATA)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_does_not_work_is_told_before_the_run(tmp_path, monkeypatch):
    def fail(name: str) -> None:
        raise AttributeError("of another NumPy")

    monkeypatch.setattr(preflight, "importlib", SimpleNamespace(import_module=fail))
    with pytest.raises(
        ImportError, match=r"^run\.report: PIL: .*of another NumPy.*, or run without"
    ):
        train(small_config(tmp_path, run={"report": True}), DATA)
    with pytest.raises(ImportError, match=r"^compare\.html: matplotlib: .*of another NumPy"):
        preflight.check_comparison_packages()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_the_run(tmp_path, monkeypatch):
    file, gone = tmp_path / "file", tmp_path / "gone"
    file.write_text("")
    gone.symlink_to("nowhere")
    for place in (file, gone):
        said = rf"^run\.dir: got {place}/runs, want a directory: {place} is none$"
        with pytest.raises(ValueError, match=said):
            train(small_config(place / "runs"), DATA)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=rf"^run\.dir: cannot write in {tmp_path}: Permission"):
        train(small_config(tmp_path / "runs"), DATA)


def test_space_is_asked_for_by_what_checkpoints_take(tmp_path, monkeypatch):
    seen: list[int] = []

    def measured(run: TrainingRun, _: object) -> None:
        seen.append(preflight.checkpoint_bytes(run))

    config = small_config(tmp_path / "runs", optim={"epochs": 2}, run={"progress": False})
    run_dir = train(config, DATA, on_refresh=measured).run_dir
    (estimate,) = seen
    # Beside the tensors a file holds their names and some hundred bytes for each.
    size = checkpoint_path(run_dir).stat().st_size
    assert 0.3 * size < estimate < size

    usage = shutil.disk_usage(tmp_path)

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))

    other = small_config(tmp_path / "others", optim={"epochs": 2})
    leave(2 * estimate - 1)
    with pytest.raises(
        ValueError, match=r"^run\.dir: got .* KiB of free space in .*others, want at"
    ):
        train(other, DATA)
    assert not (tmp_path / "others").exists()
    leave(3 * estimate - 1)
    with pytest.warns(UserWarning, match=r"run\.dir: .* may not be enough: checkpoints of"):
        train(other, DATA)
    # What is there already is not asked for again.
    leave(estimate // 2)
    with pytest.raises(ValueError, match=r"^resume: got .* of free space"):
        train(config, DATA, resume=run_dir)
    leave(3 * estimate)
    assert train(config, DATA, resume=Path(run_dir)).completed
