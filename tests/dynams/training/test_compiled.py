"""Compiled networks: one width is compiled as its module, once for all runs of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dynams.training.network import as_module, compiled
from dynams.training.options import build
from dynams.training.resolve import build_network

IMAGES = torch.linspace(-1, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16)


def made(seed: int, widths: tuple[float, ...] = (1.0,)) -> Any:
    config = build(
        {"model.name": "sprint", "model.channels": [4, 8, 8], "model.depth": 2, "run.seed": seed}
    )
    return build_network(config, widths, channels=3, classes=3)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are compiled, by a compiler that leaves them as they are."""
    torch._dynamo.reset()
    found: list[Any] = []

    def kept(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend=kept))
    yield found
    torch._dynamo.reset()


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5),
    reason="torch 2.4 compiles each module anew",
)
def test_another_run_s_network_of_one_width_is_found_compiled(graphs: list[Any]) -> None:
    for seed in range(3):
        network = made(seed)
        model = compiled(network)
        assert torch.equal(model(IMAGES), as_module(network)(IMAGES))
    assert len(graphs) == 1


def test_what_has_several_widths_is_compiled_as_it_is_called(graphs: list[Any]) -> None:
    network = made(0, (0.5, 1.0))
    model = compiled(network)
    for one, other in zip(model(IMAGES, (1.0, 0.5)), network(IMAGES, (1.0, 0.5)), strict=True):
        assert torch.equal(one, other)
    assert graphs
    own = nn.Linear(3, 2)
    assert torch.equal(compiled(own)(torch.ones(1, 3)), own(torch.ones(1, 3)))  # type: ignore[arg-type]
