"""A timm network on handwritten digits, trained on the samples nearest the decision boundary, in timm's own style of loop.

timm's optimizer, its schedule by updates, mixup and the moving average of the weights stay as they are; the average, or the network's
own half width, says which samples the next epochs train on.

    python examples/timm_training.py                # scored by the moving average
    python examples/timm_training.py --width 0.5    # by half the width, trained along
"""

from __future__ import annotations

import argparse

import timm
import torch
from sklearn.datasets import load_digits
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dynams.selection import SubsetSampler, score_batches
from dynams.slimmable import convert

BATCH = 64


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The digits of scikit-learn, (N, 1, 8, 8), every fifth for testing."""
    loaded = load_digits()
    images = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(loaded.target)
    test = torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~test], labels[~test]), TensorDataset(images[test], labels[test])


def accuracy(model: nn.Module, test_set: TensorDataset) -> float:
    """The fraction of the test samples that the model, put in eval mode, gets right."""
    images, labels = test_set.tensors
    with torch.inference_mode():
        return (model.eval()(images).argmax(1) == labels).float().mean().item()


def train(
    model: nn.Module, train_set: TensorDataset, *, epochs: int, width: float | None = None
) -> tuple[nn.Module, SubsetSampler]:
    """Train a network on 60 % of the samples; return the moving average of its weights, and the sampler.

    Args:
        model: a timm network; changed in place, unless `width` is given.
        train_set: images and labels.
        epochs: the first two train on everything.
        width: of the slimmable network that `model` becomes, to score with; None: the moving average scores.
    """
    if width is not None:
        model = convert(model, widths=(width, 1.0), example=train_set.tensors[0][:4])
    average = ModelEmaV3(model, decay=0.98, use_warmup=True)
    scorer = average if width is None else model
    scoring = DataLoader(train_set, batch_size=512)  # every sample once, in order
    sampler = SubsetSampler(
        len(train_set),
        budget=0.6,
        epochs=epochs,
        warmup_epochs=2,
        refresh_every=2,
        score=lambda: score_batches(scorer, scoring, width=width),
    )
    # Mixup mixes pairs, and refuses a last batch of an odd size.
    loader = DataLoader(train_set, batch_size=BATCH, sampler=sampler, drop_last=True)

    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    # Epochs differ in length, so the schedule counts updates, and knows beforehand how many there will be.
    total = sampler.total_steps(BATCH, drop_last=True)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=total, warmup_t=total // 10, warmup_lr_init=1e-4, t_in_epochs=False
    )
    mixup = Mixup(mixup_alpha=0.2, num_classes=10)
    criterion = SoftTargetCrossEntropy()

    update = 0
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        model.train()
        for images, labels in loader:
            images, targets = mixup(images, labels)
            if width is None:
                loss = criterion(model(images), targets)
            else:  # the half width learns along, in the same forward
                logits, proxy = model(images, width=(1.0, width))
                loss = criterion(logits, targets) + criterion(proxy, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update += 1
            average.update(model, step=update)
            scheduler.step_update(update)
            sampler.advance(len(images))
    return average.module, sampler


def main() -> None:
    """Train and print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--model", default="test_resnet", help="any of timm's that takes 8 x 8 images"
    )
    parser.add_argument(
        "--width", type=float, help="fraction of the channels that score; default: all, averaged"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    train_set, test_set = digits()
    model = timm.create_model(options.model, in_chans=1, num_classes=10)
    trained, sampler = train(model, train_set, epochs=options.epochs, width=options.width)
    print(f"trained on {len(sampler)} of {len(train_set)} digits in the last epoch")
    print(f"test accuracy {accuracy(trained, test_set):.3f}")


if __name__ == "__main__":
    main()
