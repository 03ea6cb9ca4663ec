"""docs/selection.md: the plain functions work as the page calls them, and it calls them all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynams.selection import methods
from pages import python_blocks

N, K = 60, 20


def block() -> str:
    return python_blocks("docs/selection.md", "Methods in a loop of your own")[0]


# Inside a training step logits have a gradient, which no choice and no weight may pass on.
@pytest.mark.parametrize("in_a_step", [False, True])
def test_every_method_is_called_and_keeps_what_it_says(in_a_step: bool) -> None:
    source = torch.Generator().manual_seed(1)
    logits, held = (torch.randn(n, 3, generator=source) for n in (N, 9))
    labels, held_labels = (torch.randint(0, 3, (n,), generator=source) for n in (N, 9))
    names = {
        "torch": torch,
        "k": K,
        "logits": logits.requires_grad_(in_a_step),
        "labels": labels,
        "features": torch.randn(N, 4, generator=source).requires_grad_(in_a_step),
        "irreducible": torch.rand(N, generator=source),
        "batch": torch.arange(10),
        "correct": torch.rand(8, N, generator=source) < 0.7,
        "member": torch.rand(8, N, generator=source) < 0.7,
        "window_losses": torch.randn(N, generator=source),
        "last_epochs": torch.randint(-1, 3, (N,), generator=source).float(),
        "trained_epochs": torch.randint(0, 4, (N,), generator=source),
        "epochs": 3,
        "trajectories": torch.rand(N, 5, generator=source),
        "reference": torch.rand(5, generator=source),
        "held_features": torch.randn(9, 4, generator=source),
        "held_residuals": held.softmax(1) - torch.nn.functional.one_hot(held_labels, 3),
        "held_labels": held_labels,
    }
    exec(block(), names)
    for name in (
        "margin doubt el2n grand random rho forgotten memorised importance craig matched batches glister "
        "orderdp"
    ).split():
        indices = names[name]
        assert isinstance(indices, Tensor)
        assert indices.shape == (K,), name
        assert bool((indices.diff() > 0).all()), name
    for name in (
        "importance", "craig", "matched", "batches", "infobatch", "repb", "alignprune",
    ):  # fmt: skip
        assert names[name].shape == names[f"{name}_weights"].shape  # type: ignore[attr-defined]
    assert names["recent"].shape == names["losses"].shape == names["mask"].shape  # type: ignore[attr-defined]
    assert int(names["drawn"].sum()) <= K  # type: ignore[attr-defined]
    weights = [each for name, each in names.items() if name.endswith("weights")]
    assert len(weights) == 8
    assert 0 < len(names["seta"]) < N  # type: ignore[arg-type]
    assert not any(each.requires_grad for each in weights)  # type: ignore[attr-defined]


def test_no_method_is_left_out() -> None:
    functions = [name for name in methods.__all__ if name.islower() and name != "smallest"]
    apart = {"batch_increment"}  # no method: it judges scores
    assert {name for name in functions if f"{name}(" not in block()} == apart
