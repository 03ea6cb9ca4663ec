"""Ranks agree on every selection, or all of them are told which one differs, and none has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from dynams.selection import SubsetSampler, score_batches
from dynams.selection.refresh import Score
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


def at_epoch(epoch: int, consumed: int = 0) -> SubsetSampler:
    """A sampler that has loaded a state."""
    source = SubsetSampler(N, budget=0.5, warmup_epochs=1)
    state = {**source.state_dict(), "epoch": epoch, "consumed": consumed}
    source.load_state_dict(state)
    return source


def weighted(rank: int) -> SubsetSampler:
    """The same samples on all ranks, with other weights on rank 1."""
    sampler = at_epoch(0)
    state = {
        **sampler.state_dict(),
        "weights": torch.full((N,), 2.0 if rank == 1 else 1.0).bfloat16(),
    }
    sampler.load_state_dict(state)
    return sampler


def scored_as_trained(rank: int) -> Score:
    """A user's own loop: each rank scores by the batch-norm statistics of the samples that it saw."""
    random = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, generator=random)
    samples = torch.randn(N, 4, generator=random)
    for _ in range(20):
        model(samples[rank::2])
    return lambda: score_batches(model, [samples[:5], samples[5:]])


def join(rank: int, folder: str, ranks: int) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=60),
    )


def rank_of_three(rank: int, folder: str) -> None:
    join(rank, folder, 3)
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


def rank_of_two(rank: int, folder: str) -> None:
    join(rank, folder, 2)
    fresh = SubsetSampler(N, budget=0.5, warmup_epochs=1)
    said = [
        told(at_epoch(0, consumed=4) if rank == 0 else fresh, 0, None),  # loaded on rank 0 only
        told(at_epoch(0, consumed=rank), 0, None),
        told(at_epoch(3) if rank == 0 else fresh, 0, None),  # rank 0 at a later epoch
        told(at_epoch(3 - rank), 3, scorer(3)),
        told(weighted(rank), 0, None),
        told(fresh, 0, None if rank == 0 else [1]),
        told(fresh, -rank, None),
        told(at_epoch(0, consumed=4), 0, None),
        told(SubsetSampler(N, "random", seed=rank), 0, None),
        told(
            SubsetSampler(N, warmup_epochs=1, seed=3 + rank), 0, None
        ),  # all samples, in another order
        told(SubsetSampler(N, shuffle=rank == 0), 0, scorer(1)),
        told(SubsetSampler(N), 0, scored_as_trained(rank)),
        told(SubsetSampler(N, "full", epoch_length=9 if rank == 0 else None), 0, None),
    ]
    Path(folder, str(rank)).write_text("\n".join(said))
    dist.destroy_process_group()


def said_by(target: Callable[[int, str], None], ranks: int, folder: Path) -> list[list[str]]:
    context = mp.get_context("fork")  # what is imported need not be imported again
    processes = [context.Process(target=target, args=(rank, str(folder))) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [(folder / str(rank)).read_text().splitlines() for rank in range(ranks)]


def test_ranks_at_other_places_are_told_so_and_none_waits_for_another(tmp_path: Path) -> None:
    first, second = said_by(rank_of_two, 2, tmp_path)
    same = ", want the same on all: every rank makes the same sampler, loads the same state and begins the same epochs"
    consumed = "ValueError: consumed: got {} on rank 1 and {} on rank 0 for epoch 0" + same
    assert first[0] == second[0] == consumed.format(0, 4)
    assert first[1] == second[1] == consumed.format(1, 0)
    back = "ValueError: epoch: got 0, want at least 3, the current one"
    assert first[2].startswith(back)
    assert second[2].startswith(f"RuntimeError: rank 0 could not begin an epoch: {back}")
    assert "selection: got another on rank 1" in first[3]  # rank 0 has begun epoch 3 before
    assert first[3] == second[3]
    assert first[4].startswith("ValueError: weights: got another on rank 1 than on rank 0")
    assert first[4] == second[4]
    refused = "TypeError: score: got list, want a function"
    assert second[5].startswith(refused)
    assert first[5].startswith(f"RuntimeError: rank 1 could not begin an epoch: {refused}")
    assert second[6] == "ValueError: epoch: got -1, want at least 0"
    assert first[6] == f"RuntimeError: rank 1 could not begin an epoch: {second[6]}"
    assert first[7] == second[7] == "begun"
    length = "ValueError: epoch_length: got None on rank 1 and 9 on rank 0 for epoch 0"
    assert first[12] == second[12] == length + same
    for place, name in ((8, "selection"), (9, "seed"), (10, "shuffle"), (11, "selection")):
        assert first[place] == second[place]
        assert first[place].startswith(f"ValueError: {name}: got "), first[place]
        assert "on rank 1" in first[place]


def test_ranks_hold_one_selection_or_all_know_which_differs(tmp_path: Path) -> None:
    said = said_by(rank_of_three, 3, tmp_path)
    chosen = str(smallest(margins_of(2), N // 2))
    for rank, lines in enumerate(said):
        other = "ValueError: selection: got another on rank 1 than on rank 0 for epoch 2"
        failed = "RuntimeError: rank 2 could not begin an epoch: OSError: disk"
        assert lines[:2] == ["begun", "begun"]
        assert lines[2].startswith(other)
        assert lines[3] == (failed if rank != 2 else "OSError: disk")
        assert lines[4:] == ["begun", chosen]
