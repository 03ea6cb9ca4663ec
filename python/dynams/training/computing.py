"""How torch computes during a run: CPU threads and cuDNN's choice of algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dynams.training.config import RunConfig

# Threads meet several times in every layer. Below this many pixels a batch, a layer's work is shorter than a meeting that
# another program's load delays: with one of two cores busy, two threads took ten times as long as one (8 x 8 digits).
_PIXELS_WORTH_THREADS = 1 << 15


@contextmanager
def cpu_threads(config: RunConfig, pixels: int) -> Iterator[None]:
    """Compute with as many threads as configured, or as batches of ``pixels`` are worth; then as before."""
    before = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif pixels < _PIXELS_WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms: an epoch has two batch sizes at most."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=True,
        deterministic=cudnn.deterministic,
        allow_tf32=cudnn.allow_tf32,
    ):
        yield
