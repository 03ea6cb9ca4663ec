"""The example of the documentation runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import dynams_kernels as dk

PAGE = Path(__file__).parents[3] / "docs" / "slimmable.md"


def test_the_example_trains_scores_and_gives_the_weights_back() -> None:
    block = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(block.group(1), names)
    network, images = names["network"], names["images"]
    with torch.no_grad():
        torch.testing.assert_close(names["margins"], dk.margin(network(images, 0.5)))
        assert torch.equal(names["model"].eval()(images), network(images))
    assert names["nearest"].shape == (16,)
