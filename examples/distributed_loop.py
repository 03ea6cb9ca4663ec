"""Handwritten digits in a loop of your own on several processes, on the 60 % nearest the decision boundary.

torchrun --nproc-per-node 2 examples/distributed_loop.py
torchrun --nproc-per-node 2 examples/distributed_loop.py --save state.pt    # stop it anywhere
torchrun --nproc-per-node 4 examples/distributed_loop.py --resume state.pt  # go on, with as many processes as you like
python examples/distributed_loop.py                                         # alone
"""

from __future__ import annotations

import argparse
import gc
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from dynams.data import load_data
from dynams.selection import RankShard, SubsetSampler, score_batches

BATCH = 32  # of all processes together: as many steps and the same rates, however many there are
SAVE_EVERY = 20  # steps


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The digits for training and for testing: images (N, 1, 8, 8) between 0 and 1, and labels."""
    data = load_data("digits")
    train, test = (
        TensorDataset(part.images.float() / 255, part.labels) for part in (data.train, data.test)
    )
    return train, test


def network() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


def train(
    network: nn.Module,
    train_set: TensorDataset,
    *,
    epochs: int,
    save: str | None = None,
    resume: str | None = None,
) -> SubsetSampler:
    """Train `network` in place, on all samples in the first two epochs; return the sampler.

    Args:
        network: from images to logits, on this process's device.
        train_set: images and labels.
        epochs: of the whole training.
        save: file of the state, written every few steps by the first process.
        resume: file of a state to go on from.
    """
    device = next(network.parameters()).device
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = DistributedDataParallel(network) if world > 1 else network
    # Every process scores a part of the samples, and gets the scores of all.
    scoring = DataLoader(train_set, batch_size=512, sampler=RankShard(len(train_set)))
    sampler = SubsetSampler(
        len(train_set),
        budget=0.6,
        epochs=epochs,
        warmup_epochs=2,
        refresh_every=2,
        score=lambda: score_batches(model, scoring),
    )
    # Equally many batches on all of them, and every selected sample in one.
    batches = sampler.shard(rank, world, BATCH // world)
    loader = DataLoader(train_set, batch_sampler=batches)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = sampler.total_steps(BATCH // world, world=world)
    scheduler = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    parts: dict[str, Any] = {
        "network": network,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "sampler": sampler,
    }
    if resume is not None:
        state = torch.load(resume, weights_only=True, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for epoch in range(sampler.epoch or 0, epochs):
        sampler.set_epoch(epoch)  # scores and selects where that is due: all processes come here
        model.train()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            batches.advance()  # a state resumes behind this step of all processes
            if save is not None and rank == 0 and scheduler.last_epoch % SAVE_EVERY == 0:
                torch.save({name: part.state_dict() for name, part in parts.items()}, save)
        if rank == 0:
            print(f"epoch {epoch}: {len(sampler)} of {len(train_set)} digits")
    return sampler


def accuracy(network: nn.Module, test_set: TensorDataset) -> float:
    """The fraction of the test samples that the network, put in eval mode, gets right."""
    device = next(network.parameters()).device
    images, labels = (each.to(device) for each in test_set.tensors)
    with torch.inference_mode():
        return (network.eval()(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Train, and print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--save", help="file of the state, written every few steps")
    parser.add_argument("--resume", help="file of a state to go on from")
    options = parser.parse_args()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "RANK" in os.environ:  # by torchrun
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(0)
    train_set, test_set = digits()
    model = network().to(device)
    train(model, train_set, epochs=options.epochs, save=options.save, resume=options.resume)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"test accuracy {accuracy(model, test_set):.3f}")
    if dist.is_initialized():
        # DistributedDataParallel lives on in cycles, and its gloo threads would abort an interpreter that ends.
        gc.collect()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
