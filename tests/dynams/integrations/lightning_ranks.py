"""What each of two ranks does, in Lightning and in a loop, and hands back to the tests."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_runs import BATCH, SHORTER, Run, fit, loop, same_weights, samples, selecting

RANKS = 2
ON_RANKS = {"strategy": "ddp", "devices": RANKS, "loader": {"batch_size": BATCH // RANKS}}


def rank_of_two(rank: int, folder: Path) -> None:
    """Train, resume and fail; leave what was seen in `folder`."""
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning starts no ranks itself then
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    wanted, network = loop(**SHORTER)
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(selecting(**SHORTER), saving, **ON_RANKS)
    workers = {**ON_RANKS["loader"], "num_workers": 2, "persistent_workers": True}
    middle = folder / "step=9.ckpt"
    resumed = fit(selecting(**SHORTER), checkpoint=middle, **{**ON_RANKS, "loader": workers})
    torch.save(
        {
            "wanted": samples(wanted),
            "trained": samples(whole.network.steps),
            "as the loop": same_weights(network, whole.network),
            "batches": [step.batches for step in whole.network.steps],
            "validated": whole.network.validated,
            "checked": whole.network.checked,
            "scored": sum(count for *_, count in whole.network.scored),
            "resumed": samples(resumed.network.steps),
            "as uninterrupted": same_weights(resumed.network, whole.network),
            "failed": failed(rank),
        },
        folder / f"{rank}.pt",
    )
    dist.destroy_process_group()


def failed(rank: int) -> str:
    """What a rank is told where rank 1 cannot score."""

    def score() -> Any:
        raise OSError("disk")

    selection = selecting(**SHORTER)
    if rank == 1:
        selection = selecting(**SHORTER, score=score)
    try:
        run: Run = fit(selection, **ON_RANKS)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"trained {len(run.network.steps)} steps"
