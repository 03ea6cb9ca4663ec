"""States of sharded samplers, of which each rank has a part, made one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dynams.selection.ranks import of_rank, of_world, told_by_all
from dynams.selection.sampler import SubsetSampler
from dynams.selection.shares import RankShard


def gather_state(sampler: SubsetSampler) -> dict[str, Any]:
    """Return a sampler's state with the scores of all ranks, for one process to save.

    All ranks come here together::

        state = gather_state(sampler)
        if rank == 0:
            torch.save(state, "sampler.pt")

    Any sampler may load it, sharded or not, on any number of ranks. Where a loaded state lacked scores that were
    not given since, it is no more than `sampler.state_dict()`.

    Returns:
        On rank 0 the state with all scores; on the others their own `sampler.state_dict()`.

    Raises:
        RuntimeError: another rank is elsewhere.
    """
    state = sampler.state_dict()
    scores: dict[str, dict[str, Any]] = state["scores"]
    if not any("part" in each for each in scores.values()):
        return state
    first = next(iter(scores.values()))["part"]
    parts = told_by_all("gather a state", lambda: tuple(first))
    all_parts = [
        RankShard(sampler.num_samples, rank, len(parts)).part for rank in range(len(parts))
    ]
    if parts != [(part.start, part.stop) for part in all_parts]:
        return state
    gathered = {}
    for name, each in scores.items():
        margins = _on_rank_0(each["margins"])
        gathered[name] = {"num_samples": sampler.num_samples, "margins": margins}
    return {**state, "scores": gathered} if of_rank() == 0 else state


def _on_rank_0(mine: Tensor) -> Tensor:
    world = of_world()
    if world == 1:
        return mine
    parts: list[Any] | None = [None] * world if of_rank() == 0 else None
    dist.gather_object(mine.cpu(), parts)
    return mine if parts is None else torch.cat(parts).to(mine.device)
