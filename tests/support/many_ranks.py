"""Any number of processes of one gloo group, forked so that what is imported need not be imported again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def told_by_ranks(make: Callable[[int, int], Any], world: int, folder: Path) -> list[Any]:
    """What `make(rank, world)` gives on each rank: tensors, numbers, strings and their containers.

    Args:
        make: runs in a process of its own for each rank.
        world: how many there are.
        folder: where they meet and leave what they tell; made here.
    """
    folder.mkdir()
    context = mp.get_context("fork")
    processes = [
        context.Process(target=_rank, args=(make, rank, world, folder)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world
    return [torch.load(folder / f"rank {rank}", weights_only=True) for rank in range(world)]


def _rank(make: Callable[[int, int], Any], rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    torch.save(make(rank, world), folder / f"rank {rank}")
    dist.destroy_process_group()
