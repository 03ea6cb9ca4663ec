"""docs/guides/huggingface.md and its example run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from huggingface_runs import network, own_state, samples
from pages import ROOT, python_blocks

__all__ = ["own_state"]  # a fixture


def test_every_block_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "model": network("text"),
        "train_set": samples("text"),
        "augmented": samples("text"),
        "eval_set": samples("text", 8),
    }
    for block in python_blocks("docs/guides/huggingface.md"):
        exec(block, names)
    assert names["trainer"].state.global_step == names["trainer"].planned_steps()
    assert (tmp_path / "run" / "checkpoint-5" / "sampler.pt").is_file()


def test_the_example_trains_in_as_many_updates_as_it_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "huggingface_training.py"))
    asked = "--texts 400 --epochs 4 --width 32 --output".split()
    measured = example["main"]([*asked, str(tmp_path)])
    # 320 texts in batches of 32, then 192 of them. Which texts there are is the Python's own: what is learned of so few is luck.
    told = f"28 updates, learning rate at the end 0, accuracy {measured['eval_accuracy']:.3f}"
    assert told in capsys.readouterr().out
