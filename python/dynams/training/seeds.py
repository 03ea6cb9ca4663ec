"""Randomness without state: every random draw of a run has its own generator, seeded from where it is.

The generator of a draw is a function of (seed, epoch, step, purpose, rank) alone, so any step can
be replayed without having run those before it, and resuming restores no generator.
"""

from __future__ import annotations

import hashlib

import torch

from dynams.data.seeding import seed_draws


def derive_seed(*parts: int | str) -> int:
    """Derive a seed in [0, 2**63) that depends on all the parts; unequal parts give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(
    device: torch.device | str,
    seed: int,
    *,
    purpose: str,
    epoch: int = 0,
    step: int = 0,
    rank: int = 0,
) -> torch.Generator:
    """Make the generator of one draw, on ``device``.

    Args:
        device: where the random numbers are drawn.
        seed: seed of the run.
        purpose: what is drawn, such as "augmentation".
        epoch: epoch of the draw, from 0.
        step: step within the epoch, from 0.
        rank: process that draws, from 0.
    """
    made = torch.Generator(device=device)
    made.manual_seed(derive_seed(seed, purpose, epoch, step, rank))
    return made


def seed_process(device: torch.device, seed: int) -> None:
    """Seed the generators that Python, NumPy and torch keep for the process, that of ``device`` among them."""
    seed_draws(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
