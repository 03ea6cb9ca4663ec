"""The guide to Lightning: its blocks as they stand, and the example, trained small."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

pl = pytest.importorskip("lightning.pytorch")

from lightning_runs import QUIET  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from dynams.integrations.lightning import SelectionCallback  # noqa: E402
from dynams.selection import SubsetSampler  # noqa: E402
from pages import ROOT, python_blocks  # noqa: E402

SAMPLES = 1200


class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, inputs: Any) -> Any:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has before the first block."""
    monkeypatch.chdir(tmp_path)
    data = TensorDataset(torch.randn(SAMPLES, 4), torch.arange(SAMPLES) % 3)
    return {
        "train_set": data,
        "plain_set": data,
        "scoring": DataLoader(data, 500),
        "val_loader": DataLoader(data, 600),
        "module": Module(),
        "Module": Module,
    }


def quiet_trainer(**arguments: Any) -> Any:
    return pl.Trainer(**{**QUIET, "enable_checkpointing": False, **arguments})


def test_every_block_of_the_page_works(names: dict[str, Any]) -> None:
    first, in_data_module, scheduled, fixed, resuming, weighing = python_blocks(
        "docs/guides/lightning.md"
    )
    exec(first, names)
    steps = 2 * 10 + 8 * 6  # of 128: 2 epochs of 1200 samples, 8 of 720
    assert names["trainer"].global_step == steps

    def anew(**arguments: Any) -> Any:
        """A new selection in the names, and a trainer with it."""
        sampler = SubsetSampler(SAMPLES, budget=0.6, epochs=10, warmup_epochs=2)
        names["sampler"] = sampler
        names["selection"] = SelectionCallback(sampler, names["scoring"])
        return quiet_trainer(callbacks=[names["selection"]], **arguments)

    exec(in_data_module, names)
    trainer = anew(max_epochs=3)
    trainer.fit(Module(), datamodule=names["Data"]())
    assert trainer.global_step == 2 * 10 + 6
    trainer.save_checkpoint("last.ckpt")

    exec(scheduled, names)
    exec(weighing, names)
    for kind in ("Scheduled", "Weighted"):
        trainer, module = anew(max_epochs=3), names[kind]()
        trainer.fit(module, names["selection"].loader(names["train_set"], batch_size=128))
        assert trainer.global_step == 2 * 10 + 6
        if kind == "Scheduled":
            assert module.lr_schedulers().total_steps == 2 * 10 + 6

    anew()
    exec(resuming, names)
    assert names["trainer"].global_step == steps
    exec(fixed, names)
    assert names["sampler"].total_steps(128) == 10 * 8


def test_the_example_trains_in_as_many_steps_as_it_planned() -> None:
    train = runpy.run_path(str(ROOT / "examples" / "lightning_training.py"))["train"]
    trainer, selection = train(epochs=4, **QUIET, enable_checkpointing=False)
    assert len(selection.sampler) == 865
    assert trainer.global_step == 2 * 23 + 2 * 14
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == trainer.global_step
    assert trainer.callback_metrics["accuracy"] > 0.8
