"""What the ranks of a training tell each other: all agree on a selection, or all are told which of them differs or failed.

Everything is told in rounds to which all ranks come. A rank that failed tells so before it raises, as the others
would wait for it for ever; and a round says what it is for, so that one that failed before it came to a round of
scoring, and is at the end of beginning an epoch already, is understood there too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Made = TypeVar("Made")


class ElsewhereError(RuntimeError):
    """Ranks came to different rounds, and all know it."""


def of_world(group: Any = None) -> int:
    """Count the ranks of a process group; 1 where there is none."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def of_rank(group: Any = None) -> int:
    """Return which rank of a process group this is; 0 where there is none."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def told_by_all(purpose: str, make: Callable[[], Made], group: Any = None) -> list[Made]:
    """Return what `make` gives on every rank, in their order. It must be something to be pickled.

    Raises:
        RuntimeError: `make` failed on another rank. Where it failed itself, a rank raises what it raised.
        ElsewhereError: other ranks came to another round; its cause is what `make` raised, if it did.
    """
    if of_world(group) == 1:
        return [make()]
    made: Made | None = None
    failure: Exception | None = None
    try:
        made = make()
    except ElsewhereError:
        raise  # no rank is at this round
    except Exception as error:
        failure = error
    told: list[Any] = [None] * of_world(group)
    message = "" if failure is None else f"{type(failure).__name__}: {failure}"
    dist.all_gather_object(told, (purpose, message, made), group)
    failed = [
        f"rank {rank} could not {theirs}: {message}"
        for rank, (theirs, message, _) in enumerate(told)
        if message
    ]
    others = [
        f"rank {rank}: got one that is to {theirs}, want it to {purpose} like this one"
        for rank, (theirs, _, _) in enumerate(told)
        if theirs != purpose
    ]
    if others:
        raise ElsewhereError((failed + others)[0]) from failure
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError(failed[0])
    return [made for _, _, made in told]


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
    if of_world() == 1:
        return make()
    made: list[Made] = []

    def mine() -> dict[str, int | str | None]:
        made.append(make())
        return {name: _comparable(fact) for name, fact in facts(made[0]).items()}

    try:
        told = told_by_all("begin an epoch", mine)
    except ElsewhereError as error:
        raise (error.__cause__ or error) from None
    for name in told[0]:
        _check_same(epoch, name, [theirs[name] for theirs in told])
    return made[0]


def check_told_alike(told: list[dict[str, Any]]) -> None:
    """Refuse facts, by name, in which ranks differ.

    Raises:
        ValueError: naming the first fact that differs.
    """
    for name, first in told[0].items():
        for rank, theirs in enumerate(told):
            if theirs[name] != first:
                raise ValueError(
                    f"{name}: got {theirs[name]} on rank {rank} and {first} on rank 0, want the same on all"
                )


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
    if not any(isinstance(each, str) for each in told):
        came = f"{told[others[0]]} on rank {ranks} and {told[0]} on rank 0"
        wanted = (
            "every rank makes the same sampler, loads the same state and begins the same epochs"
        )
    else:
        came = f"another on rank {ranks} than on rank 0"
        wanted = "score must give every rank the scores of all samples"
    raise ValueError(f"{name}: got {came} for epoch {epoch}, want the same on all: {wanted}")
