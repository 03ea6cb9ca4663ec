"""What is said to type where a package is missing: the package is on no index, so its own name is none."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dynams.packages import FRAMEWORKS, TRAINERS, not_installed

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_packages_are_those_of_the_extra() -> None:
    extra = re.search(r"^train = \[(.*?)^\]", PYPROJECT.read_text(), re.MULTILINE | re.DOTALL)
    assert extra is not None
    named = re.findall(r'"([\w\-\[\]]+)>=', extra[1])
    assert sorted(named) == sorted(TRAINERS.values())


def test_a_framework_is_typed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*TRAINERS, *FRAMEWORKS]:
        monkeypatch.setitem(sys.modules, module, None)
    told = not_installed("lightning.pytorch")
    assert told == "lightning is not installed: pip install lightning"
    assert (
        not_installed("transformers") == "transformers is not installed: pip install transformers"
    )


def test_all_that_is_missing_is_typed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in TRAINERS:
        monkeypatch.setitem(sys.modules, module, sys)
    for module in ("pyarrow", "PIL"):
        monkeypatch.setitem(sys.modules, module, None)
    told = not_installed("pyarrow.parquet")
    assert told == "pyarrow is not installed: pip install pyarrow pillow"
    assert not_installed("PIL", "Pillow").startswith("Pillow is not installed: pip install pillow ")


def test_an_installed_package_without_a_part_is_to_be_newer() -> None:
    told = not_installed("rich.nowhere")
    assert told == "rich lacks rich.nowhere: pip install --upgrade rich"


def test_no_message_sends_to_the_package_itself() -> None:
    for path in (PYPROJECT.parent / "python").rglob("*.py"):
        assert "install dynams" not in path.read_text(encoding="utf-8"), path


def test_nobody_is_sent_to_a_package_that_is_not_known() -> None:
    assert "pip" not in not_installed("their_own_module")
