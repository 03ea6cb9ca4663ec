"""The section of docs/training.md on data larger than memory: its block runs as a reader would type it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from image_shards import Pictures
from pages import python_blocks


def test_the_pages_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures.made(40).write_folder(tmp_path / "pictures/train")
    Pictures.made(10).write_folder(tmp_path / "pictures/val")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in python_blocks("docs/training.md", "Data larger than memory"):
        exec(compile(block, "docs/training.md", "exec"), names)
    assert names["inputs"].shape[1:] == (3, 64, 64)
    assert len(names["sampler"]) == 20
