"""Agreement among the ranks of a training: all hold the same selection, or all are told which of them differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Made = TypeVar("Made")


def agreed(
    epoch: int, make: Callable[[], Made], facts: Callable[[Made], Mapping[str, int | Tensor | None]]
) -> Made:
    """Return what `make` gives, once every rank has the same `facts` of it; of tensors, digests are compared.

    All ranks of the default process group come here together; without one it is `make()` and no more.
    Whatever a rank may refuse belongs into `make`: one that raises before it comes here leaves the others
    waiting.

    Raises:
        ValueError: ranks differ in a fact.
        RuntimeError: `make` failed on another rank. Where it failed itself, a rank raises what it raised.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return make()
    made: Made | None = None
    failure: Exception | None = None
    mine: dict[str, int | str | None] = {}
    try:
        made = make()
        mine = {name: _comparable(fact) for name, fact in facts(made).items()}
    except Exception as error:  # told to the others first: they would wait for this rank for ever
        failure = error
    told = [("", mine)] * dist.get_world_size()
    message = "" if failure is None else f"{type(failure).__name__}: {failure}"
    dist.all_gather_object(told, (message, mine))
    if failure is not None:
        raise failure
    for rank, (message, _) in enumerate(told):
        if message:
            raise RuntimeError(f"rank {rank} could not begin epoch {epoch}: {message}")
    for name in mine:
        _check_same(epoch, name, [theirs[name] for _, theirs in told])
    assert made is not None
    return made


def _comparable(fact: int | Tensor | None) -> int | str | None:
    if not isinstance(fact, Tensor):
        return fact
    raw = fact.detach().cpu().contiguous().view(torch.uint8)  # NumPy knows no bfloat16
    return hashlib.blake2b(raw.numpy().data, digest_size=16).hexdigest()


def _check_same(epoch: int, name: str, told: list[int | str | None]) -> None:
    others = [rank for rank, each in enumerate(told) if each != told[0]]
    if not others:
        return
    ranks = ", ".join(map(str, others))
    if isinstance(told[0], int):
        came = f"{told[others[0]]} on rank {ranks} and {told[0]} on rank 0"
        wanted = (
            "every rank makes the same sampler, loads the same state and begins the same epochs"
        )
    else:
        came = f"another on rank {ranks} than on rank 0"
        wanted = "score must give every rank the scores of all samples"
    raise ValueError(f"{name}: got {came} for epoch {epoch}, want the same on all: {wanted}")
