"""The Triton kernels' tests on the CPU: Triton interprets its kernels only in a process that was started so."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Tests of compiled kernels, and of what goes before any; every other module of Triton's tests is one of interpreted kernels and skips itself elsewhere.
NOT_INTERPRETED = {
    "test_triton_compiled.py",
    "test_triton_configuration.py",
    "test_triton_interpreted.py",
    "test_triton_launch.py",
    "test_triton_launches.py",
}
MODULES = sorted({path.name for path in HERE.glob("test_triton_*.py")} - NOT_INTERPRETED)

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets already"
    ),
]


def run_interpreted(
    modules: list[Path], report: Path, workers: int
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    options = ["-q", "-m", "not gpu", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-n", str(workers), *map(str, modules)],
        env={**environment, "TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def shortcomings(
    done: subprocess.CompletedProcess[str], report: Path, module: str = ""
) -> list[str]:
    """Why a run does not count as tested, of all or of one module: it failed, ran nothing, or skipped something."""
    found = [] if done.returncode == 0 else [f"pytest returned {done.returncode}"]
    suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    if suite is None:
        return [*found, "no report"]
    cases = [
        case
        for case in suite.iter("testcase")
        if not module or module in case.attrib["classname"].split(".")
    ]
    if not cases:
        found.append("no test ran")
    skipped = sum(case.find("skipped") is not None for case in cases)
    if skipped:
        found.append(f"{skipped} skipped")
    return found


def test_the_kernels_of_every_primitive_have_such_tests() -> None:
    assert {
        "test_triton_linear.py",
        "test_triton_linear_limits.py",
        "test_triton_rows.py",
        "test_triton_select.py",
    } <= set(MODULES)


@pytest.fixture(scope="module")
def run_of_all(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], Path]:
    report = tmp_path_factory.mktemp("interpreted") / "report.xml"
    return run_interpreted([HERE / module for module in MODULES], report, workers=2), report


@pytest.mark.parametrize("module", MODULES)
def test_interpreted_kernels_pass_their_tests(
    module: str, run_of_all: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    done, report = run_of_all
    found = shortcomings(done, report, module.removesuffix(".py"))
    assert not found, f"{module}: {', '.join(found)}\n{done.stdout[-6000:]}"


@pytest.mark.parametrize(
    ("body", "shortcoming"),
    [
        ("def test_it(): assert os.environ['TRITON_INTERPRET'] == '1'", None),
        ("def test_it(): assert False", "pytest returned 1"),
        ("def test_it(): pytest.skip('not here')", "1 skipped"),
        ("pytest.skip('not here', allow_module_level=True)", "1 skipped"),
        ("", "no test ran"),
        ("import no_such_module", "pytest returned"),
    ],
)
def test_a_run_that_proves_nothing_is_noticed(
    body: str, shortcoming: str | None, tmp_path: Path
) -> None:
    module, report = tmp_path / "test_sample.py", tmp_path / "report.xml"
    module.write_text(f"import os, pytest\n{body}\n")
    found = shortcomings(run_interpreted([module], report, workers=0), report)
    if shortcoming is None:
        assert found == []
    else:
        assert any(shortcoming in text for text in found), found
