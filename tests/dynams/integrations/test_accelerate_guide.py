"""Accelerate's guide and example run as they stand."""

from __future__ import annotations

import itertools
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from noted_reads import Noted
from pages import ROOT, python_blocks

pytest.importorskip("accelerate")

from accelerate.utils import set_seed

from accelerate_runs import forget

LOOP, LOADING = python_blocks("docs/guides/accelerate.md")
PARTS, _, TRAINING = LOOP.partition("\nfor epoch in ")


@pytest.fixture(autouse=True)
def own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder and settings of Accelerate's that are not left to other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    forget()


def names(save_at: int) -> dict[str, Any]:
    """What the guide takes for given: of it, the state is saved after so many of the optimizer's steps."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    points = torch.randn(300, 5, generator=random) + torch.eye(3, 5)[labels]
    model = nn.Linear(5, 3)
    nn.init.zeros_(model.bias)
    nn.init.normal_(model.weight, generator=random)
    steps = itertools.count(1)
    return {
        "train_set": Noted(points, labels),
        "plain_set": TensorDataset(points, labels),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "criterion": nn.functional.cross_entropy,
        "time_to_save": lambda: next(steps) == save_at,
    }


def test_the_guides_loop_goes_on_from_its_state_as_if_never_stopped() -> None:
    # Batches of 32: 10 of all samples, 6 of a selection of 180; two of them make a step.
    whole, resumed = names(5 + 2), names(0)
    exec(LOOP, whole)
    exec(PARTS, resumed)
    exec(LOADING, resumed)
    exec("for epoch in " + TRAINING, resumed)
    assert whole["steps"] == 5 + 3 * 3
    assert whole["scheduler"].scheduler.last_epoch == whole["steps"]
    read, rest = whole["train_set"].read, resumed["train_set"].read
    assert sorted(read[:300]) == list(range(300))
    for epoch in range(3):
        assert len(set(read[300 + 180 * epoch :][:180])) == 180
    assert sorted(read[-180:]) == whole["sampler"].indices.tolist()
    assert rest == read[300 + 4 * 32 :]
    assert torch.equal(whole["model"].weight, resumed["model"].weight)


def test_the_example_saves_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "accelerate_training.py"))

    def printed(*options: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["accelerate_training.py", "--epochs", "3", *options])
        example["main"]()
        return capsys.readouterr().out.splitlines()

    whole = printed("--save", "state")
    assert [line.split()[2] for line in whole[:3]] == ["1437", "1437", "862"]
    assert float(whole[3].split()[-1]) > 0.7
    set_seed(1)
    assert printed("--resume", "state")[-1] == whole[-1]
