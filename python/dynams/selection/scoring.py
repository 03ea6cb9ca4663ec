"""Margins from batches of images, for training loops other than ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import dynams_kernels as dk


def score_batches(
    model_fn: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    kind: dk.MarginKind = "gap",
    class_distances: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Score images batch by batch: what `SubsetSampler.begin_epoch` wants from its `score`.

    The model runs in inference mode. If it is an `nn.Module` in training mode, its modules are in
    eval mode for each of its calls and get their modes back after it. Nothing makes the host wait.

    Args:
        model_fn: images (B, ...) to logits (B, C); a network, or a function around a slim one.
        batches: pairs of sample indices (B,) int64 and images (B, ...).
        kind: of margin, one without labels: "gap", "probability" or "distance" (`dk.margin`).
        class_distances: (C, C), for "distance": `dk.class_distances` of the head's weight.
        device: where the images go before they are scored; None leaves them where they are.

    Yields:
        The batch's indices, as they came, and their margins (B,) float32.

    Raises:
        ValueError: `model_fn` gave another number of rows than there are indices, or `kind` is
            refused by `dk.margin`.
    """
    for indices, images in batches:
        with torch.inference_mode(), _evaluating(model_fn):
            images = images if device is None else images.to(device, non_blocking=True)
            margins = dk.margin(model_fn(images), kind=kind, class_distances=class_distances)
        if margins.shape != indices.shape:
            raise ValueError(
                f"model_fn must give one row of logits for each of the {tuple(indices.shape)} "
                f"indices, got {margins.shape[0]} rows"
            )
        # Outside the block: a mode set around a yield would leak into the caller's code.
        yield indices, margins


@contextmanager
def _evaluating(model_fn: Callable[[Tensor], Tensor]) -> Iterator[None]:
    modules = model_fn.modules() if isinstance(model_fn, nn.Module) else ()
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
