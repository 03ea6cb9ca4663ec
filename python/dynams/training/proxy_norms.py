"""Batch-norms of a proxy that was never trained: scales of the full width, statistics estimated anew."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.training.batches import Batches, share
from dynams.training.distributed import average_buffers
from dynams.training.network import Network, as_module


def check_norms(model: nn.Module, network: nn.Module) -> None:
    """Refuse a user's network with no batch-norms, which estimates would leave untrained at a slim width.

    Raises:
        ValueError: ``network``, made of ``model``, has none.
    """
    if not any(isinstance(each, SwitchableBatchNorm) for each in network.modules()):
        raise ValueError(
            f"proxy.recipe: got batch_norm, want joint or distill: {type(model).__name__} has no batch-norms to "
            "estimate"
        )


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

    Scales and shifts are copied from the channels that the width keeps, means and variances are averages over
    the batches of ``indices``. All processes must come here together.

    Args:
        fabric: gives precision, rank and number of processes.
        network: the network; its modes are kept.
        batches: what to estimate from, not augmented.
        indices: (n,) int64, distinct.
        width: the slim width.
        batch_size: images at a time, at least 2.
    """
    module = as_module(network)
    modes = {each: each.training for each in module.modules()}
    module.eval()
    norms = []
    for each in modes:
        if isinstance(each, SwitchableBatchNorm):
            slim = each.at(width)
            assert isinstance(slim, nn.modules.batchnorm._BatchNorm)
            _take_scales(slim, each.at(1.0), each.kept[width])
            if slim.running_mean is not None:
                slim.reset_running_stats()
                norms.append((slim, slim.momentum))
                slim.momentum = None  # a plain average over all batches
                slim.train()
    try:
        start, end = share(0, len(indices), fabric.global_rank, fabric.world_size)
        for batch, _ in batches.picked(indices[start:end], batch_size):
            if len(batch) > 1:
                with fabric.autocast():
                    network.features(batch, width)
    finally:
        for each, mode in modes.items():
            each.training = mode
        for norm, momentum in norms:
            norm.momentum = momentum
    average_buffers(fabric, module)


def _take_scales(slim: nn.Module, full: nn.Module, kept: tuple[tuple[int, int], ...]) -> None:
    whole = dict(full.named_parameters())
    for name, parameter in slim.named_parameters():
        parameter.copy_(torch.cat([whole[name][start:stop] for start, stop in kept]))
