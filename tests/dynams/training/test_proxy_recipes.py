"""Cheaper proxies: what each recipe trains, estimates and scores, and what that counts."""

from __future__ import annotations

import re

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from training_runs import made_up_data, made_up_images, small_config

from dynams.data import Augmentation, ImageSet
from dynams.models import build_model
from dynams.report.runlog import read_run
from dynams.slimmable import SlimmableNetwork, convert
from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.training.batches import ImageBatches
from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.config import TrainConfig
from dynams.training.entry import train
from dynams.training.proxy_norms import reestimate_norms
from dynams.training.rundir import checkpoint_path

DATA = made_up_data()
FABRIC = Fabric(accelerator="cpu")


def batches_of(images: ImageSet) -> ImageBatches:
    still = Augmentation(crop_padding=0, flip=False)
    return ImageBatches(images, torch.device("cpu"), (0.4,), (0.3,), still)


def final(run_dir: str) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run_dir))


def network() -> SlimmableNetwork:
    made = build_model(
        "resnet8", 3, in_channels=1, base_channels=6, generator=torch.Generator().manual_seed(3)
    )
    for norm in made.modules():
        if isinstance(norm, SwitchableBatchNorm):
            torch.nn.init.uniform_(norm.at(1.0).weight, 0.5, 1.5)
    return made


def test_estimated_norms_have_the_full_widths_scales_and_the_slim_widths_statistics():
    images = made_up_images(24, seed=4)
    module = network().train()
    places = torch.tensor([3, 1, 20, 7, 9, 11, 0, 5])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    reestimate_norms(FABRIC, module, batches_of(images), places, width=0.5, batch_size=8)
    stem = module.network.stem.norm
    slim, full = stem.at(0.5), stem.at(1.0)
    assert torch.equal(slim.weight, full.weight[:3])
    assert slim.weight is not full.weight
    # By hand: the slim stem's convolution of the one batch.
    batch = (images.images[places].float() / 255 - 0.4) / 0.3
    with torch.no_grad():
        maps = nn.functional.conv2d(batch, module.network.stem.conv.weight[:3], padding=1)
    torch.testing.assert_close(slim.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(slim.running_var, maps.var((0, 2, 3)))
    assert slim.momentum == full.momentum == 0.1
    assert module.training
    changed = {name for name, value in module.state_dict().items() if not value.equal(before[name])}
    assert changed
    assert all("width_0_5" in name for name in changed)
    # Once more gives the same: nothing of the estimate before is left.
    once = {name: value.clone() for name, value in module.state_dict().items()}
    reestimate_norms(FABRIC, module, batches_of(images), places, width=0.5, batch_size=8)
    assert all(value.equal(once[name]) for name, value in module.state_dict().items())


class Branches(nn.Module):
    """Normalises a concatenation: its slim width keeps the first channels of each part."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(6, affine=True)
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.dropout = nn.Dropout(0.5)
        self.mix = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        both = torch.cat([self.left(images), self.right(images)], 1)
        return self.head(self.mix(self.dropout(self.plain(self.norm(both)))).mean((2, 3)))


def test_norms_of_a_converted_network_take_the_channels_that_the_width_keeps():
    model = Branches()
    nn.init.uniform_(model.norm.weight, 0.5, 1.5)
    module = convert(model, (0.5, 1.0)).train()
    images, places = made_up_images(8, seed=1), torch.arange(8)
    before = torch.get_rng_state()
    reestimate_norms(FABRIC, module, batches_of(images), places, width=0.5, batch_size=8)
    assert torch.equal(torch.get_rng_state(), before)  # dropout is off
    kept = [0, 1, 4]
    slim = module.network.norm.at(0.5)
    assert torch.equal(slim.weight, model.norm.weight[kept])
    batch = (images.images.float() / 255 - 0.4) / 0.3
    with torch.no_grad():
        maps = torch.cat([model.left(batch), model.right(batch)], 1)[:, kept]
    torch.testing.assert_close(slim.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(slim.running_var, maps.var((0, 2, 3)))
    assert slim.momentum == 0.1
    assert all(each.training for each in module.modules())


def test_batch_norm_trains_no_proxy_and_counts_its_estimates_as_scoring(tmp_path):
    config = small_config(tmp_path, proxy={"recipe": "batch_norm", "batches": 2})
    summary = train(config, DATA)
    state, run = final(summary.run_dir), read_run(summary.run_dir)
    assert state.cost["samples"]["proxy loss"] == 0
    assert all(record.proxy_loss is None for record in run.epochs)
    assert state.cost["samples"]["scoring"] == 3 * (2 * 20 + 50)
    assert summary.proxy_width == 0.5
    slim = state.model["network.stem.norm.width_0_5.weight"]
    assert not slim.eq(1.0).all()  # the full width's, as of the last refresh
    assert state.model["network.stem.norm.width_0_5.num_batches_tracked"] == 2


def test_none_scores_with_the_whole_network_and_has_no_proxy(tmp_path):
    summary = train(small_config(tmp_path, proxy={"recipe": "none"}), DATA)
    same = train(small_config(tmp_path, proxy={"width": 1.0}), DATA)
    assert summary.proxy_width is None
    ours, theirs = final(summary.run_dir), final(same.run_dir)
    assert torch.equal(ours.sampler["indices"], theirs.sampler["indices"])
    assert not any("width_0_5" in name for name in ours.model)


@pytest.mark.parametrize("recipe", ["joint", "distill"])
def test_a_share_of_the_batch_is_what_the_proxy_trains_on(recipe, tmp_path):
    config = small_config(tmp_path, proxy={"recipe": recipe, "share": 0.5, "every": 2})
    state = final(train(config, DATA).run_dir)
    # Steps 0, 2, 4 and 6 of 10: two of 13 or 12 samples, then one of 15 each epoch; the last rests.
    assert state.cost["samples"]["proxy loss"] == 6 + 6 + 8 + 8


def test_free_scores_are_of_the_last_visit_and_only_the_others_are_scored(tmp_path):
    sections = {"selection": {"free": True, "max_age": 1}, "proxy": {"recipe": "none"}}
    config = small_config(tmp_path, **sections)
    summary = train(config, DATA)
    state = final(summary.run_dir)
    # Epoch 1 follows one on everything; epochs 2 and 3 follow ones on 30 of 50.
    assert state.cost["samples"]["scoring"] == 0 + 20 + 20
    assert summary.seconds["scoring"] > 0
    assert len(state.sampler["indices"]) == 30
    scores, visits = state.sampler["scores"]["gap"]["margins"], state.visits
    visited_before_the_last = visits["epochs"] == 3
    assert torch.equal(scores[visited_before_the_last], visits["gap"][visited_before_the_last])
    assert scores.isfinite().all()


def test_the_age_limit_decides_what_is_scored_again(tmp_path):
    def scored(max_age: int) -> int:
        config = small_config(
            tmp_path,
            selection={"free": True, "max_age": max_age, "options": {"margin": {"ties": "random"}}},
            proxy={"recipe": "none"},
        )
        return final(train(config, DATA).run_dir).cost["samples"]["scoring"]

    # With no limit, what the warm-up saw is never scored again.
    assert scored(3) == 0
    assert 0 < scored(2) < scored(1) == 40


def test_a_tail_trains_on_everything_and_its_proxy_rests(tmp_path):
    summary = train(small_config(tmp_path, selection={"tail": 0.5}), DATA)
    run = read_run(summary.run_dir)
    assert [record.samples for record in run.epochs] == [50, 30, 50, 50]
    assert [record.budget for record in run.epochs] == [1.0, 0.6, 1.0, 1.0]
    assert [record.proxy_loss is None for record in run.epochs] == [False, True, True, True]
    assert [refresh.epoch for refresh in run.refreshes] == [1, 2]
    assert final(summary.run_dir).cost["samples"]["scoring"] == 50


NESTED = {"nested": True, "weight": 0.5}


@pytest.mark.parametrize("recipe", ["joint", "distill", "probe"])
def test_a_nested_proxy_trains_and_its_absent_weights_stay_zero(recipe, tmp_path):
    config = small_config(tmp_path, proxy={**NESTED, "recipe": recipe})
    summary = train(config, DATA)
    state = final(summary.run_dir).model
    assert summary.proxy_width == 0.5
    assert not any("width_0_5" in name for name in state)
    weight = state["network.stages.2.0.body.1.conv.weight"]
    assert not weight[:8, 8:].any()
    assert weight[8:].all()
    assert all(record.proxy_loss is not None for record in read_run(summary.run_dir).epochs[:2])


@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        ({"recipe": "none"}, "proxy.recipe: got none, want joint, distill or probe"),
        ({"recipe": "batch_norm"}, "proxy.recipe: got batch_norm, want joint, distill or probe"),
        ({"width": 1.0}, "proxy.width: got 1.0, want less"),
        ({"share": 0.5}, "proxy.share: got 0.5, want 1"),
        ({"nested": False, "recipe": "probe"}, "proxy.nested: got False, want True with"),
    ],
)
def test_what_a_nested_proxy_cannot_be_is_refused(proxy, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        TrainConfig.from_dict({"proxy": {"nested": True, **proxy}})


def test_a_network_of_your_own_is_nested_where_it_can_be(tmp_path):
    config = small_config(tmp_path, proxy=NESTED)
    model = Branches()
    train(config, DATA, model=model)
    # Outputs 0 and 1 of the first convolution after the norms are slim, inputs 2, 3 and 5 are not.
    assert not model.mix.weight[:2][:, [2, 3, 5]].any()
    assert model.mix.weight[2:].all()
    with pytest.raises(ValueError, match="model: got a slimmable network with nested=False"):
        train(config, DATA, model=convert(Branches(), (0.5, 1.0)))


def test_a_probe_changes_nothing_of_the_network(tmp_path):
    def state(weight: float) -> dict[str, torch.Tensor]:
        proxy = {**NESTED, "recipe": "probe", "weight": weight}
        # Chosen once, before the first step: by what the probe began with.
        once = {"dynamic": False, "warmup_epochs": 0}
        return final(train(small_config(tmp_path, proxy=proxy, selection=once), DATA).run_dir).model

    one, other = state(0.1), state(1.0)
    different = {name for name, value in one.items() if not torch.equal(value, other[name])}
    assert different <= {"own_head.weight", "own_head.bias"}
