"""What of Lightning selection cannot go with is refused by name, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import ChainDataset, DataLoader

pl = pytest.importorskip("lightning.pytorch")

from lightning_runs import (  # noqa: E402
    BATCH,
    EPOCHS,
    QUIET,
    SHORTER,
    TRAIN,
    N,
    Network,
    fit,
    selecting,
)

from dynams.integrations.lightning import SelectionCallback, stepping_batches  # noqa: E402

ModelCheckpoint = pl.callbacks.ModelCheckpoint


def with_a_plain_loader() -> None:
    selection = selecting()
    trainer = pl.Trainer(max_epochs=1, callbacks=[selection], enable_checkpointing=False, **QUIET)
    trainer.fit(Network(), DataLoader(TRAIN, BATCH, sampler=selection.sampler))


def without_the_callback() -> None:
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(Network(), selecting().loader(TRAIN))


def with_a_finder_of_learning_rates() -> None:
    network, selection = Network(), selecting(**SHORTER)
    network.lr = 0.1
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[selection], enable_checkpointing=False, **QUIET
    )
    pl.tuner.Tuner(trainer).lr_find(network, selection.loader(TRAIN, BATCH))


def with_steps_of_an_iterator() -> None:
    class Iterating(Network):
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            return super().training_step(next(dataloader_iter)[0], 0)

    fit(selecting(), network=Iterating())


def with_a_used_sampler() -> None:
    selection = selecting(**SHORTER)
    fit(selection)
    fit(selection)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: fit(selecting(), max_epochs=5), "max_epochs: got 5, want at most 4"),
        (
            lambda: fit(selecting(**SHORTER), loader={"batch_size": 16, "drop_last": True}),
            "drop_last: got True with batches of 16 samples .* epoch 3 would have none",
        ),
        (lambda: fit(selecting(), max_epochs=-1), "max_epochs: got -1, want at most 4"),
        (lambda: fit(selecting(), overfit_batches=2), "overfit_batches: got 2, want 0"),
        (
            lambda: fit(selecting(**SHORTER), max_epochs=-1, max_steps=99),
            "max_steps: got 99, want at most 21, those of the sampler's 4 epochs",
        ),
        (
            lambda: fit(selecting(**SHORTER), val_check_interval=3),
            "val_check_interval: got 3, want at most 2",
        ),
        (lambda: fit(selecting(), loader={"shuffle": True}), "shuffle: got True, want none"),
        (
            lambda: selecting().loader(torch.arange(N - 1)),
            f"dataset: got {N - 1} samples, want {N}",
        ),
        (lambda: selecting().loader(ChainDataset([])), "dataset: got ChainDataset, want one with"),
        (with_a_plain_loader, "train_dataloaders: got a DataLoader, want what"),
        (with_steps_of_an_iterator, "training_step: got one of dataloader_iter"),
        (lambda: fit(selecting(score=lambda: 3)), "score: got int"),
        (
            without_the_callback,
            "callbacks: got no fit, or a trainer without the SelectionCallback of its loader",
        ),
        (
            lambda: next(iter(selecting().loader(TRAIN))),
            r"callbacks: got no fit, .* want Trainer\(callbacks=\[selection\]\).fit",
        ),
        (with_a_finder_of_learning_rates, "a learning-rate finder leaves it out"),
        (with_a_used_sampler, "epoch: got 0, want at least 3"),
        (lambda: fit(selecting(strategy="loss")), "score: got gap, want loss"),
        (
            lambda: SelectionCallback(DataLoader(TRAIN)),
            "sampler: got DataLoader, want a SubsetSampler",
        ),  # type: ignore[arg-type]
        (lambda: stepping_batches(pl.Trainer(**QUIET)), "trainer: got no SelectionCallback"),
    ],
)
def test_wrong_use_is_refused(
    wrong: Callable[[], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the finder of learning rates leaves a file
    with pytest.raises((ValueError, TypeError), match=message):
        wrong()


@pytest.mark.parametrize(
    "name", ["FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy", "DDPStrategy"]
)
def test_parts_of_a_network_are_not_scored_apart(name: str) -> None:
    kind = getattr(pl.strategies, name)
    trainer: Any = SimpleNamespace(  # those that shard want GPUs
        strategy=object.__new__(kind), max_epochs=1, overfit_batches=0, limit_train_batches=1.0
    )
    selecting(score=list).setup(trainer, None, "fit")
    if name == "DDPStrategy":
        selecting().setup(trainer, None, "fit")
        return
    with pytest.raises(ValueError, match=f"strategy: got {name}, want one device or DDP"):
        selecting().setup(trainer, None, "fit")
