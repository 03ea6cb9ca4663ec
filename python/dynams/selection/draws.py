"""Random draws as pure functions of seed, epoch and block.

They depend on their arguments only, never on a global generator or on earlier draws, so that any epoch can
be replayed. They are made on the CPU: every device and every rank gets the same.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """Permute 0 to size - 1: (size,) int64 on the CPU, a function of the arguments only."""
    return torch.randperm(size, generator=_generator("order", seed, epoch), device="cpu")


def selection_generator(seed: int, block: int) -> torch.Generator:
    """Make the generator of all draws of one selection: a function of the arguments only, on the CPU."""
    return _generator("random selection", seed, block)


def _generator(purpose: str, seed: int, step: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{purpose}/{seed}/{step}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)
