"""How torch computes during a run: CPU threads, cuDNN's choice of algorithms, precision, images at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from dynams.training.config import RunConfig

# Threads meet several times in every layer. Below this many pixels a batch, a layer's work is shorter than a meeting that
# another program's load delays: with one of two cores busy, two threads took ten times as long as one (8 x 8 digits).
_PIXELS_WORTH_THREADS = 1 << 15
# Images read at a time on a CPU, where larger batches leave the caches, and of what nobody knows the memory of.
_READ_ON_CPU = 256
# Launching a network takes the host about as long whatever the batch, and small ones leave multiprocessors idle: 50,000
# images of 32 x 32 were scored on an H100 in 169 ms at 500 at a time, in 129 ms at 2000; with activations joined to
# convolutions in 61 ms at 2000, in 57 ms at 5000.
_PIXELS_READ_ON_GPU = 1 << 21


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
def single_precision() -> Iterator[None]:
    """Make parameters in float32, whatever torch's default is; a run's precision is `run.precision`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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


def reading_size(
    asked: int | None, count: int, shape: Sequence[int], device: torch.device, *, own: bool
) -> int:
    """Return how many of ``count`` samples are scored or evaluated at a time.

    Args:
        asked: what the configuration says; None: 256, on a GPU as many as 2^21 pixels and at least 256, in
            even batches, so that cuDNN times its algorithms once.
        count: how many samples a process reads in all.
        shape: of one sample.
        device: where the network is.
        own: the network is the user's, whose memory nobody knows.
    """
    if asked is not None:
        return asked
    if device.type != "cuda" or own:
        return _READ_ON_CPU
    most = max(_READ_ON_CPU, _PIXELS_READ_ON_GPU // math.prod(shape[1:]))
    return -(-count // max(1, -(-count // most))) or most


def autocast_dtype(fabric: Fabric) -> torch.dtype | None:
    """Return what layers compute in under the autocast of ``fabric``; None: there is none."""
    kind = fabric.device.type
    with fabric.autocast():
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
