"""The forward at half width against the full one, which does four times as much: the proxy's price."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import slim_networks

IMAGES = 64


@pytest.mark.parametrize("precision", slim_networks.PRECISIONS)
@pytest.mark.parametrize("way", slim_networks.WAYS)
@pytest.mark.parametrize("name", slim_networks.NETWORKS)
def bench_slim_forward(versus: Callable[..., None], name: str, way: str, precision: str) -> None:
    network = slim_networks.network(slim_networks.NETWORKS[name])
    images = slim_networks.images(IMAGES)
    slim, full = slim_networks.forwards(network, way, precision)
    work = {width: slim_networks.flops(network, images[:1], width) for width in (0.5, 1.0)}
    versus(
        lambda: slim(images),
        {"full width": lambda: full(images)},
        rounds=5,
        flops=IMAGES * work[0.5],
        by_arithmetic=work[1.0] / work[0.5],
    )
