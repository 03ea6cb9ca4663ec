"""What bench/gpu.sh trains, on the CPU in the GPU's place with tiny sizes: what it tells, and what it can do without."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gpu_processes import BENCH, environment, new_ledger

from gpu import known, ledger, results
from gpu import trained as run_parts
from gpu.watched import Watch, Window

# All that a run on images of one's own does without.
SPARED = ("matplotlib", "pandas", "PIL", "pyarrow", "rich", "scipy", "sklearn", "tensorboard")  # fmt: skip
JOINT, MARGINS, FREE = "joint proxy, ResNet-18", "frozen margins", "free scores, ResNet-18"


def trained(
    folder: Path, parts: Iterable[str], without: Iterable[str]
) -> subprocess.CompletedProcess[str]:
    """trained.py, where some packages cannot be imported."""
    script = str(BENCH / "gpu" / "trained.py")
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({tuple(without)!r})); sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    only = [word for part in parts for word in ("--only", part)]
    told = {ledger.FILE: str(folder / results.LEDGER), ledger.SUITE: "train"}
    surroundings = environment(**told)
    surroundings.pop("DYNAMS_CIFAR10", None)
    return subprocess.run(
        [sys.executable, "-c", code, script, "--device", "cpu", "--tiny", *only],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_trains_without_what_only_shows_a_run_and_tells_what_selecting_costs(
    tmp_path: Path,
) -> None:
    new_ledger(tmp_path, {"suite": "train", "begin": "strategy full"})
    parts = ["digits", JOINT, MARGINS, "resumed", "strategy memorisation", "strategy full", FREE]
    ran = trained(tmp_path, parts, SPARED)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    suite = ledger.read(tmp_path / results.LEDGER).suite("train")
    assert suite.of("skipped") == {
        "digits": "scikit-learn, which brings the digits, is not installed"
    }
    # What an earlier process began was not begun again.
    assert list(suite.of("passed")) == [JOINT, MARGINS, "resumed", "strategy memorisation", FREE]
    found = {what: value for what, value, _ in suite.found[JOINT]["found"]}
    shares = [
        found[f"share of {name} at Q = 10"]
        for name in ("choosing alone", "selecting", "selecting and the proxy's loss")
    ]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    assert found["selections compared with NumPy's"] == 2
    resumed = {what: value for what, value, _ in suite.found["resumed"]["found"]}
    assert len(resumed) == 4
    assert set(resumed.values()) == {0.0}
    made = results.write_page(tmp_path)
    [entry] = made["benchmarks"]
    assert entry["extra_info"]["share"] == shares[1]
    page = (tmp_path / results.PAGE).read_text()
    assert f"{100 * shares[1]:.2f} %, " in page.partition("selection's share of training time")[2]
    assert f"| **{JOINT}**, " in page.partition("## Training")[2]


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, folder: Path, part: str, *more: str, **environment: str
) -> int:
    monkeypatch.setenv(ledger.FILE, str(folder / results.LEDGER))
    monkeypatch.setenv(ledger.SUITE, "train")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return run_parts.main(["--device", "cpu", "--tiny", "--only", part, *more])


def test_a_part_that_fails_stops_none_and_its_traceback_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "switch part of a batch distilled"
    nothing = str(tmp_path / "nothing")
    code = in_this_process(monkeypatch, tmp_path, JOINT, "--only", other, DYNAMS_CIFAR10=nothing)
    assert code == 3
    assert "Traceback" in capsys.readouterr().err
    suite = ledger.read(tmp_path / results.LEDGER).suite("train")
    assert suite.of("failed")[JOINT].startswith("DataError: ")
    assert list(suite.of("passed")) == [other]


def test_what_a_committed_report_holds_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "trained", lambda: frozenset({"strategy memorisation"}))
    only = ("strategy memorisation", "--only", "images on the host")
    assert in_this_process(monkeypatch, tmp_path, *only) == 0
    begun = ledger.read(tmp_path / results.LEDGER).suite("train").begun
    assert begun == ["images on the host", "strategy memorisation"]


def test_past_its_deadline_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_this_process(monkeypatch, tmp_path, "resumed", **{ledger.DEADLINE: "1"}) == 124
    assert ledger.read(tmp_path / results.LEDGER).suite("train").begun == []


def test_what_it_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert in_this_process(monkeypatch, tmp_path, "resumed") == 5
    assert capsys.readouterr().out == "trained.py: not installed: lightning-fabric\n"


@pytest.mark.parametrize(("selected", "right"), [([0, 2], True), ([1, 2], False)])
def test_a_watched_selection_that_is_not_of_the_smallest_is_refused(
    selected: list[int], right: bool
) -> None:
    session: Any = SimpleNamespace(sampler=SimpleNamespace(indices=torch.tensor(selected)))
    signals: Any = SimpleNamespace(score=lambda _: torch.from_numpy(np.array([0.5, 0.5, 0.1])))
    watch = Watch(score="gap")
    watch.refreshed(session, signals)
    if right:
        assert not watch.requested
        assert watch.checked == 1
    else:
        with pytest.raises(AssertionError, match="1 of 2 are not among the smallest"):
            _ = watch.requested


def test_waits_for_the_device_are_counted_between_two_questions_by_their_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    watch = Watch(windows=(Window("steps", 0, 1, 3),))
    assert not watch.requested
    watch.refreshed(None, None)  # type: ignore[arg-type]
    for _ in range(3):
        assert not watch.requested
        if len(modes) == 1:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
    assert modes == ["warn", "default"]
    assert watch.waits["steps"].count == 2
    [place] = watch.waits["steps"].places
    assert place.startswith("bench/test_gpu_trained.py:")
    watch.close()
    assert modes == ["warn", "default"]
