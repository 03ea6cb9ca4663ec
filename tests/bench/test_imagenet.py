"""ImageNet on paper: the formula by hand, the preset it is of, and that the page holds what it gives."""

from __future__ import annotations

import pytest

import imagenet
from dynams.cli.options import parse
from pages import ROOT


def test_epochs_on_a_budget_cost_their_part_and_choosing_comes_on_top() -> None:
    rate = 39_556 * 0.556 / 4.09
    assert imagenet.seconds(1.0, 1) == pytest.approx(120 * 1_281_167 / rate)
    half = (36 + 84 * 0.5) * 1_281_167 / (4 * rate) + 84 * 288e-6
    assert imagenet.seconds(0.5, 4) == pytest.approx(half)


def test_the_page_holds_what_the_formula_gives_and_the_preset_s_epochs() -> None:
    assert imagenet.table() in (ROOT / "docs" / "imagenet.md").read_text()
    config = parse(["--preset", "imagenet"]).config
    assert (config.optim.epochs, config.selection.warmup_epochs) == (
        imagenet.EPOCHS,
        imagenet.WARM_UP,
    )
    assert config.selection.budget in imagenet.BUDGETS
