"""The randomness of a user's transforms: seeded for a sample, and as it was afterwards.

Transforms draw from the generators that Python, NumPy and torch keep for the whole process. Seeded from where
a sample is in the run, a sample is the same whichever process reads it, and whatever was read before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def drawn_apart() -> Iterator[Callable[[int], None]]:
    """Give a function that seeds the process' generators; at the end they are as they were.

    Generators of accelerators are left alone: a transform that draws on one is not seeded.
    """
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield seed_draws
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)


def seed_draws(seed: int) -> None:
    """Seed the generators that Python, NumPy and torch (on the CPU) keep for the process.

    Args:
        seed: in [0, 2**63).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would seed accelerators too, in a worker for the first time.
    torch.default_generator.manual_seed(seed)
