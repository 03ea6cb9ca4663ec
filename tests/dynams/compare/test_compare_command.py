"""`dynams compare` as a user meets it: help, bad input in one line, runs, resumes and merges."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from children import plain_environment
from dynams.cli import main
from dynams.cli.compare import make_parser, parse
from dynams.compare import CellKey, Folder
from dynams.compare.cells import cell_keys
from dynams.compare.plan_file import presets
from foreground import heed_interrupts

from .conftest import VALUES, a_cell, changed


@pytest.fixture
def file(tmp_path) -> Path:
    """A plan of two recipes and two seeds, two epochs each."""
    recipes = {name: VALUES["recipes"][name] for name in ("full", "margin")}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(changed(recipes=recipes)))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, list[str]]:
    status = main(["compare", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err.replace("dynams: ", "").splitlines()


def test_the_help_is_complete(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for action in make_parser()._actions:
        assert action.help
        if action.help == argparse.SUPPRESS:
            continue  # a setting of dynams train
        for name in action.option_strings:
            assert name in out
    for word in ("cifar10-cpu", "digits", "limit_seconds", "unfinished/", "130", "docs/compare.md"):
        assert word in out


def test_the_help_imports_no_torch(tmp_path):
    code = (
        "import sys\nfrom dynams.cli import main\nstatus = main(['compare', '--help'])\n"
        "sys.exit(status or ('torch' in sys.modules) or ('matplotlib' in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], f"plan: got none, want one of {', '.join(presets())}, or a YAML file"),
        (["digit"], "(did you mean digits?)"),
        (["digits", "--lst"], "unknown option --lst (did you mean --list?)"),
        (["digits", "--optim.lrr", "3"], "(did you mean --optim.lr?)"),
        (["digits", "--optim.lr"], "--optim.lr: expected one argument"),
        (["digits", "--optim.lr", "--list"], "--optim.lr: expected one argument"),
        (["digits", "--optim.lr=fast"], "optim.lr: got 'fast', want a number"),
        (["digits", "--optim.lr", "-1"], "optim.lr: got -1.0, want a number in (0, inf)"),
        (["digits", "--optim.lr", "["], "optim.lr: got '[', want a number"),
        (["digits", "--run.seed", "3"], "run.seed: seeds says which"),
        (["digits", "--limit-seconds", "0"], "--limit-seconds: got 0.0, want a number in (0, inf)"),
        (["digits", "--limit-seconds", "nan"], "--limit-seconds: got nan, want a number"),
        (["digits", "--limit-seconds", "x"], "--limit-seconds: got 'x', want a number"),
        (["digits", "--limit-seconds"], "--limit-seconds: expected one argument"),
        (["digits", "--recipes", "rondom"], "(did you mean random?)"),
        (["digits", "--budgets", "0.7"], "budgets: got 0.7, want one of"),
        (["digits", "--seeds", "1.5"], "seeds: got '1.5', want a whole number"),
        (["digits", "--list", "--report"], "--report: does not go with --list"),
        (["digits", "--report"], "--report: no finished cells of this plan in compare"),
        (["digits", "--merge", "nowhere"], "merge: no directory nowhere"),
        (["digits", "again"], "unknown argument again"),
        (["digits", "--model.name", "resnet9000"], "resnet9000"),
        (["cifar10"], "data.path: got None, want the directory that holds cifar10"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(
    capsys, monkeypatch, tmp_path, argv, said
):
    monkeypatch.chdir(tmp_path)
    status, out, lines = run(capsys, *argv)
    assert (status, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_options_replace_the_base_and_stay_below_what_a_recipe_says(file):
    request = parse([str(file), "--optim.lr=0.3", "--selection.strategy", "random"])
    assert request.plan.base["optim.lr"] == 0.3
    margin = request.plan.config(request.plan.recipes["margin"], 0.5, 0)
    assert margin.selection.strategy == "margin"
    assert not margin.run.report
    assert request.out == Path("compare/mine")
    assert parse([str(file), "--run.report", "true"]).plan.base["run.report"] is True


def test_out_and_limit_are_keys_of_a_plan_too(file):
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "out": "there", "limit_seconds": 60}))
    request = parse([str(file)])
    assert (request.out, request.limit_seconds) == (Path("there"), 60.0)
    request = parse([str(file), "--out", "here", "--limit-seconds", "5"])
    assert (request.out, request.limit_seconds) == (Path("here"), 5.0)


def test_two_machines_share_a_plan_and_merge_their_cells(capsys, file, tmp_path):
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    assert run(capsys, file, "--out", one, "--seeds", 0)[0] == 0
    status, _, lines = run(capsys, file, "--out", two, "--seeds", 1)
    assert status == 0
    assert lines[-2] == "2 of 2 cells done"
    status, out, _ = run(capsys, file, "--out", one, "--list")
    assert status == 0
    states = [line.split("  ")[-1].split(":")[0] for line in out.splitlines()]
    assert states[:2] == ["done", "done"]
    assert states[2].startswith("missing, about ")
    assert out.splitlines()[-1] == "2 of 4 cells done"
    status, _, lines = run(capsys, file, "--out", both, "--merge", one, two)
    assert (status, lines[:2]) == (0, ["4 cells merged", "4 of 4 cells done"])
    text = (both / "compare.md").read_text()
    assert "| DynaMS, 0.5 | 2 | 2 |" in text
    assert {p.name for p in both.iterdir()} == {
        "cells.jsonl",
        "plan.yaml",
        "compare.html",
        "compare.md",
    }
    # The folder is a plan; nothing is left to do in it.
    (both / "compare.html").unlink()
    status, _, lines = run(capsys, both)
    assert (status, lines[0]) == (0, "4 of 4 cells done")
    assert (both / "compare.html").is_file()
    status, _, lines = run(capsys, both, "--optim.lr", "0.01")
    assert status == 2
    assert "optim.lr: got 0.1, want 0.01; take another --out, or --recompute" in lines[0]


def test_a_part_of_a_folder_s_plan_leaves_the_plan_whole(capsys, file, tmp_path):
    folder, plan = tmp_path / "there", tmp_path / "there" / "plan.yaml"
    begun = parse([str(file)]).plan
    Folder(folder).save(*(a_cell(key, plan=begun) for key in cell_keys(begun)))
    Folder(folder).save_plan(begun)
    whole = plan.read_bytes()
    status, _, lines = run(capsys, folder, "--seeds", 0, "--recipes", "full")
    assert (status, lines[-2]) == (0, "1 of 1 cells done")
    assert plan.read_bytes() == whole
    assert run(capsys, folder, "--seeds", 1, "--merge", folder)[0] == 0
    assert plan.read_bytes() == whole
    status, out, _ = run(capsys, folder, "--list")
    assert (status, out.splitlines()[-1]) == (0, "4 of 4 cells done")


def test_sigint_stops_cleanly_and_the_same_command_goes_on(capsys, file, tmp_path):
    out = tmp_path / "out"
    argv = [str(file), "--out", str(out), "--optim.epochs", "40", "--seeds", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dynams.cli", "compare", *argv],
        env=plain_environment(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1"),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("dynams: margin"):
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "dynams: stopped; the same command goes on"
    assert [key.stem for key in Folder(out).cells()] == ["full_s0"]
    assert (out / "compare.html").is_file()
    status, _, lines = run(capsys, *argv)
    assert (status, lines[-2]) == (0, "2 of 2 cells done")
    assert Folder(out).cells()[CellKey("margin", 0.5, 0)].epochs == 40
    assert not (out / "unfinished").exists()


def test_a_package_that_the_page_needs_is_asked_for_before_the_cells(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["compare", "digits", "--out", str(tmp_path / "out")]) == 2
    assert "error: compare.html: matplotlib is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
