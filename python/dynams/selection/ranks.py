"""Agreement among the ranks of a training: all hold the same selection, or all are told which of them differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

Made = TypeVar("Made")


def agreed(epoch: int, make: Callable[[], Made], indices: Callable[[Made], Tensor]) -> Made:
    """Return what `make` gives, once every rank has the same `indices` of it for the same epoch.

    All ranks of the default process group come here together; without one it is `make()` and no more.

    Raises:
        ValueError: ranks have other indices, or are at another epoch.
        RuntimeError: `make` failed on another rank. Where it failed itself, a rank raises what it raised.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return make()
    made: Made | None = None
    failure: Exception | None = None
    try:
        made = make()
        raw = indices(made).cpu().numpy().tobytes()
        mine = (epoch, hashlib.blake2b(raw, digest_size=16).hexdigest())
    except Exception as error:  # told to the others first: they would wait for this rank for ever
        failure, mine = error, (epoch, f"{type(error).__name__}: {error}")
    told: list[tuple[bool, tuple[int, str]]] = [(False, mine)] * dist.get_world_size()
    dist.all_gather_object(told, (failure is not None, mine))
    if failure is not None:
        raise failure
    for rank, (failed, (_, message)) in enumerate(told):
        if failed:
            raise RuntimeError(f"rank {rank} could not begin epoch {epoch}: {message}")
    first = told[0]
    if others := [str(rank) for rank, each in enumerate(told) if each != first]:
        raise ValueError(
            f"selection: got another on rank {', '.join(others)} than on rank 0 for epoch {epoch}, want the "
            "same on all: score must give every rank the scores of all samples"
        )
    assert made is not None
    return made
