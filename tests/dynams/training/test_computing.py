"""How many samples are read at a time, and in what precision."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from dynams.training.computing import autocast_dtype, reading_size

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("count", "shape", "device", "own", "size"),
    [
        (50_000, (3, 32, 32), CPU, False, 256),
        (50_000, (3, 32, 32), GPU, False, 2000),  # 25 even batches
        (50_001, (3, 32, 32), GPU, False, 2001),
        (300, (3, 32, 32), GPU, False, 300),
        (0, (3, 32, 32), GPU, False, 2048),
        (1000, (3, 224, 224), GPU, False, 250),
        (50_000, (3, 32, 32), GPU, True, 256),
    ],
)
def test_as_many_are_read_at_a_time_as_keep_the_device_busy(count, shape, device, own, size):
    assert reading_size(None, count, shape, device, own=own) == size
    assert reading_size(77, count, shape, device, own=own) == 77


def test_the_precision_is_what_autocast_computes_in():
    assert autocast_dtype(Fabric(accelerator="cpu", precision="bf16-mixed")) == torch.bfloat16
    assert autocast_dtype(Fabric(accelerator="cpu")) is None
