"""Ranks agree on every selection, or all of them are told which one differs, and none has changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from dynams.selection import SubsetSampler
from sampler_inputs import N, margins_of, scorer, smallest


def failing() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.arange(3), torch.zeros(3)
    raise OSError("disk")


def told(sampler: SubsetSampler, epoch: int, score: Any) -> str:
    before = sampler.margins, sampler.indices, sampler.epoch
    try:
        sampler.begin_epoch(epoch, score)
    except Exception as error:
        after = sampler.margins, sampler.indices, sampler.epoch
        assert all(torch.equal(*pair) for pair in zip(before[:2], after[:2], strict=True))
        assert before[2] == after[2]
        return f"{type(error).__name__}: {error}"
    return "begun"


def rank_of_three(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=3,
        timeout=timedelta(seconds=60),
    )
    sampler = SubsetSampler(N, budget=0.5, warmup_epochs=1)
    said = [
        told(sampler, 0, None),
        told(sampler, 1, scorer(1)),
        told(sampler, 2, scorer(7 if rank == 1 else 2)),
        told(sampler, 2, failing if rank == 2 else scorer(2)),
        told(sampler, 2, scorer(2)),
        str(sampler.indices.tolist()),
    ]
    Path(folder, str(rank)).write_text("\n".join(said))
    dist.destroy_process_group()


def test_ranks_hold_one_selection_or_all_know_which_differs(tmp_path: Path) -> None:
    context = mp.get_context("fork")  # what is imported need not be imported again
    processes = [
        context.Process(target=rank_of_three, args=(rank, str(tmp_path))) for rank in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    said = [(tmp_path / str(rank)).read_text().splitlines() for rank in range(3)]
    chosen = str(smallest(margins_of(2), N // 2))
    for rank, lines in enumerate(said):
        other = "ValueError: selection: got another on rank 1 than on rank 0 for epoch 2"
        failed = "RuntimeError: rank 2 could not begin epoch 2: OSError: disk"
        assert lines[:2] == ["begun", "begun"]
        assert lines[2].startswith(other)
        assert lines[3] == (failed if rank != 2 else "OSError: disk")
        assert lines[4:] == ["begun", chosen]
