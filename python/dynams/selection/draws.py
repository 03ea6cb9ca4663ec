"""Random draws: orders and generators as pure functions of seed, epoch and block, and what methods draw.

Nothing comes from a global generator, so that any epoch can be replayed. Draws are made on the generator's
own device, the CPU for those made here: every device and every rank gets the same.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from dynams.selection.precision import wide_dtype


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """Permute 0 to size - 1: (size,) int64 on the CPU, a function of the arguments only."""
    return _permutation(size, "order", seed, epoch)


def epoch_places(size: int, length: int, seed: int, epoch: int, *, shuffle: bool) -> Tensor:
    """Walk 0 to size - 1 until `length` places are passed: (length,) int64 on the CPU.

    Every pass begins once all places were passed equally often, and is permuted by itself, the first one as
    by `epoch_order`; without `shuffle` it is ascending.
    """
    if not shuffle:
        return torch.arange(length, device="cpu") % size
    passes = range(-(-length // size))
    walked = [epoch_order(size, seed, epoch)] + [
        _permutation(size, f"order of pass {number}", seed, epoch) for number in passes[1:]
    ]
    return torch.cat(walked)[:length]


def selection_generator(seed: int, block: int) -> torch.Generator:
    """Make the generator of all draws of one selection: a function of the arguments only, on the CPU."""
    return _generator("random selection", seed, block)


def random_order(count: int, generator: torch.Generator, device: torch.device | None) -> Tensor:
    """Draw a permutation of 0 to count - 1: (count,) int64 on `device`."""
    return torch.randperm(count, generator=generator, device=generator.device).to(device)


def random_numbers(count: int, generator: torch.Generator, device: torch.device | None) -> Tensor:
    """Draw evenly from [0, 1): (count,) on `device`, in the widest floating point that it has."""
    drawn = torch.rand(
        count, generator=generator, dtype=wide_dtype(generator.device), device=generator.device
    )
    return drawn.to(wide_dtype(device)).to(device)


def _permutation(size: int, purpose: str, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=_generator(purpose, seed, epoch), device="cpu")


def _generator(purpose: str, seed: int, step: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{purpose}/{seed}/{step}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)
