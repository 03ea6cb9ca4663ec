"""Scoring: the margin of every candidate, by the proxy, as cheaply as the hardware allows.

The proxy is frozen once (see `dynams.training.frozen`) and reads the images once, in order, in large
batches, without gradients or augmentation. Margins come from `dynams_kernels.linear_margin`, which
never stores logits. The head is computed in float32 also where the network runs in bfloat16: eight bits
would put whole crowds of samples at one margin, to be told apart by their index. Each process scores
its share; all get all the margins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor

import dynams_kernels as dk
from dynams.data import ImageSet
from dynams.training.batches import Batches, share
from dynams.training.distributed import gather_shares
from dynams.training.frozen import Slimmable, frozen


def score_candidates(
    fabric: Fabric,
    module: Slimmable,
    images: ImageSet,
    batches: Batches,
    *,
    width: float = 1.0,
    kind: str = "gap",
    batch_size: int = 512,
    stop: Callable[[], bool] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor | None:
    """Margins of all ``images``.

    Args:
        fabric: gives precision, rank and number of processes.
        module: the network; its state is left as it is.
        images: the candidates.
        batches: makes float batches of them.
        width: width to score at.
        kind: the margin, see `dynams_kernels.margin`.
        batch_size: candidates at a time.
        stop: asked after each batch, equally often in every process and with the same answer
            there; True gives the scoring up.
        advance: told the number of candidates of each batch that is done.

    Returns:
        (len(images),) float32 on the device, or None if ``stop`` said so.
    """
    network = frozen(module, width, batches.reading_format)
    head = network.head
    distances = dk.class_distances(head.weight) if kind == "distance" else None
    start, end = share(0, len(images), fabric.global_rank, fabric.world_size)
    longest = -(-len(images) // fabric.world_size)
    margins = torch.empty(end - start, dtype=torch.float32, device=batches.device)
    done = 0
    with torch.inference_mode():
        for batch, labels in batches.plain(images, start, end, batch_size):
            with fabric.autocast():
                features = network.features(batch)
            margins[done : done + len(labels)] = dk.linear_margin(
                features.float(),
                head.weight,
                head.bias,
                kind=kind,
                labels=labels if kind == "label" else None,
                class_distances=distances,
            )
            done += len(labels)
            if advance is not None:
                advance(len(labels))
            if stop is not None and stop():
                return None
        # A share one sample shorter than the longest can have one batch less.
        missing = -(-longest // batch_size) - -(-(end - start) // batch_size)
        if stop is not None and any(stop() for _ in range(missing)):
            return None
    return gather_shares(fabric, margins, len(images))
