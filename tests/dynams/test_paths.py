"""Paths: what `~` is, and how one is written so that a shell reads it back."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynams.paths import shell_word, told_path


def test_a_tilde_is_a_home_directory_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert told_path("~/runs") == tmp_path / "runs"
    assert told_path(Path("~")) == tmp_path
    assert told_path("a/~b") == Path("a/~b")
    assert told_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_shell_reads_back_any_path(monkeypatch, encoding):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    for path in ("runs/a-1", "two words", "it's", "caf\udce9/1", "café", "tab\tbell\x07\\", "~/x"):
        word = shell_word(path)
        word.encode(encoding)
        done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
        assert done.stdout == os.fsencode(path)
    assert shell_word("runs/a-1") == "runs/a-1"
