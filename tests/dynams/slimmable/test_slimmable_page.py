"""The example of the documentation runs as it stands."""

from __future__ import annotations

from typing import Any

import torch

import dynams_kernels as dk
from pages import python_blocks


def test_the_example_trains_scores_and_gives_the_weights_back() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(python_blocks("docs/slimmable.md")[0], names)
    network, images = names["network"], names["images"]
    with torch.no_grad():
        torch.testing.assert_close(names["margins"], dk.margin(network(images, 0.5)))
        assert torch.equal(names["model"].eval()(images), network(images))
    assert names["nearest"].shape == (16,)
