"""Accuracy on the test images, at full width and at the proxy's, every image counted exactly once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import overload

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

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


def viewed(network: Callable[[Tensor], Tensor], images: Tensor, views: int) -> Tensor:
    """Average the logits of several views of each image, so that a test depends less on where an object is.

    Args:
        network: maps images to logits (B, K).
        images: (B, C, H, W) floating point, normalised; H and W of at least 2 for 6 views.
        views: 1: the images. 2: the mean of these and their mirror images. 6: half of that, and half of
            the mean of the same for images shifted by one pixel, down and right, and up and left, whose own
            pixels, reflected, fill the edge.

    Returns:
        (B, K) logits; float32 of more than one view.

    Raises:
        ValueError: ``views`` is none of these.
    """
    if views == 1:
        return network(images)
    if views not in (2, 6):
        raise ValueError(f"views: got {views}, want 1, 2 or 6")

    def both_sides(each: Tensor) -> Tensor:
        return (network(each).float() + network(each.flip(3)).float()) / 2

    logits = both_sides(images)
    if views == 2:
        return logits
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = (padded[:, :, at : at + height, at : at + width] for at in (0, 2))
    # Laid out as the images are, once for both sides.
    first, second = (both_sides(torch.empty_like(images).copy_(each)) for each in shifted)
    return (logits + (first + second) / 2) / 2


@overload
def evaluate(
    fabric: Fabric,
    network: Network,
    batches: Batches,
    *,
    proxy_width: float | None = None,
    batch_size: int = 512,
    views: int = 1,
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
    views: int = 1,
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
    views: int = 1,
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
        views: of each image, as `viewed` takes them.
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
                correct[place] += (viewed(each, batch, views).argmax(1) == labels).sum()
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
