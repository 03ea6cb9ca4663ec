"""Lightning trains on what the plain loop trains on, validates in every epoch, and resumes from any checkpoint exactly."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, default_collate

pl = pytest.importorskip("lightning.pytorch")

from lightning_runs import (  # noqa: E402
    BATCH,
    EPOCHS,
    LONGER,
    QUIET,
    SHORTER,
    TRAIN,
    N,
    Network,
    fit,
    loop,
    same_weights,
    samples,
    scoring,
    selecting,
)

from dynams.integrations.lightning import SelectionCallback, stepping_batches  # noqa: E402
from dynams.selection import SubsetSampler  # noqa: E402

ModelCheckpoint = pl.callbacks.ModelCheckpoint
WORKERS = {"num_workers": 2, "persistent_workers": True}


@pytest.mark.parametrize("loader", [{}, WORKERS])
@pytest.mark.parametrize("plan", [SHORTER, LONGER])
def test_lightning_trains_on_what_the_loop_trains_on_and_validates_in_every_epoch(
    plan: dict[str, Any], loader: dict[str, Any]
) -> None:
    wanted, network = loop(**plan)
    run = fit(selecting(**plan), loader=loader)
    assert samples(run.network.steps) == samples(wanted)
    assert same_weights(run.network, network)
    assert run.network.validated == list(range(EPOCHS))
    for epoch in range(EPOCHS):
        steps = [step for step in run.network.steps if step.epoch == epoch]
        assert {step.batches for step in steps} == {len(steps)}
        assert [step.last for step in steps] == [False] * (len(steps) - 1) + [True]
    assert run.network.training
    assert not any(training for training, *_ in run.network.scored)


class Everywhere(pl.Callback):  # type: ignore[misc, name-defined]
    """Saves where `ModelCheckpoint` may, too: after validation and at the end of an epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: Any, name: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{name}-{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "epoch")


def in_steps() -> Any:
    return {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}


@pytest.mark.parametrize(
    ("plan", "arguments"),
    [
        (SHORTER, {"validation": False}),
        (LONGER, {"val_check_interval": 0.5}),
        (LONGER, {"max_epochs": -1, "max_steps": 14}),
        (SHORTER, {"max_epochs": -1, "max_steps": 20, "validation": False}),
        (LONGER, {"accumulate_grad_batches": 2}),
        ({"budget": 0.3, "epoch_length": 20}, {"loader": {"batch_size": BATCH, "drop_last": True}}),
    ],
    ids=["shorter", "half", "steps", "steps-shorter", "accumulated", "fixed"],
)
def test_every_checkpoint_resumes_exactly(
    plan: dict[str, Any], arguments: dict[str, Any], tmp_path: Path
) -> None:
    whole = fit(
        selecting(**plan),
        Everywhere(tmp_path),
        ModelCheckpoint(tmp_path, **in_steps()),
        **arguments,
    )
    trained = [step[:2] for step in whole.network.steps]
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) > whole.trainer.global_step
    for checkpoint in checkpoints:
        state = torch.load(checkpoint, weights_only=True)["callbacks"]["SelectionCallback"]
        resumed = fit(selecting(**plan), checkpoint=checkpoint, **arguments)
        rest = [step[:2] for step in resumed.network.steps]
        assert rest == trained[len(trained) - len(rest) :], checkpoint
        done = [epoch for epoch, _ in trained[: len(trained) - len(rest)]]
        assert state["epoch"] == done[-1], checkpoint
        assert (
            sum(len(indices) for epoch, indices in trained[: len(done)] if epoch == done[-1])
            == state["consumed"]
        ), checkpoint
        validated = whole.network.validated
        assert resumed.network.validated == validated[-len(resumed.network.validated) or 99 :]
        assert resumed.trainer.global_step == whole.trainer.global_step
        assert same_weights(resumed.network, whole.network), checkpoint


def test_a_resumed_epoch_is_right_with_workers_that_read_ahead(tmp_path: Path) -> None:
    whole = fit(selecting(**SHORTER), ModelCheckpoint(tmp_path, **in_steps()), loader=WORKERS)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "You're resuming from a checkpoint that ended before")
        resumed = fit(selecting(**SHORTER), checkpoint=tmp_path / "step=9.ckpt", loader=WORKERS)
    assert resumed.network.steps == whole.network.steps[9:]
    assert same_weights(resumed.network, whole.network)


def test_another_batch_size_is_refused_in_mid_epoch_and_taken_between_epochs(
    tmp_path: Path,
) -> None:
    fit(selecting(**SHORTER), Everywhere(tmp_path), ModelCheckpoint(tmp_path, **in_steps()))
    with pytest.raises(
        RuntimeError, match="got 16 samples of epoch 1 trained on, want 32 before batch 2"
    ):
        fit(selecting(**SHORTER), checkpoint=tmp_path / "step=9.ckpt", loader={"batch_size": 16})
    run = fit(
        selecting(**SHORTER), checkpoint=tmp_path / "epoch-14.ckpt", loader={"batch_size": 16}
    )
    assert [len(step.samples) for step in run.network.steps] == [16, 16, 1, 15]


def test_a_training_without_selection_goes_on_with_it_from_the_start_of_its_epoch(
    tmp_path: Path,
) -> None:
    trainer = pl.Trainer(max_epochs=2, callbacks=[ModelCheckpoint(tmp_path, **in_steps())], **QUIET)
    trainer.fit(Network(), DataLoader(TRAIN, BATCH))
    run = fit(selecting(**SHORTER), checkpoint=tmp_path / "step=9.ckpt")
    wanted, _ = loop(**SHORTER)
    # Without the scores of epoch 0 all is scored at epoch 1, and has been trained on for two steps more.
    assert [len(step.samples) for step in run.network.steps] == [
        len(step.samples) for step in wanted if step.epoch > 0
    ]
    assert run.network.validated == [1, 2, 3]


class Scheduled(Network):
    """Asks for the number of steps, as a learning rate's schedule does."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.estimated = self.trainer.estimated_stepping_batches
        self.planned = stepping_batches(self.trainer)
        return super().configure_optimizers()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"loader": {"drop_last": True}},
        {"max_steps": 10},
        {"max_epochs": -1, "max_steps": 10},
        {"max_epochs": 2},
        {"plan": LONGER},
        {"limit_train_batches": 3},
        {"limit_train_batches": 0.5},
        {"gathered": {0: 4, 1: 1, 2: 3}},
    ],
)
def test_stepping_batches_are_counted_before_the_training(arguments: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        others = {
            name: each for name, each in arguments.items() if name not in ("plan", "gathered")
        }
        schedules = [
            pl.callbacks.GradientAccumulationScheduler(dict(each))
            for each in (arguments.get("gathered"),)
            if each
        ]
        run = fit(
            selecting(**arguments.get("plan", SHORTER)), *schedules, network=Scheduled(), **others
        )
    assert run.network.planned == run.trainer.global_step
    told = [str(each.message) for each in caught if "stepping_batches" in str(each.message)]
    wrong = run.network.estimated != run.network.planned
    assert all(f"want stepping_batches(trainer): {run.network.planned}" in each for each in told)
    assert bool(told) or not wrong


def test_with_epochs_of_constant_length_lightnings_own_estimate_is_right() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*stepping_batches")
        run = fit(selecting(**SHORTER, epoch_length=30), network=Scheduled())
    assert run.network.estimated == run.network.planned == run.trainer.global_step == 4 * EPOCHS


class Normalised(Network):
    """With batch norm, for which averaging of the weights adds an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.insert(1, torch.nn.BatchNorm1d(8))


def averaging() -> Any:
    return pl.callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=0.5)


def test_averaged_weights_are_those_of_lightning_alone() -> None:
    sampler = SubsetSampler(N, "full", epochs=EPOCHS + 1, shuffle=False)
    run = fit(SelectionCallback(sampler), averaging(), network=Normalised())
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[averaging()], enable_checkpointing=False, **QUIET
    )
    alone = Normalised()
    trainer.fit(alone, DataLoader(TRAIN, BATCH), DataLoader(TRAIN, 25))
    assert samples(run.network.steps) == samples(alone.steps)
    assert run.network.steps[-1].epoch == EPOCHS
    assert same_weights(run.network, alone)
    assert run.trainer.global_step == trainer.global_step


def test_an_epoch_that_the_sampler_has_not_is_refused_before_the_training() -> None:
    network = Normalised()
    with pytest.raises(ValueError, match=r"got 5, one of them a callback's .*epochs=5"):
        fit(selecting(strategy="full"), averaging(), network=network)
    assert not network.steps


def test_without_validation_its_interval_is_none_of_the_epochs() -> None:
    run = fit(selecting(**SHORTER), val_check_interval=5, limit_val_batches=0)
    assert run.trainer.global_step == 21
    assert not run.network.validated


def test_limited_epochs_are_told_and_trained() -> None:
    with pytest.warns(UserWarning, match="limit_train_batches: got 2, by which epochs end"):
        run = fit(selecting(**SHORTER), limit_train_batches=2)
    assert [step.epoch for step in run.network.steps] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert fit(selecting(**SHORTER), fast_dev_run=True).trainer.global_step == 1


def test_scoring_is_in_the_trainers_precision() -> None:
    run = fit(selecting(**SHORTER), precision="bf16-mixed")
    assert {dtype for _, dtype, _ in run.network.scored} == {torch.bfloat16}
    assert fit(selecting(**SHORTER), precision="64-true").network.scored[0][1] == torch.float64


def test_the_samplers_own_score_is_called_at_refreshes() -> None:
    calls = []

    def score() -> Any:
        calls.append(None)
        return [(torch.arange(N), torch.arange(N).float())]

    run = fit(selecting(score=score, budget=0.5, refresh_every=2))
    assert len(calls) == 2
    assert {index for step in run.network.steps for index in step.samples} == set(range(25))


def test_batches_know_their_samples_and_weights() -> None:
    seen = []

    class Weighted(Network):
        def training_step(self, batch: list[Any], place: int) -> Any:
            seen.append((batch[2].tolist(), selection.batch, selection.weights))
            return super().training_step(batch, place)

    sampler = SubsetSampler(N, "importance", epochs=EPOCHS, budget=0.5)
    selection = SelectionCallback(sampler, scoring(), kind="el2n")
    # Workers have read ahead where an epoch ends early.
    with pytest.warns(UserWarning, match="limit_train_batches: got 2"):
        fit(selection, network=Weighted(), loader=WORKERS, limit_train_batches=2)
    assert sampler.weights is not None
    known = dict(zip(sampler.indices.tolist(), sampler.weights.tolist(), strict=True))
    for samples_, noted, _ in seen:
        assert samples_ == noted
    noted, weights = seen[-1][1:]
    assert weights.tolist() == [known[each] for each in noted]
    assert len(set(known.values())) > 1


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_a_batch_that_the_collator_leaves_out_shifts_no_other() -> None:
    seen = []

    class Noting(Network):
        def training_step(self, batch: list[Any], place: int) -> Any:
            seen.append((batch[2].tolist(), selection.batch))
            return super().training_step(batch, place)

    def collate(items: list[Any]) -> Any:
        batch = default_collate(items)
        return None if batch[2][0] % 3 == 0 else batch

    selection = selecting(**SHORTER)
    run = fit(selection, network=Noting(), loader={"collate_fn": collate})
    assert 4 < len(seen) < 17  # of 21 batches
    assert all(samples_ == noted for samples_, noted in seen)
    assert run.trainer.current_epoch == EPOCHS


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, made.numel())
        return made


def test_weights_of_a_batch_cost_nothing_per_sample_of_the_data_set() -> None:
    count = 10_000
    scores = torch.arange(count).double()
    sampler = SubsetSampler(
        count, "importance", budget=0.5, score=lambda: [(torch.arange(count), scores)]
    )
    selection = SelectionCallback(sampler)
    assert selection.weights.tolist() == []
    sampler.set_epoch(0)
    assert sampler.weights is not None
    chosen = [4000, 7, 4999]
    selection.batch = sampler.indices[chosen].tolist()
    with Largest() as made:
        weights = selection.weights
    assert weights.tolist() == sampler.weights[chosen].tolist()
    assert len(set(weights.tolist())) == len(chosen)
    assert made.numel == len(chosen)


def test_the_trainer_keeps_its_setting_and_the_loader_its_workers() -> None:
    asked = []

    class Data(pl.LightningDataModule):  # type: ignore[misc, name-defined]
        def train_dataloader(self) -> Any:
            asked.append(selection.loader(TRAIN, BATCH))
            return asked[-1]

        def val_dataloader(self) -> Any:
            asked.append(None)
            return DataLoader(TRAIN, N)

    selection = selecting(**SHORTER)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, callbacks=[selection], enable_checkpointing=False, **QUIET
    )
    trainer.fit(Network(), datamodule=Data())
    assert trainer.reload_dataloaders_every_n_epochs == 0
    assert asked.count(None) == 1
    made = [each for each in asked if each is not None]
    assert len(made) == EPOCHS
    assert len(set(map(id, made))) == 1
    assert selection.loader(TRAIN, BATCH, drop_last=True) is not made[0]


def test_workers_are_begun_as_lightning_or_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    seeded, own = selecting(), selecting()
    fit(seeded, max_epochs=1)
    assert seeded.loader(TRAIN, BATCH).worker_init_fn is not None
    options: dict[str, Any] = {"num_workers": 1}
    own.loader(TRAIN, BATCH, **options).worker_init_fn = lambda worker: tmp_path.joinpath(
        str(worker)
    ).touch()
    fit(own, loader=options, max_epochs=1)
    assert [each.name for each in tmp_path.iterdir()] == ["0"]


def test_trainers_of_the_old_name_take_it() -> None:
    old = pytest.importorskip("pytorch_lightning")
    assert old.Trainer is not pl.Trainer
    assert "pytorch_lightning" in sys.modules

    class Old(old.LightningModule):  # type: ignore[misc, name-defined]
        training_step = Network.training_step
        configure_optimizers = Network.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layers = Network().layers
            self.steps: list[Any] = []

        def forward(self, features: Any) -> Any:
            return self.layers(features)

    network, selection = Old(), selecting(**SHORTER)
    trainer = old.Trainer(
        max_epochs=EPOCHS, callbacks=[selection], enable_checkpointing=False, **QUIET
    )
    trainer.fit(network, selection.loader(TRAIN, BATCH))
    assert samples(network.steps) == samples(loop(**SHORTER)[0])
