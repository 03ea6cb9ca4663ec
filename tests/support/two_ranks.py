"""Processes of one gloo group, two or more, forked so that what is imported need not be imported again."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def told_by_two(
    make: Callable[[int, Path], dict[str, Any]], folder: Path, *, launched: bool = False
) -> list[dict[str, Any]]:
    """What `make(rank, folder)` gives on each rank of a group of two: of tensors, numbers, strings and their containers.

    Args:
        make: runs in a process of its own for each rank.
        folder: where they meet and leave what they tell; empty.
        launched: whether the environment says what a launcher of processes says.
    """
    return told_by_ranks(make, folder, 2, launched=launched)


def told_by_ranks(
    make: Callable[[int, Path], dict[str, Any]], folder: Path, world: int, *, launched: bool = False
) -> list[dict[str, Any]]:
    """What `make(rank, folder)` gives on each rank of a group of `world`; see `told_by_two`."""
    context = mp.get_context("fork")
    processes = [
        context.Process(target=_rank, args=(make, rank, world, folder, launched))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [torch.load(folder / f"rank {rank}", weights_only=True) for rank in range(world)]


def _rank(
    make: Callable[[int, Path], dict[str, Any]], rank: int, world: int, folder: Path, launched: bool
) -> None:
    torch.set_num_threads(1)
    if launched:
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
        os.environ |= {"WORLD_SIZE": f"{world}", "LOCAL_WORLD_SIZE": f"{world}"}
        os.environ |= {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "0",
        }  # the file is what they meet at
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    torch.save(make(rank, folder), folder / f"rank {rank}")
    dist.destroy_process_group()
