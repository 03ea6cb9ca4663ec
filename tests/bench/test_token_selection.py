"""The measurement of token choices: what it runs, what it keeps when a part fails, and its page's arithmetic."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

import token_page
import token_selection
from token_head import Head

CHOICES = ["all", "random", "hardest", "most reducible"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("token-selection")
    small = "--sizes tiny --device cpu --vocabularies 300 --seconds 0.1 --total 60 --seeds 0 1"
    assert token_selection.main(["run", "--out", str(out), *small.split()]) == 0
    return out


@pytest.fixture
def report(folder):
    return json.loads((folder / "token-selection.json").read_text())


def test_every_choice_trains_for_the_same_seconds_by_every_seed(report):
    (section,) = report["sections"]
    trainings = section["trainings"]
    assert [(cell["seed"], cell["choice"]) for cell in trainings] == [
        (seed, choice) for seed in (0, 1) for choice in CHOICES
    ]
    for cell in trainings:
        assert len(cell["held-out"]) == 2
        assert cell["seconds"] >= section["seconds"]  # the last step ends beyond
        assert cell["steps"] == cell["held-out"][-1]["steps"] > 0
        assert 0 < cell["tokens read"] <= cell["steps"] * 4 * 32
        assert cell["held-out"][-1]["loss"] < 7
    assert section["reference"]["steps"] > 0


def test_the_page_compares_each_choice_with_all_tokens_of_its_seed(report):
    (section,) = report["sections"]
    losses = {"all": (4.0, 5.0), "random": (4.5, 5.25), "hardest": (3.5, 4.0)}
    for cell in section["trainings"]:
        if cell["choice"] in losses:
            cell["held-out"][-1]["loss"] = losses[cell["choice"]][cell["seed"]]
    page = token_page.page(report)
    table = page[page.index("| tokens | steps") : page.index("Milliseconds of a step")]
    cells = {
        line.split(" | ")[0][2:]: line.split(" | ")[4:7] for line in table.splitlines()[2:] if line
    }
    assert cells["all"] == ["4.500", "+0.000", "4.000, 5.000"]
    assert cells["random"] == ["4.875", "-0.375", "4.500, 5.250"]
    assert cells["hardest"] == ["3.750", "+0.750", "3.500, 4.000"]


def test_a_choice_that_failed_is_told_and_the_others_are_shown(report):
    (section,) = report["sections"]
    broken = [{"choice": "random", "seed": 0, "failed": "RuntimeError: no memory"}]
    section["trainings"] = [*section["trainings"][:1], *section["trainings"][2:4], *broken]
    page = token_page.page(report)
    assert "Failed: random: RuntimeError: no memory" in page
    assert "| hardest |" in page
    assert "| random |" not in page


def test_another_vocabulary_stands_beside_the_one_before(report, tmp_path):
    (section,) = report["sections"]
    page = tmp_path / "token-selection.json"
    page.write_text(json.dumps(report))
    for _ in range(2):
        token_selection.write(page, copy.deepcopy(section) | {"vocabulary": 200})
    found = json.loads(page.read_text())["sections"]
    assert [one["vocabulary"] for one in found] == [200, 300]
    assert found[1] == section


def test_a_loss_that_fails_leaves_the_others_their_times():
    def broken(hidden, weight, labels):
        raise ImportError("no such kernel")

    head = Head(40, 16, 50, torch.device("cpu"), 0.6, None)
    losses = {"broken": broken, "torch": token_selection.lm.torch_loss}
    found, failed = head.times(losses)
    assert set(found) == {"product alone", "scores and selection", "torch, all", "torch, kept"}
    assert failed == dict.fromkeys(["broken, all", "broken, kept"], "ImportError: no such kernel")
