"""What a step trains on of its batch: the choice of a look, at either width, and what a filter replays of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_runs import StopAt, equal, log_lines, made_up_data, small_config

from dynams.report.runlog import read_run
from dynams.training.batches import ImageBatches
from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.choosing import chooser
from dynams.training.distributed import build_fabric
from dynams.training.entry import train
from dynams.training.optim import learning_rate
from dynams.training.preflight import checkpoint_bytes
from dynams.training.resolve import build_network, filter_config, resolve
from dynams.training.run import TrainingRun, build_run
from dynams.training.rundir import checkpoint_path
from dynams.training.step import TrainingStep

DATA = made_up_data(train=60, test=12)
FILTER = {"model": "resnet8", "every": 3, "ratio": 0.5}


def filtering(folder: Any, **sections: dict[str, Any]) -> Any:
    chosen = {"strategy": "filter", "options": {"filter": FILTER}, "tail": 0.25}
    return small_config(folder, **{**sections, "selection": chosen | sections.get("selection", {})})


def final(run_dir: str) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run_dir))


def largest(values: np.ndarray, size: int) -> np.ndarray:
    """The places of the largest values, ascending."""
    return np.sort(np.argsort(-values, kind="stable")[:size])


def built(config: Any) -> TrainingRun:
    resolved = resolve(config)
    fabric = build_fabric(resolved)
    fabric.launch()
    return build_run(resolved, fabric, DATA)


def errors(kind: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the largest of are kept, in float64."""
    own = logits[np.arange(len(labels)), labels]
    if kind == "loss":
        return np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - own
    if kind == "label":
        others = logits.copy()
        others[np.arange(len(labels)), labels] = -np.inf
        return others.max(1) - own
    ordered = np.sort(logits, 1)
    return ordered[:, -2] - ordered[:, -1]


@pytest.mark.parametrize("recipe", ["none", "joint", "batch_norm", "probe"])
@pytest.mark.parametrize("kind", ["loss", "gap", "label"])
def test_a_choice_is_that_of_float64_on_the_steps_own_logits(recipe, kind, tmp_path):
    name = "batch-loss" if kind == "loss" else "batch-margin"
    own = {"ratio": 0.4} | ({} if kind == "loss" else {"kind": kind})
    run = built(
        small_config(
            tmp_path,
            selection={"strategy": name, "options": {name: own}, "warmup_epochs": 0},
            proxy={"recipe": recipe, "nested": recipe == "probe"},
        )
    )
    width = 1.0 if recipe == "none" else 0.5
    assert run.selector.proxy_width == (None if recipe == "none" else 0.5)
    torch.manual_seed(0)
    run.sampler.begin_epoch(0)
    order = run.sampler.order()
    images, labels = next(run.batches.epoch(order, [(0, 16)], epoch=0))
    run.network.train()
    for parameter in run.network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # a probe's head is not the network's
    for norm in run.network.modules():  # statistics that tell of something
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    choose = chooser(run, labels, order[:16], 0, 4)
    assert choose is not None
    kept = choose(images)
    with torch.no_grad():
        logits = run.network.plain(width).eval().double()(images.double()).numpy()
    wanted = largest(errors(kind, logits, labels.numpy()), 6)  # 0.4 * 16 to the nearest
    assert kept.count == 6
    assert np.array_equal(kept.indices.numpy(), wanted)
    # The look leaves no trace.
    assert run.network.training
    assert all(torch.equal(value, before[key]) for key, value in run.network.state_dict().items())
    assert run.clock.samples["scoring"] == 16
    assert run.clock.seconds()["scoring"] > 0


def test_a_proxy_that_looks_trains_until_the_tail_and_looks_as_scoring(tmp_path):
    config = small_config(
        tmp_path, selection={"strategy": "batch-margin", "tail": 0.25}, optim={"epochs": 4}
    )
    summary = train(config, DATA)
    run, state = read_run(summary.run_dir), final(summary.run_dir)
    assert [record.samples for record in run.epochs] == [60, 32, 32, 60]  # 8 of 15 each
    assert state.cost["samples"]["proxy loss"] == 60 + 2 * 32
    assert state.cost["samples"]["scoring"] == 2 * 60
    assert summary.proxy_width == 0.5
    assert summary.proxy_accuracy is not None


@pytest.mark.parametrize("name", ["selective-backprop", "batch-importance"])
def test_what_draws_or_weighs_looks_with_the_whole_network(name, tmp_path):
    assert built(small_config(tmp_path, selection={"strategy": name})).selector.proxy_width is None


def test_norms_of_a_proxy_that_is_not_trained_are_estimated_before_each_epoch_of_looks(tmp_path):
    config = small_config(
        tmp_path,
        selection={"strategy": "batch-loss", "tail": 0.25},
        proxy={"recipe": "batch_norm", "batches": 2},
    )
    state = final(train(config, DATA).run_dir)
    assert state.cost["samples"]["proxy loss"] == 0
    assert state.cost["samples"]["scoring"] == 2 * (2 * 20 + 60)


class Witness:
    """Notes every batch that is made, and all that each network is trained on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[int, Tensor, Tensor]] = []
        self.trained: list[tuple[TrainingStep, Tensor]] = []
        make, forward = ImageBatches.epoch, TrainingStep._forward

        def epoch(batches: Any, order: Tensor, bounds: Any, *, epoch: int, **more: Any) -> Any:
            for images, labels in make(batches, order, bounds, epoch=epoch, **more):
                self.made.append((epoch, images.clone(), labels.clone()))
                yield images, labels

        def noted(step: TrainingStep, images: Tensor, part: int) -> Any:
            self.trained.append((step, images.clone()))
            return forward(step, images, part)

        monkeypatch.setattr(ImageBatches, "epoch", epoch)
        monkeypatch.setattr(TrainingStep, "_forward", noted)


def test_a_filter_trains_as_a_loop_in_float64_does_and_its_choices_are_trained_on(
    tmp_path, monkeypatch
):
    config = filtering(tmp_path)
    witness = Witness(monkeypatch)
    summary = train(config, DATA)
    # Four steps an epoch; the filter rests in the tail, the last epoch.
    first, second = witness.made[:12], witness.made[12:]
    assert [epoch for epoch, _, _ in second] == [e for e in range(4) for _ in range(4)]
    for (epoch, images, labels), again in zip(first, second[:12], strict=True):
        assert epoch == again[0]
        assert torch.equal(images, again[1])
        assert torch.equal(labels, again[2])

    network: Any = build_network(
        filter_config(config, resolve(config).selector.batch),
        (1.0,),
        channels=1,
        classes=3,
        purpose="weights of the filter",
    )
    network = network.plain(1.0).double()
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 5e-4},
        {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
    choices = []
    for step, (_, images, labels) in enumerate(first):
        with torch.no_grad():
            logits = network.eval()(images.double()).numpy()
        kept = largest(errors("loss", logits, labels.numpy()), 8)  # of 15
        choices.append(kept)
        if step % 3 == 0:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.optim, (step + 0.5) / 4 / 4)
            optimizer.zero_grad()
            nn.functional.cross_entropy(
                network.train()(images[kept].double()), labels[kept]
            ).backward()
            optimizer.step()

    filtered, main = witness.trained[:4], witness.trained[4:]
    assert len({step for step, _ in filtered}) == len({step for step, _ in main}) == 1
    for number, (_, images) in enumerate(filtered):
        assert torch.equal(images, first[3 * number][1][choices[3 * number]])
    for step, (_, images) in enumerate(main):
        batch = second[step][1]
        assert torch.equal(images, batch[choices[step]] if 4 <= step < 12 else batch)
    counts = final(summary.run_dir).cost["samples"]
    # All of both epochs that select, and in the warm-up the batches of its updates.
    assert counts["scoring"] == 2 * 60 + 2 * 15
    assert summary.seconds["scoring"] > 0


SPRINTING = {"drop_last": True, "lookahead": 2, "first_layer_epochs": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    """Directory of a run that filters and was not stopped."""
    config = filtering(tmp_path_factory.mktemp("whole"), optim=SPRINTING)
    return train(config, DATA, interrupt=StopAt()).run_dir


@pytest.mark.parametrize("question", [3, 12, 17])
def test_a_run_that_filters_ends_the_same_wherever_it_is_stopped(
    question, undisturbed, tmp_path, monkeypatch
):
    config = filtering(tmp_path, optim=SPRINTING)
    stopped = train(config, DATA, interrupt=StopAt(question))
    assert not stopped.completed
    state = final(stopped.run_dir).batch_strategy
    assert (state["choices"] is None) == (question <= 9)  # its own training asks 9 times
    if question > 9:  # nothing is trained again
        monkeypatch.setattr("dynams.training.loop.filter_choices", None)
    resumed = train(config, DATA, resume=stopped.run_dir, interrupt=StopAt())
    assert resumed.completed
    ours, wanted = final(resumed.run_dir), final(undisturbed)
    for entry in ("model", "optimizer", "sampler", "sums", "batch_strategy", "accuracy"):
        assert equal(getattr(ours, entry), getattr(wanted, entry)), entry
    assert log_lines(resumed.run_dir) == log_lines(undisturbed)


def test_more_epochs_than_a_filter_knows_train_it_again(tmp_path):
    config = filtering(tmp_path, selection={"tail": 0.0}, optim={"epochs": 2})
    run_dir = train(config, DATA).run_dir
    assert final(run_dir).batch_strategy["choices"].shape == (1, 60)
    longer = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=3))
    assert train(longer, DATA, resume=run_dir).completed
    assert final(run_dir).batch_strategy["choices"].shape == (2, 60)


def test_room_for_the_choices_is_asked_for_beforehand(tmp_path):
    look = {"selection": {"strategy": "batch-loss"}, "proxy": {"recipe": "none"}}
    without = checkpoint_bytes(built(small_config(tmp_path, **look)))
    assert checkpoint_bytes(built(filtering(tmp_path))) == without + 2 * 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet9"}, r"^selection\.options\.filter\.model: got 'resnet9', want one of"),
        ({"depth": 4}, r"^selection\.options\.filter\.depth: got 4, want at most 3"),
        ({}, r"^data\.image_size: got images of 8 x 8 .* selection\.options\.filter\.model=sprint"),
    ],
)
def test_a_small_network_that_cannot_be_had_is_refused_by_its_option(options, message, tmp_path):
    chosen = {"strategy": "filter", "options": {"filter": options}}
    with pytest.raises(ValueError, match=message):
        train(small_config(tmp_path, selection=chosen), DATA)


def test_several_processes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^run\.devices: got 2, want 1 with .*filter"):
        resolve(filtering(tmp_path, run={"devices": 2}))


@pytest.mark.parametrize(("drop_last", "dynamic"), [(True, False), (False, None)])
def test_steps_of_one_size_are_compiled_for_each_of_their_shapes(
    drop_last, dynamic, tmp_path, monkeypatch
):
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda module, **how: asked.append(how) or module)
    config = filtering(tmp_path, optim={"drop_last": drop_last}, run={"compile": True})
    assert train(config, DATA).completed
    assert asked == [{"dynamic": dynamic}] * 2  # of the run and of the filter
