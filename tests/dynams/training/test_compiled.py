"""Compiled networks: one width is compiled as its module, once for all runs of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training_runs import made_up_data, small_config

from dynams.training.entry import train
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
    monkeypatch.setattr(
        torch, "compile", lambda module, **how: compile_(module, **how | {"backend": kept})
    )
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


@pytest.mark.parametrize(("even", "fixed"), [(True, 3), (False, 1)])
def test_even_batches_are_compiled_size_by_size(graphs: list[Any], even: bool, fixed: int) -> None:
    network = made(0)
    model = compiled(network, even=even)
    for size in (4, 3, 2):
        assert torch.equal(model(IMAGES[:size]), as_module(network)(IMAGES[:size]))
    sizes = [node.meta["example_value"].shape for graph in graphs for node in images_of(graph)]
    assert sum(all(isinstance(side, int) for side in size) for size in sizes) == fixed


def images_of(graph: Any) -> list[Any]:
    """The placeholders of a graph that stand for images."""
    found = []
    for node in graph.graph.find_nodes(op="placeholder"):
        shape = getattr(node.meta.get("example_value"), "shape", ())
        if len(shape) == 4 and tuple(shape[1:]) == tuple(IMAGES.shape[1:]):
            found.append(node)
    return found


def test_what_has_several_widths_is_compiled_as_it_is_called(graphs: list[Any]) -> None:
    network = made(0, (0.5, 1.0))
    model = compiled(network)
    for one, other in zip(model(IMAGES, (1.0, 0.5)), network(IMAGES, (1.0, 0.5)), strict=True):
        assert torch.equal(one, other)
    assert graphs
    own = nn.Linear(3, 2)
    assert torch.equal(compiled(own)(torch.ones(1, 3)), own(torch.ones(1, 3)))  # type: ignore[arg-type]


def test_a_later_run_with_a_proxy_is_compiled_as_the_first(graphs, tmp_path) -> None:
    for run in (1, 2):
        config = small_config(
            tmp_path / str(run),
            model={"name": "sprint", "base_channels": None, "channels": [2, 2], "depth": 2},
            optim={"epochs": 1, "batch_size": 50},
            run={"compile": True},
        )
        # torch's own limit is 8, of all runs together.
        with torch._dynamo.config.patch(cache_size_limit=1):
            train(config, made_up_data())
        assert len(graphs) == run
