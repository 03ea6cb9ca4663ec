"""Two processes of one gloo group, forked so that what is imported need not be imported again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def told_by_two(make: Callable[[int, Path], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `make(rank, folder)` gives on each rank of a group of two: of tensors, numbers, strings and their containers."""
    context = mp.get_context("fork")
    processes = [context.Process(target=_rank, args=(make, rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [torch.load(folder / f"rank {rank}", weights_only=True) for rank in (0, 1)]


def _rank(make: Callable[[int, Path], dict[str, Any]], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    torch.save(make(rank, folder), folder / f"rank {rank}")
    dist.destroy_process_group()
