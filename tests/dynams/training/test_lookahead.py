"""Slow weights against their formula in float64, in a plain loop and in runs that stop anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_runs import StopAt, equal, made_up_data, small_config

from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.entry import train
from dynams.training.lookahead import Lookahead
from dynams.training.rundir import checkpoint_path

DATA = made_up_data()


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    model[2].weight.requires_grad_(False)
    return model


def values(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: each.numpy().copy() for name, each in model.state_dict().items()}


@given(every=st.integers(1, 7), steps=st.integers(1, 20), seed=st.integers(0, 9))
def test_slow_weights_follow_ever_more_slowly_and_are_taken_at_the_end(every, steps, seed):
    model, random = network(), np.random.default_rng(seed)
    lookahead = Lookahead(model, every)
    frozen = model[2].weight.clone()
    slow = values(model)
    for step in range(1, steps + 1):
        with torch.no_grad():
            for name, each in model.state_dict().items():
                if name != "2.weight":
                    each.add_(torch.from_numpy(random.normal(size=each.shape)).to(each.dtype))
        fast = values(model)
        lookahead.after_step(step, step / steps)
        wanted = fast
        if step % every == 0:
            keeps = 0.95**every * (step / steps) ** 3
            slow = {name: keeps * slow[name] + (1 - keeps) * fast[name] for name in fast}
            wanted = slow
        if step == steps:
            wanted = slow
        for name, each in values(model).items():
            if name.endswith("num_batches_tracked"):
                np.testing.assert_array_equal(each, fast[name])
            elif name != "2.weight":
                np.testing.assert_allclose(each, wanted[name], rtol=1e-12, atol=1e-12)
    assert torch.equal(model[2].weight, frozen)


def test_a_state_goes_on_and_another_networks_is_refused_whole():
    first, second = network(), network()
    ours, theirs = Lookahead(first, 2), Lookahead(second, 2)
    theirs.load_state_dict(ours.state_dict())
    assert equal(theirs.state_dict(), ours.state_dict())
    before = ours.state_dict()
    assert set(ours.buffers()) == {"1.running_mean", "1.running_var"}
    for state in ({}, before | {"other": torch.zeros(1)}, before | {"0.bias": torch.zeros(5)}):
        with pytest.raises(ValueError, match=r"^lookahead: got .* of shape .*, want "):
            ours.load_state_dict(state)
    assert equal(ours.state_dict(), before)
    with pytest.raises(ValueError, match=r"^every: got 0"):
        Lookahead(first, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_device():
    lookahead = Lookahead(network().cuda(), 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 5):
            lookahead.after_step(step, step / 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def final(run_dir: str | Path) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run_dir))


# Steps of 16 samples, of 50, then of 30: what is left over is not trained on.
SPRINT = {
    "selection": {"strategy": "random"},
    "proxy": {"recipe": "none"},
    "optim": {
        "epochs": 3,
        "lookahead": 2,
        "drop_last": True,
        "first_layer_epochs": 1,
        "bias_lr": 4.0,
        "decay_norm_bias": True,
        "schedule": "linear",
        "initial_lr": 0.2,
    },
    "run": {"evaluate_every": 3},
}


def test_a_run_ends_with_the_slow_weights_and_resumes_exactly_from_any_step(tmp_path):
    counter = StopAt()
    reference = final(
        train(small_config(tmp_path / "whole", **SPRINT), DATA, interrupt=counter).run_dir
    )
    assert reference.global_step == 3 + 1 + 1
    assert reference.samples == 5 * 16
    for name, slow in reference.lookahead.items():
        assert torch.equal(reference.model[name], slow), name
    for question in range(1, counter.asked + 1):
        config = small_config(tmp_path / str(question), **SPRINT)
        stopped = train(config, DATA, interrupt=StopAt(question))
        assert not stopped.completed
        resumed = final(train(config, DATA, resume=stopped.run_dir).run_dir)
        for part in ("model", "optimizer", "lookahead", "sampler", "sums", "samples"):
            assert equal(getattr(resumed, part), getattr(reference, part)), part


def test_a_checkpoint_from_before_lookahead_goes_on(tmp_path):
    config = small_config(tmp_path)
    reference = final(train(config, DATA).run_dir)
    path = checkpoint_path(train(config, DATA, interrupt=StopAt(9)).run_dir)
    saved = torch.load(path, weights_only=True)
    assert saved.pop("lookahead") == {}
    for group in saved["optimizer"]["param_groups"]:
        del group["lr_factor"]
    for name in ("lookahead", "drop_last", "first_layer_epochs", "bias_lr", "schedule"):
        del saved["config"]["optim"][name]
    saved["format"] = 2  # without a seal, so that it can be written here
    torch.save(saved, path)
    resumed = final(train(config, DATA, resume=path.parents[1]).run_dir)
    assert equal(resumed.model, reference.model)
