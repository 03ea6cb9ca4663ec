"""Whole runs of `train` on a user's own network and Datasets, against those on our own."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from own_networks import Scaled, TimmResNet, ViT
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset
from training_runs import StopAt, equal, log_lines, made_up_data, small_config

from children import plain_environment
from dynams.data import DatasetData, normalise
from dynams.models import build_model
from dynams.report.runlog import read_run
from dynams.slimmable import convert
from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.entry import train
from dynams.training.errors import ResumeError
from dynams.training.rundir import checkpoint_path, resume_command

DATA = made_up_data()
PLAIN = {"augment": False}
UNTOUCHED = {"recipe": "none"}


def final(run_dir: str) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run_dir))


def assert_same_end(ours: str, theirs: str) -> None:
    mine, wanted = final(ours), final(theirs)
    for name in ("model", "optimizer", "sampler", "sums", "accuracy", "best_accuracy"):
        assert equal(getattr(mine, name), getattr(wanted, name)), name


class Floats(Dataset):
    """The made-up images, normalised as in memory; not known to be tensors."""

    def __init__(self, images) -> None:
        self.pixels = normalise(images.images, DATA.mean, DATA.std)
        self.targets = images.labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.pixels[index], self.targets[index]


class Varied(Floats):
    """With transforms that draw from all three generators."""

    def __getitem__(self, index: int):
        image, label = super().__getitem__(index)
        if random.random() < 0.5:
            image = image.flip(-1)
        image = image * np.random.uniform(0.8, 1.2)
        return (image + 0.1 * torch.randn(image.shape)).float(), label


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory) -> str:
    return train(small_config(tmp_path_factory.mktemp("memory"), data=PLAIN), DATA).run_dir


@pytest.mark.parametrize("workers", [0, 2])
def test_datasets_train_as_the_same_images_in_memory(workers: int, tmp_path, in_memory) -> None:
    config = small_config(tmp_path, data={"workers": workers})
    state = torch.get_rng_state(), random.getstate()
    summary = train(config, (Floats(DATA.train), Floats(DATA.test)))
    assert summary.completed
    assert_same_end(summary.run_dir, in_memory)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_tensors_and_bytes_are_datasets_too(tmp_path, in_memory) -> None:
    floats = [TensorDataset(Floats(part).pixels, part.labels) for part in (DATA.train, DATA.test)]
    assert_same_end(train(small_config(tmp_path), floats).run_dir, in_memory)
    held = small_config(
        tmp_path,
        data={"holdout": 0.3},
        selection={"strategy": "rho-loss", "holdout_epochs": 1},
    )
    parts = [TensorDataset(part.images, part.labels) for part in (DATA.train, DATA.test)]
    assert train(held, parts).completed


def test_the_report_shows_pictures_of_datasets(tmp_path) -> None:
    parts = [TensorDataset(part.images, part.labels) for part in (DATA.train, DATA.test)]
    summary = train(small_config(tmp_path, run={"report": True}), parts)
    page = (tmp_path / summary.run_dir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 32


def test_gradients_of_before_have_no_part_in_the_first_step(tmp_path) -> None:
    def trained(stale: float) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        model[1].weight.grad = torch.full_like(model[1].weight, stale)
        config = small_config(
            tmp_path, proxy=UNTOUCHED, optim={"epochs": 1}, selection={"strategy": "full"}
        )
        train(config, DATA, model=model)
        return model[1].weight.detach()

    assert torch.equal(trained(1.0), trained(0.0))


def test_random_transforms_are_the_same_with_workers_and_after_a_stop(tmp_path) -> None:
    data = DatasetData(Varied(DATA.train), Floats(DATA.test), scored=Floats(DATA.train))
    whole = train(small_config(tmp_path / "whole", data={"workers": 0}), data)
    stopped = train(
        small_config(tmp_path / "parts", data={"workers": 2}), data, interrupt=StopAt(11)
    )
    at = final(stopped.run_dir)
    assert not stopped.completed
    assert at.step > 0
    resumed = train(
        small_config(tmp_path / "parts", data={"workers": 1}), data, resume=stopped.run_dir
    )
    assert_same_end(resumed.run_dir, whole.run_dir)
    ours, theirs = log_lines(resumed.run_dir), log_lines(whole.run_dir)
    assert ours[1:] == theirs[1:]


def test_what_datasets_decide_by_themselves_is_refused(tmp_path) -> None:
    pair = (Floats(DATA.train), Floats(DATA.test))
    wrong = {"flip": True, "crop_size": 4, "limit": 3, "augment": False, "classes": ["1", "2"]}
    wrong |= {"flips": "alternating", "pad": "reflect", "cutout": 2}
    for name, value in wrong.items():
        with pytest.raises(
            ValueError, match=re.escape(f"data.{name}: got {value} with Datasets of your own")
        ):
            train(small_config(tmp_path, data={name: value}), pair)
    with pytest.raises(ValueError, match=r"run\.test_views: got 2 with Datasets of your own"):
        train(small_config(tmp_path, run={"test_views": 2}), pair)
    with pytest.raises(ValueError, match=r"data\.workers: got 2 for images in memory"):
        train(small_config(tmp_path, data={"workers": 2}), DATA)
    for shape in ((64,), (8, 8, 3)):
        other = TensorDataset(torch.zeros(50, *shape), DATA.train.labels)
        with pytest.raises(ValueError, match=r"items of shape .*, want \(C, H, W\)"):
            train(small_config(tmp_path), (other, other))
    with pytest.raises(ValueError, match=r"data\.train: got 1 images, want at least 2"):
        train(small_config(tmp_path), (Subset(pair[0], [0]), pair[1]))


def test_an_own_network_with_a_proxy_trains_and_has_the_weights(tmp_path) -> None:
    torch.manual_seed(0)
    model = TimmResNet(drop_rate=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    summary = train(small_config(tmp_path), DATA, model=model)
    assert summary.proxy_width == 0.5
    assert summary.accuracy > 0.6
    trained = convert(model, (0.5, 1.0)).state_dict()
    state = final(summary.run_dir).model
    full = {name for name in state if "width_0_5" not in name}
    assert all(torch.equal(trained[name], state[name]) for name in full)
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Counting(TimmResNet):
    """With a part that no forward uses, and buffers that training changes, one of them never saved."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(16, 3)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.steps += 1
            self.mean.lerp_(self.conv1(x).detach().mean((0, 2, 3)), 0.1)
        return super().forward(x)


def test_what_a_network_keeps_besides_comes_back_too(tmp_path) -> None:
    model = Counting()
    unused = model.auxiliary.weight.detach().clone()
    config = small_config(tmp_path, optim={"epochs": 2})
    state = final(train(config, DATA, model=model).run_dir)
    assert model.steps >= state.global_step
    assert model.mean.abs().sum() > 0
    assert torch.equal(model.mean, state.model["network.mean"])
    assert torch.equal(model.auxiliary.weight, unused)


@pytest.mark.parametrize(
    ("recipe", "make"), [("distill", TimmResNet), ("batch_norm", TimmResNet), ("joint", ViT)]
)
def test_the_other_recipes_take_an_own_network(recipe: str, make, tmp_path) -> None:
    config = small_config(tmp_path, proxy={"recipe": recipe, "batches": 2}, optim={"epochs": 2})
    summary = train(config, DATA, model=make())
    assert summary.proxy_width == 0.5
    if recipe == "batch_norm":
        state = final(summary.run_dir).model
        scale = state["network.bn1.width_0_5.weight"]
        assert not scale.eq(1.0).all()


def test_estimates_of_batch_norms_need_some(tmp_path) -> None:
    config = small_config(tmp_path, proxy={"recipe": "batch_norm"})
    with pytest.raises(
        ValueError, match=r"proxy\.recipe: got batch_norm, want joint or distill: ViT"
    ):
        train(config, DATA, model=ViT())


class Hidden(nn.Module):
    """One of our networks as nobody knows it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, images):
        return self.inner(images)


def test_an_untouched_network_is_trained_in_place_as_ours_is(tmp_path) -> None:
    known = build_model("resnet8", 3, widths=(1.0,), in_channels=1, base_channels=4)
    hidden = Hidden(known.plain(1.0))
    config = small_config(tmp_path, proxy=UNTOUCHED, selection={"strategy": "random"})
    train(config, DATA, model=known)
    train(config, DATA, model=hidden)
    expected = known.plain(1.0).state_dict()
    for name, value in hidden.inner.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(
    "selection",
    [
        {"strategy": "margin"},
        {"strategy": "craig"},
        {"strategy": "margin", "options": {"margin": {"kind": "distance"}}},
        {"strategy": "selective-backprop"},
    ],
    ids=["margin", "features", "distance", "in the batch"],
)
def test_a_transformer_trains_untouched_with_every_kind_of_strategy(selection, tmp_path) -> None:
    torch.manual_seed(0)
    model = ViT()
    hooks: list[int] = []
    model.head.register_forward_hook(lambda *_: hooks.append(1))
    config = small_config(tmp_path, proxy=UNTOUCHED, selection=selection, optim={"epochs": 2})
    state = torch.get_rng_state()
    summary = train(config, DATA, model=model)
    assert summary.completed
    assert summary.proxy_width is None
    assert hooks
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    saved = final(summary.run_dir).model
    assert all(
        torch.equal(saved[f"network.{name}"], value) for name, value in model.state_dict().items()
    )
    assert len(model.head._forward_hooks) == 1
    assert not model.head._forward_pre_hooks


def test_a_network_is_left_as_it_was_but_for_its_weights(tmp_path) -> None:
    model = ViT().eval()
    before = {each: (set(vars(each)), len(each._forward_hooks)) for each in model.modules()}
    train(small_config(tmp_path, proxy=UNTOUCHED, optim={"epochs": 1}), DATA, model=model)
    assert not any(each.training for each in model.modules())
    after = {each: (set(vars(each)), len(each._forward_hooks)) for each in model.modules()}
    assert after == before
    assert all(each.grad is None for each in model.parameters())


def test_a_parameter_without_values_that_nothing_uses_is_no_divergence(tmp_path) -> None:
    model = ViT()
    model.spare = nn.Parameter(torch.full((3,), torch.nan))
    summary = train(small_config(tmp_path, proxy=UNTOUCHED, optim={"epochs": 1}), DATA, model=model)
    assert summary.completed
    assert bool(model.spare.isnan().all())


def test_dropout_is_the_same_after_a_stop(tmp_path) -> None:
    def model() -> nn.Module:
        torch.manual_seed(3)
        return ViT()

    sections = {"proxy": UNTOUCHED, "optim": {"epochs": 3}}
    whole = train(small_config(tmp_path / "whole", **sections), DATA, model=model())
    config = small_config(tmp_path / "parts", **sections)
    stopped = train(config, DATA, model=model(), interrupt=StopAt(11))
    assert final(stopped.run_dir).step > 0
    torch.manual_seed(99)  # whatever the process draws elsewhere
    other = ViT()
    resumed = train(config, DATA, model=other, resume=stopped.run_dir)
    assert_same_end(resumed.run_dir, whole.run_dir)


def test_without_a_head_logits_score_and_features_are_refused(tmp_path) -> None:
    config = small_config(tmp_path, proxy=UNTOUCHED, optim={"epochs": 2})
    assert train(config, DATA, model=Scaled()).completed
    config = small_config(tmp_path, proxy=UNTOUCHED, selection={"strategy": "craig"})
    with pytest.raises(ValueError, match=r"model: got Scaled, .*: craig needs features"):
        train(config, DATA, model=Scaled())


def test_an_interrupted_run_gives_the_weights_back_too(tmp_path) -> None:
    model = TimmResNet()
    before = model.fc.weight.detach().clone()
    stopped = train(small_config(tmp_path), DATA, model=model, interrupt=StopAt(3))
    assert not stopped.completed
    assert not torch.equal(model.fc.weight, before)
    assert torch.equal(model.fc.weight, final(stopped.run_dir).model["network.fc.weight"])


def test_a_first_layer_that_came_to_rest_trains_again_afterwards(tmp_path) -> None:
    def model() -> ViT:
        torch.manual_seed(3)
        made = ViT()
        made.cls_token.requires_grad_(False)  # of the first module too, and the user's own choice
        return made

    def trained(made: ViT) -> list[str]:
        return [name for name, each in made.named_parameters() if each.requires_grad]

    sections = {"proxy": UNTOUCHED, "optim": {"epochs": 3, "first_layer_epochs": 1}}
    whole = train(small_config(tmp_path / "whole", **sections), DATA, model=model())
    config, ours = small_config(tmp_path / "parts", **sections), model()
    before = trained(ours)
    stopped = train(config, DATA, model=ours, interrupt=StopAt(11))
    assert final(stopped.run_dir).epoch == 1
    assert trained(ours) == before
    assert_same_end(train(config, DATA, model=ours, resume=stopped.run_dir).run_dir, whole.run_dir)
    assert trained(ours) == before


def test_another_architecture_is_refused_on_resume(tmp_path) -> None:
    config = small_config(tmp_path, proxy=UNTOUCHED)
    stopped = train(config, DATA, model=Scaled(), interrupt=StopAt(3))
    with pytest.raises(ResumeError, match=r"model: got ViT, want the network that the run began"):
        train(config, DATA, model=ViT(), resume=stopped.run_dir)
    with pytest.raises(
        ResumeError, match=r"model: got none, want the network that the run began"
    ) as caught:
        train(config, DATA, resume=stopped.run_dir)
    assert len(str(caught.value)) < 400  # not the name of every tensor


def test_a_slimmable_network_is_trained_as_it_is_and_left_without_hooks(tmp_path) -> None:
    model = convert(TimmResNet(), (0.5, 1.0))
    train(small_config(tmp_path, optim={"epochs": 2}), DATA, model=model)
    assert not model._logits_hooks
    with pytest.raises(ValueError, match=r"model: got one of widths \(0\.5, 1\.0\), want 0\.75"):
        train(small_config(tmp_path, proxy={"width": 0.75}), DATA, model=model)


def test_the_run_is_told_what_was_given(tmp_path, capsys) -> None:
    config = small_config(
        tmp_path,
        proxy=UNTOUCHED,
        optim={"epochs": 1},
        run={"progress": True, "report": True},
    )
    model = ViT()
    parts = [TensorDataset(part.images, part.labels) for part in (DATA.train, DATA.test)]
    summary = train(config, parts, model=model)
    count = sum(each.numel() for each in model.parameters())
    told = " ".join(capsys.readouterr().err.split())
    assert f"model: given, ViT, {count:,} parameters" in told
    page = (tmp_path / summary.run_dir / "report.html").read_text()
    assert "given, ViT" in page
    assert "resnet8" not in page.partition("<body")[2].partition("<h2")[0]


def test_two_processes_train_an_own_network_as_one_and_a_lost_one_is_named(tmp_path) -> None:
    script = Path(__file__).with_name("own_run_of_two.py")
    path = os.pathsep.join([str(script.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env=plain_environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (first, samples), (second, others) = (torch.load(file) for file in tmp_path.glob("*.pt"))
    assert samples == others == 50 + 30
    assert equal(first, second)
    assert first["table"].tolist() == torch.tensor([0.1, 0.7]).tolist()
    for line, folder, how in zip(
        (tmp_path / "said").read_text().splitlines(),
        ("failed", "killed"),
        ("failed", "was killed by SIGKILL"),
        strict=True,
    ):
        (run_dir,) = (tmp_path / folder).iterdir()
        resume = f"resume with: {resume_command(run_dir)}"
        assert line == f"LostProcessError: process 1 {how}; {resume}"
        end = read_run(run_dir).summary
        assert end is not None
        assert end.failure == f"process 1 {how}; {resume}"


class CastBack(nn.Module):
    """Casts back to what it was given; tells what that was whenever its Python runs."""

    seen: ClassVar[list[torch.dtype]] = []

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).mean((2, 3))
        self.seen.append(features.dtype)
        return self.head(features.float().square().to(features.dtype))


def test_a_network_is_converted_under_the_precision_that_it_trains_in(tmp_path: Path) -> None:
    config = small_config(tmp_path, run={"precision": "bf16-mixed"}, data=PLAIN)
    train(config, DATA, model=CastBack())
    assert set(CastBack.seen) == {torch.bfloat16}
