"""Handwritten digits by Accelerate, on the samples nearest the decision boundary, in one process or several.

python examples/accelerate_training.py
accelerate launch --cpu --num_processes 2 examples/accelerate_training.py
python examples/accelerate_training.py --save state     # stop it, and go on with --resume state
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from dynams.integrations.accelerate import prepare_loader, scheduler_steps
from dynams.selection import RankShard, SubsetSampler, score_batches

BATCH = 32  # of each process


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The digits of scikit-learn, (N, 1, 8, 8), every fifth for testing."""
    loaded = load_digits()
    images = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(loaded.target)
    test = torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~test], labels[~test]), TensorDataset(images[test], labels[test])


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
    accelerator: Accelerator, *, epochs: int, save: str | None = None, resume: str | None = None
) -> tuple[SubsetSampler, float]:
    """Train on 60 % of the samples after two epochs on all; return the sampler and the test accuracy.

    Args:
        accelerator: of this process.
        epochs: of the whole training.
        save: folder of the state, written after each epoch.
        resume: folder of a state to go on from.
    """
    train_set, test_set = digits()
    model: nn.Module = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scoring = DataLoader(train_set, batch_size=512, sampler=RankShard(len(train_set)))
    sampler = SubsetSampler(
        len(train_set),
        budget=0.6,
        epochs=epochs,
        warmup_epochs=2,
        refresh_every=2,
        score=lambda: score_batches(model, scoring),
    )
    loader = prepare_loader(accelerator, train_set, sampler, BATCH)
    steps = scheduler_steps(accelerator, sampler, BATCH)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    accelerator.register_for_checkpointing(sampler)
    if resume is not None:
        accelerator.load_state(resume)
    for epoch in range(sampler.epoch or 0, epochs):
        loader.set_epoch(epoch)
        model.train()
        for images, labels in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(images), labels))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            loader.batch_sampler.advance()
        accelerator.print(f"epoch {epoch}: {len(sampler)} of {len(train_set)} digits")
        if save is not None:
            accelerator.save_state(save)
    return sampler, accuracy(accelerator, model, test_set)


def accuracy(accelerator: Accelerator, model: nn.Module, test_set: TensorDataset) -> float:
    """The fraction of the test samples that the model gets right, over all processes."""
    loader = accelerator.prepare(DataLoader(test_set, batch_size=128))
    right: list[Tensor] = []
    model.eval()
    with torch.inference_mode():
        for images, labels in loader:
            right.append(accelerator.gather_for_metrics(model(images).argmax(1) == labels))
    return torch.cat(right).float().mean().item()


def main() -> None:
    """Train and print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="also where there is a GPU")
    parser.add_argument("--save", help="folder of the state, written after each epoch")
    parser.add_argument("--resume", help="folder of a state to go on from")
    options = parser.parse_args()
    set_seed(0)
    accelerator = Accelerator(cpu=options.cpu)
    _, right = train(accelerator, epochs=options.epochs, save=options.save, resume=options.resume)
    accelerator.print(f"test accuracy {right:.3f}")


if __name__ == "__main__":
    main()
