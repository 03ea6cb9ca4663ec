"""The proxy's measurements: their statistics by hand, and that they measure what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import proxy
from dynams.compare import Cell, CellKey, Folder
from dynams.training import TrainConfig, load_checkpoint, train
from dynams.training.rundir import checkpoint_path

HERE = {"cpu": "one", "threads": 1, "torch": "2.13", "device": "cpu"}


def report(folder: Path, kind: str) -> dict[str, Any]:
    return json.loads((folder / f"{kind}.json").read_text())


def test_agreement_is_spearman_s_with_ties_and_the_overlap_of_the_smallest():
    first = torch.tensor([3.0, 1.0, 1.0, 2.0, 5.0, 0.0, 7.0, 7.0, 4.0, 9.0])
    second = torch.tensor([2.0, 1.0, 0.0, 2.0, 6.0, 3.0, 8.0, 5.0, 4.0, 9.0])
    assert proxy.ranks(first).tolist() == [5, 2.5, 2.5, 4, 7, 1, 8.5, 8.5, 6, 10]
    assert proxy.ranks(second).tolist() == [3.5, 2, 1, 3.5, 8, 5, 9, 7, 6, 10]
    # The ranks' deviations from 5.5: sums of products 69.5, of squares 81.5 and 82.
    found = proxy.agreement(first, second)
    assert found["Spearman"] == pytest.approx(69.5 / (81.5 * 82) ** 0.5)
    assert found["overlap at 0.3"] == pytest.approx(2 / 3)  # {1, 2, 5} and {0, 1, 2}: 0 is before 3
    assert proxy.agreement(first, -first)["Spearman"] == pytest.approx(-1)
    assert proxy.agreement(first, first) == {
        "Spearman": pytest.approx(1), "overlap at 0.3": 1, "overlap at 0.6": 1
    }  # fmt: skip
    assert proxy.agreement(torch.zeros(10), first)["Spearman"] == 0


@pytest.fixture
def faithful(tmp_path: Path) -> Callable[..., list[str]]:
    def command(*more: str) -> list[str]:
        short = ["--data", "digits", "--limit", "120", "--epochs", "5", "--out", str(tmp_path)]
        return ["faithful", *short, *more]

    return command


def test_each_recipe_is_measured_at_every_refresh_and_only_once(tmp_path, capsys, faithful):
    proxy.main(faithful("--recipes", "joint", "batch_norm"))
    capsys.readouterr()
    first = report(tmp_path, "faithful")
    proxy.main(faithful("--recipes", "joint", "distill"))
    assert capsys.readouterr().out.startswith("joint: done already\n|")
    second = report(tmp_path, "faithful")
    assert list(second["runs"]) == ["joint", "batch_norm", "distill"]
    assert second["runs"]["joint"] == first["runs"]["joint"]
    for run in second["runs"].values():
        assert [row["epoch"] for row in run["refreshes"]] == [2, 4]
        assert all(-1 <= row["Spearman"] <= 1 for row in run["refreshes"])
        assert all(0 <= row["overlap at 0.6"] <= 1 for row in run["refreshes"])
    means, each = second["tables"]
    assert [row["recipe"] for row in means] == ["joint", "batch_norm", "distill", "chance"]
    both = [row["Spearman"] for row in second["runs"]["joint"]["refreshes"]]
    assert means[0]["Spearman"] == pytest.approx(sum(both) / 2)
    assert len(each) == 6
    with pytest.raises(SystemExit, match="2"):
        proxy.main(faithful("--width", "0.25"))
    assert "runs of other settings" in capsys.readouterr().err


def test_at_full_width_the_proxy_agrees_with_itself(tmp_path, faithful):
    proxy.main(faithful("--width", "1", "--recipes", "joint"))
    for row in report(tmp_path, "faithful")["runs"]["joint"]["refreshes"]:
        assert row["Spearman"] == pytest.approx(1)
        assert row["overlap at 0.3"] == row["overlap at 0.6"] == 1


def test_a_run_ends_as_it_would_have_unwatched(tmp_path, monkeypatch):
    ends = []

    def kept(config: TrainConfig, **more: Any) -> Any:
        summary = train(config, **more)
        ends.append(load_checkpoint(checkpoint_path(summary.run_dir)))
        return summary

    monkeypatch.setattr(proxy, "train", kept)
    quiet = {"tensorboard": False, "report": False, "progress": False, "accelerator": "cpu"}
    sections = {
        "data": {"limit": 120},
        "optim": {"epochs": 4},
        "run": {**quiet, "dir": str(tmp_path)},
    }
    config = TrainConfig.from_dict(sections)
    assert len(proxy.compare_widths(config, None)["refreshes"]) == 1
    kept(config)
    watched, alone = ends
    for name, values in alone.model.items():
        assert torch.equal(watched.model[name], values), name


def test_ways_take_turns_and_every_other_round_goes_backwards():
    order: list[str] = []
    ways = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = proxy.alternate(ways, 3)
    assert order == list("abbaabba")
    assert [len(taken) for taken in times.values()] == [3, 3]


def test_speed_is_the_median_of_the_rounds_ratios_in_both_precisions(tmp_path, monkeypatch):
    seconds = {"proxy": [1.0, 1.0, 2.0], "full width": [3.5, 2.0, 8.0]}
    monkeypatch.setattr(proxy, "passes", lambda *_: {})
    monkeypatch.setattr(proxy, "alternate", lambda *_: seconds)
    proxy.main(["speed", "--images", "70", "--out", str(tmp_path)])
    (rows,) = report(tmp_path, "speed")["tables"]
    assert [(row["model"], row["precision"]) for row in rows] == [
        (model, precision) for model in ("resnet18", "resnet8") for precision in proxy.PRECISIONS
    ]
    assert rows[0]["proxy, images/s"] == 70
    assert rows[0]["full width, images/s"] == 20
    assert (rows[0]["speed-up"], rows[0]["lowest"], rows[0]["highest"]) == (3.5, 2, 4)
    assert (rows[0][""], rows[2][""]) == ("met", "")


def test_passes_of_both_widths_run_and_the_machine_is_recorded(tmp_path, capsys):
    options = ["--models", "resnet8", "--images", "8", "--rounds", "1"]
    proxy.main(["speed", *options, "--out", str(tmp_path)])
    found = report(tmp_path, "speed")
    assert all(len(taken) == 1 for ways in found["seconds"].values() for taken in ways.values())
    assert found["environment"]["torch"] == torch.__version__
    assert found["environment"]["threads"] == torch.get_num_threads()
    assert found["environment"]["cpu"] in capsys.readouterr().out


def a_cell(recipe: str, *, device: str = "cpu", failure: str | None = None) -> Cell:
    seconds = {"training": 6.0, "proxy loss": 2.0, "scoring": 1.5, "selection": 0.5}
    return Cell(
        key=CellKey(recipe, 0.5, 0),
        options={"selection.refresh_every": 5},
        version="1",
        environments=({**HERE, "device": device},),
        pieces=1,
        data={},
        failure=failure,
        seconds={} if failure else {**seconds, "evaluation": 90.0},
    )


def test_the_share_is_of_the_seconds_without_evaluation(tmp_path, capsys):
    folder = Folder(tmp_path / "compare")
    for cell in (a_cell("q5"), a_cell("gpu", device="cuda"), a_cell("nan", failure="nan")):
        folder.save(cell)
    command = ["share", str(folder.path), "--out", str(tmp_path), "--recipes", "q5"]
    proxy.main(command)
    (rows,) = report(tmp_path, "share")["tables"]
    assert rows == [
        {"cell": "q5_b0.5_s0", "refresh every": 5, "seconds": 10.0, "scoring": 1.5, "selection": 0.5,
         "share": 0.2, "proxy loss, share": 0.2}
    ]  # fmt: skip
    for bad, words in (("gpu", "several environments"), ("nan", "no seconds, nan")):
        with pytest.raises(SystemExit, match="2"):
            proxy.main([*command, bad])
        assert words in capsys.readouterr().err


def test_a_report_is_put_between_the_marks_of_its_kind(tmp_path, capsys):
    folder = Folder(tmp_path / "compare")
    folder.save(a_cell("q5"))
    proxy.main(["share", str(folder.path), "--out", str(tmp_path)])
    table = capsys.readouterr().out
    assert table == (tmp_path / "share.md").read_text()
    assert table.endswith("one, threads: 1, torch 2.13.\n")
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- proxy-share:begin -->\n<!-- proxy-share:end -->\nb\n")
    proxy.main(["show", str(tmp_path / "share.json"), "--into", str(page)])
    assert page.read_text() == (
        f"a\n<!-- proxy-share:begin -->\n{table}<!-- proxy-share:end -->\nb\n"
    )
    proxy.main(["show", str(tmp_path / "share.json")])
    assert capsys.readouterr().out == table
