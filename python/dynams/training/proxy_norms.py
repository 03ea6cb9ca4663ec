"""Batch-norms of a proxy that was never trained: scales of the full width, statistics estimated anew."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dynams.models import SlimmableResNet
from dynams.models.layers import SwitchableBatchNorm2d
from dynams.training.batches import Batches, share
from dynams.training.distributed import average_buffers
from dynams.training.network import Network


@torch.no_grad()
def reestimate_norms(
    fabric: Fabric,
    network: Network,
    batches: Batches,
    indices: Tensor,
    *,
    width: float,
    batch_size: int,
) -> None:
    """Make the slim width's batch-norms what they would be, had the full width's been cut to it.

    Scales and shifts are copied from the leading channels, means and variances are averages over the
    batches of ``indices``. All processes must come here together.

    Args:
        fabric: gives precision, rank and number of processes.
        network: the network, whose slim width takes leading channels; its mode is kept.
        batches: what to estimate from, not augmented.
        indices: (n,) int64, distinct.
        width: the slim width.
        batch_size: images at a time, at least 2.

    Raises:
        TypeError: the slim width of ``network`` may take other channels than the leading ones.
    """
    if not isinstance(network, SlimmableResNet):
        raise TypeError(f"network: got {type(network).__name__}, want SlimmableResNet")
    norms = []
    for each in network.modules():
        if isinstance(each, SwitchableBatchNorm2d):
            slim, full = each.at(width), each.at(1.0)
            assert isinstance(slim, nn.BatchNorm2d)
            assert isinstance(full, nn.BatchNorm2d)
            slim.weight.copy_(full.weight[: slim.num_features])
            slim.bias.copy_(full.bias[: slim.num_features])
            slim.reset_running_stats()
            norms.append((slim, slim.momentum))
            slim.momentum = None  # a plain average over all batches
    training = network.training
    network.train()
    try:
        start, end = share(0, len(indices), fabric.global_rank, fabric.world_size)
        for batch, _ in batches.picked(indices[start:end], batch_size):
            if len(batch) > 1:
                with fabric.autocast():
                    network.features(batch, width)
    finally:
        network.train(training)
        for slim, momentum in norms:
            slim.momentum = momentum
    average_buffers(fabric, network)
