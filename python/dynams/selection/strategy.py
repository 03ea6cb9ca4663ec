"""What is due and what is selected, as pure functions of sizes, epochs and seeds.

Random draws depend on their arguments only, never on a global generator or on earlier draws, so that
any epoch can be replayed. They are made on the CPU: every device and every rank gets the same.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from dynams.selection.schedule import check_budget


def selection_size(num_samples: int, budget: float) -> int:
    """Count the samples that `budget` keeps: budget * num_samples to the nearest, at least 1.

    Raises:
        ValueError: `num_samples` is not positive, or `budget` is outside (0, 1].
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    check_budget(budget, "budget")
    return max(1, min(num_samples, math.floor(num_samples * budget + 0.5)))


def refresh_block(epoch: int, *, warmup_epochs: int, refresh_every: int) -> int | None:
    """Return the number of the block of epochs that share a selection; None in the warm-up.

    Block b is made of the `refresh_every` epochs from warmup_epochs + b * refresh_every on; a
    refresh is due where the block changes.
    """
    if epoch < warmup_epochs:
        return None
    return (epoch - warmup_epochs) // refresh_every


def progress_at(epoch: int, *, warmup_epochs: int, epochs: int) -> float:
    """Return how far `epoch` is through the scheduled epochs, those after the warm-up.

    The first of them is at 0, the last one, `epochs - 1`, at 1; a single one is at 1.
    """
    last = epochs - 1 - warmup_epochs
    if last <= 0:
        return 1.0
    return min(1.0, max(0.0, (epoch - warmup_epochs) / last))


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """Permute 0 to size - 1: (size,) int64 on the CPU, a function of the arguments only."""
    return torch.randperm(size, generator=_generator("order", seed, epoch))


def selection_generator(seed: int, block: int) -> torch.Generator:
    """Make the generator of all draws of one selection: a function of the arguments only, on the CPU."""
    return _generator("random selection", seed, block)


def overlap(selection: Tensor, previous: Tensor, num_samples: int) -> Tensor:
    """Return the fraction of `selection` that was in `previous` too, 0-d float64, on their device.

    Args:
        selection: (k,) int64, distinct, k >= 1.
        previous: (j,) int64, distinct.
        num_samples: both index 0 to num_samples - 1.
    """
    known = torch.zeros(num_samples, dtype=torch.bool, device=selection.device)
    known[previous] = True
    return known[selection].double().mean()


def _generator(purpose: str, seed: int, step: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{purpose}/{seed}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
