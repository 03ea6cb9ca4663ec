"""Files that are being written, and what killed processes left of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dynams.files import aside, claimed, remove_leftovers, replacing

WEEK = 7 * 24 * 3600


def test_what_is_being_written_stays_and_what_was_left_so_goes(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    with replacing(file) as opened:
        opened.write(b"half")
        (part,) = tmp_path.iterdir()
        os.utime(part, (time.time() - WEEK,) * 2)
        remove_leftovers(tmp_path)
        assert part.exists()
    file.unlink()
    part.write_bytes(b"half")  # a killed process leaves it without its lock
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_another_machine_only_what_is_long_abandoned_goes(tmp_path: Path) -> None:
    fresh, old = (tmp_path / f"a.images.elsewhere.{each * 32}.tmp" for each in "12")
    others = [tmp_path / "a.images", tmp_path / "notes.tmp"]
    for path in (fresh, old, *others):
        path.write_text("")
    for path in (old, *others):
        os.utime(path, (time.time() - WEEK,) * 2)
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [others[0], fresh, others[1]]
    own = aside(tmp_path / "a.images")
    own.write_text("")
    remove_leftovers(tmp_path)
    assert not own.exists()


def interrupted(file: Path, error: BaseException) -> None:
    with replacing(file) as opened:
        opened.write(b"half")
        raise error


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.images"
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            interrupted(file, error)
        assert not list(tmp_path.iterdir())
    with replacing(file) as opened:
        opened.write(b"whole")
        assert not file.exists()
    assert file.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_claimed_once_until_it_is_let_go(tmp_path: Path) -> None:
    with claimed(tmp_path) as mine:
        assert mine
        forked = os.fork()
        if not forked:  # what a killed process has started outlives it
            time.sleep(0.3)
            os._exit(0)
        with claimed(tmp_path) as theirs:
            assert not theirs
    with claimed(tmp_path) as mine:
        assert mine
    os.waitpid(forked, 0)
    assert list(tmp_path.iterdir()) == []
