"""Accuracy on the test images, at full width and at the proxy's, every image counted exactly once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import overload

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynams.training.batches import Batches, share
from dynams.training.computing import autocast_dtype
from dynams.training.network import Network, evaluated


@dataclass(frozen=True)
class Accuracy:
    """Fractions of images classified correctly.

    Attributes:
        full: at full width.
        proxy: at the proxy's width; None if there is none.
        correct: images classified correctly at full width.
        samples: images evaluated.
    """

    full: float
    proxy: float | None
    correct: int
    samples: int


@overload
def evaluate(
    fabric: Fabric,
    network: Network,
    batches: Batches,
    *,
    proxy_width: float | None = None,
    batch_size: int = 512,
    stop: None = None,
    advance: Callable[[int], None] | None = None,
) -> Accuracy: ...


@overload
def evaluate(
    fabric: Fabric,
    network: Network,
    batches: Batches,
    *,
    proxy_width: float | None = None,
    batch_size: int = 512,
    stop: Callable[[], bool],
    advance: Callable[[int], None] | None = None,
) -> Accuracy | None: ...


def evaluate(
    fabric: Fabric,
    network: Network,
    batches: Batches,
    *,
    proxy_width: float | None = None,
    batch_size: int = 512,
    stop: Callable[[], bool] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Accuracy | None:
    """Evaluate the network; the host waits for the device once, at the end.

    Each process takes its share of the images and the whole counts are added, so the result is
    exact and the same for any number of processes.

    Args:
        fabric: gives precision, rank and number of processes.
        network: the bare network, evaluated by frozen copies where it is ours (see
            `dynams.training.network`): twice as fast, the same up to rounding.
        batches: what to evaluate on.
        proxy_width: also evaluate at this width.
        batch_size: images at a time.
        stop: asked after each batch, equally often in every process and with the same answer
            there; True gives the evaluation up.
        advance: told the number of images of each batch that is done.

    Returns:
        What was found, or None if ``stop`` said so.
    """
    widths = (1.0,) if proxy_width is None else (1.0, proxy_width)
    start, end = share(0, len(batches), fabric.global_rank, fabric.world_size)
    correct = torch.zeros(len(widths), dtype=torch.int64, device=batches.device)
    with ExitStack() as stack:
        copies = [
            stack.enter_context(
                evaluated(network, width, batches.reading_format, autocast_dtype(fabric))
            )
            for width in widths
        ]
        stack.enter_context(fabric.autocast())
        for batch, labels in batches.plain(start, end, batch_size):
            for place, each in enumerate(copies):
                correct[place] += (each(batch).argmax(1) == labels).sum()
            if advance is not None:
                advance(len(labels))
            if stop is not None and stop():
                return None
        # A share one image shorter than the longest can have one batch less.
        longest = -(-len(batches) // fabric.world_size)
        missing = -(-longest // batch_size) - -(-(end - start) // batch_size)
        if stop is not None and any(stop() for _ in range(missing)):
            return None
    if fabric.world_size > 1:
        total = fabric.all_reduce(correct, reduce_op="sum")
        assert isinstance(total, Tensor)
        correct = total
    counts = correct.tolist()
    samples = len(batches)
    return Accuracy(
        full=counts[0] / max(samples, 1),
        proxy=counts[1] / max(samples, 1) if proxy_width is not None else None,
        correct=counts[0],
        samples=samples,
    )
