"""Handwritten digits in a plain PyTorch loop, on the 60 % nearest the decision boundary.

python examples/own_loop.py
python examples/own_loop.py --save state.pt     # stop it anywhere, and go on with --resume state.pt
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from dynams.data import load_data
from dynams.selection import SubsetSampler, score_batches

BATCH = 32
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
    model: nn.Module,
    train_set: TensorDataset,
    *,
    epochs: int,
    save: str | None = None,
    resume: str | None = None,
) -> SubsetSampler:
    """Train `model` in place, on all samples in the first two epochs; return the sampler.

    Args:
        model: from images to logits.
        train_set: images and labels.
        epochs: of the whole training.
        save: file of the state, written every few steps.
        resume: file of a state to go on from.
    """
    scoring = DataLoader(train_set, batch_size=512)  # every sample once, in order
    sampler = SubsetSampler(
        len(train_set),
        budget=0.6,
        epochs=epochs,
        warmup_epochs=2,
        refresh_every=2,
        score=lambda: score_batches(model, scoring),
    )
    loader = DataLoader(train_set, batch_size=BATCH, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    # Epochs differ in length; how many steps there will be is known all the same.
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=sampler.total_steps(BATCH))
    parts: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "sampler": sampler,
    }
    if resume is not None:
        state = torch.load(resume, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for epoch in range(sampler.epoch or 0, epochs):
        sampler.set_epoch(epoch)  # scores and selects where that is due
        model.train()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            sampler.advance(len(images))  # a state resumes behind these
            if save is not None and scheduler.last_epoch % SAVE_EVERY == 0:
                torch.save({name: part.state_dict() for name, part in parts.items()}, save)
        print(f"epoch {epoch}: {len(sampler)} of {len(train_set)} digits")
    return sampler


def accuracy(model: nn.Module, test_set: TensorDataset) -> float:
    """The fraction of the test samples that the model, put in eval mode, gets right."""
    images, labels = test_set.tensors
    with torch.inference_mode():
        return (model.eval()(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Train and print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--save", help="file of the state, written every few steps")
    parser.add_argument("--resume", help="file of a state to go on from")
    options = parser.parse_args()
    torch.manual_seed(0)
    train_set, test_set = digits()
    model = network()
    train(model, train_set, epochs=options.epochs, save=options.save, resume=options.resume)
    print(f"test accuracy {accuracy(model, test_set):.3f}")


if __name__ == "__main__":
    main()
