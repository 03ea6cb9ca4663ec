"""Trains a user's untouched network on a user's Dataset in two processes; each writes its weights at the end.

Then it trains with slow weights, steps of one size and a first layer that rests, whole and stopped within an epoch.
Then it trains again, and the second process fails, and once more, and that process is killed: the first one writes
what it is told.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from own_networks import ViT
from torch.utils.data import Dataset
from training_runs import StopAt, equal, made_up_data, small_config

from dynams.training.checkpoint import load_checkpoint
from dynams.training.entry import train
from dynams.training.errors import LostProcessError
from dynams.training.launched import rank_here
from dynams.training.rundir import checkpoint_path

torch.set_num_threads(1)
DATA = made_up_data()


class Noisy(Dataset):
    def __init__(self, images) -> None:
        self.images, self.targets = images.images, images.labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.images[index] / 128 - 1 + 0.1 * torch.randn(1, 8, 8), self.targets[index]


def fail(run, known) -> None:
    if rank_here() == 1:
        raise OSError("disk")


def die(run, known) -> None:
    if rank_here() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def told(folder: Path, on_refresh) -> str:
    """What a run of two comes to that saves once and then is to select."""
    config = small_config(folder, run={"devices": 2})
    try:
        train(config, DATA, on_refresh=on_refresh)
    except (LostProcessError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        assert not dist.is_initialized()
    return "ended"


def check_slow_weights(folder: Path) -> None:
    """A run that was stopped, with slow statistics that each process has for itself, ends as one that was not."""
    optim = {"epochs": 2, "lookahead": 1, "drop_last": True, "first_layer_epochs": 1}
    config = small_config(
        folder,
        optim=optim,
        proxy={"recipe": "none"},
        selection={"strategy": "random"},
        run={"devices": 2},
    )
    whole = train(config, DATA).run_dir
    stopped = train(config, DATA, interrupt=StopAt(1))
    assert not stopped.completed
    first, second = (load_checkpoint(checkpoint_path(each)) for each in (whole, stopped.run_dir))
    assert (second.epoch, second.step) == (0, 1)
    slow = [each["lookahead"] for each in second.processes]
    assert not equal(*slow)
    train(config, DATA, resume=stopped.run_dir)
    second = load_checkpoint(checkpoint_path(stopped.run_dir))
    for part in ("model", "optimizer", "lookahead", "processes", "samples"):
        assert equal(getattr(first, part), getattr(second, part)), part


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = small_config(
        folder,
        proxy={"recipe": "none"},
        data={"workers": 1},
        optim={"epochs": 2},
        run={"devices": 2},
    )
    model = ViT()
    model.register_buffer("table", torch.tensor([0.1, 0.7]))
    torch.manual_seed(os.getpid())  # what a process draws elsewhere is its own affair
    summary = train(config, (Noisy(DATA.train), Noisy(DATA.test)), model=model)
    torch.save((model.state_dict(), summary.samples), folder / f"{os.getpid()}.pt")
    check_slow_weights(folder / "slow")
    said = [told(folder / "failed", fail), told(folder / "killed", die)]
    assert rank_here() == 0
    (folder / "said").write_text("\n".join(said))
