"""Where slower kernels serve, a run, a comparison, a benchmark and `dynams info` say so in one line, once."""

from __future__ import annotations

import warnings
from pathlib import Path

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


def short_run(folder: Path) -> list[str]:
    settings = {
        "--optim.epochs": "2",
        "--data.limit": "60",
        "--run.dir": str(folder),
        "--run.report": "false",
        "--run.tensorboard": "false",
        "--run.accelerator": "cpu",
    }
    return ["train", *(word for pair in settings.items() for word in pair)]


def test_the_first_run_says_so_and_no_later_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(short_run(tmp_path)) == 0
    assert capsys.readouterr().err.splitlines().count(f"warning: {TEXT}") == 1
    assert main(short_run(tmp_path)) == 0
    assert "kernels" not in capsys.readouterr().err


def test_a_run_from_python_without_a_display_warns(tmp_path: Path) -> None:
    config = TrainConfig.from_dict(
        {
            "data": {"limit": 60},
            "optim": {"epochs": 1},
            "run": {
                **dict.fromkeys(("report", "tensorboard", "progress"), False),
                "dir": str(tmp_path),
                "accelerator": "cpu",
            },
        }
    )
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
