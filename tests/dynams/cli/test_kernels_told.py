"""Where slower kernels serve, a run, a comparison, a benchmark and `dynams info` say so in one line, once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from dynams.cli import main
from dynams.training import TrainConfig, train
from dynams_kernels._backends import registry
from dynams_kernels._backends.fallback import Fallback

TEXT = "no compiled CPU kernels: not built. To build them: pip install -v -e ."


@pytest.fixture(autouse=True)
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose compiled kernels are missing, and that was not told yet."""
    monkeypatch.setattr(registry, "_fallback_of_cpu", Fallback(TEXT))


def settings(folder: Path, *, progress: bool) -> dict[str, Any]:
    """A run of a second."""
    run = {"dir": str(folder), "accelerator": "cpu", "report": False, "tensorboard": False}
    return {
        "data": {"limit": 60},
        "optim": {"epochs": 1},
        "run": {**run, "progress": progress},
    }


def typed(folder: Path) -> list[str]:
    """The same as it is typed."""
    sections = settings(folder, progress=False).items()
    return [
        f"--{name}.{key}={value}" for name, section in sections for key, value in section.items()
    ]


def test_the_first_run_says_so_and_no_later_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *typed(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines().count(f"dynams: warning: {TEXT}") == 1
    assert main(["train", *typed(tmp_path)]) == 0
    assert "kernels" not in capsys.readouterr().err


def test_a_run_from_python_says_so_beside_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(TrainConfig.from_dict(settings(tmp_path, progress=True)))
    assert capsys.readouterr().err.splitlines().count(f"warning: {TEXT}") == 1


def test_a_run_from_python_without_a_display_warns(tmp_path: Path) -> None:
    config = TrainConfig.from_dict(settings(tmp_path, progress=False))
    with pytest.warns(RuntimeWarning, match="^no compiled CPU kernels"):
        train(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        train(config)


def test_info_says_so_beside_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == f"dynams: warning: {TEXT}\n"
    assert shown.out.startswith("{")


def test_a_comparison_and_a_benchmark_say_so_in_the_programs_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynams.compare.runner.Queue.run", lambda queue, limit: True)
    assert main(["compare", "digits", "--out", str(tmp_path), "--run.accelerator", "cpu"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"dynams: warning: {TEXT}"
    monkeypatch.setattr(registry, "_fallback_of_cpu", Fallback(TEXT))
    small = ["--kernel", "smallest_k", "--samples", "100", "--rounds", "1", "--device", "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["bench", *small]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"dynams: warning: {TEXT}"
