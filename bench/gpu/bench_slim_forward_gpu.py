"""The forward at half width against the full one on a GPU: device times, without what the host takes to launch it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import slim_networks
from gpu import timing

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=timing.ManualClock())]

IMAGES = 256
NETWORKS = slim_networks.NETWORKS
# Convolutions may use TF32 by torch's own choice, products of matrices not.
FLOAT32_LIMITS = {"ResNet-18": "tf32 matmul", "ViT-small": "fp32 matmul"}


@pytest.mark.parametrize("precision", slim_networks.PRECISIONS)
@pytest.mark.parametrize("way", slim_networks.WAYS)
@pytest.mark.parametrize("name", slim_networks.NETWORKS)
def bench_slim_forward(
    against: Callable[..., None], benchmark: Any, name: str, way: str, precision: str
) -> None:
    network = slim_networks.network(NETWORKS[name])
    batch = slim_networks.images(1)
    work = {width: IMAGES * slim_networks.flops(network, batch, width) for width in (0.5, 1.0)}
    weights = slim_networks.weight_bytes(network, 0.5, 4)
    placed = copy.deepcopy(network).to(slim_networks.images(1, "cuda").device)
    slim, full = slim_networks.forwards(placed, way, precision)
    benchmark.extra_info["by_arithmetic"] = work[1.0] / work[0.5]
    against(
        slim,
        {"full width": full},
        lambda: (slim_networks.images(IMAGES, "cuda"),),
        bytes=weights + 4 * IMAGES * batch.numel(),
        flops=work[0.5],
        limit=FLOAT32_LIMITS[name] if precision == "float32" else "bf16 matmul",
    )
