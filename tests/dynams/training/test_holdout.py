"""Samples held out of training, and the losses of a network trained on them alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_runs import made_up_data, small_config

from dynams.training.checkpoint import load_checkpoint
from dynams.training.entry import train
from dynams.training.errors import NonFiniteLossError
from dynams.training.holdout import hold_out
from dynams.training.rundir import checkpoint_path

DATA = made_up_data(train=60, test=12)


def test_each_class_gives_its_share_and_nothing_is_lost():
    rest, held, kept = hold_out(DATA, 0.25, seed=3)
    for label in range(3):
        members = int((DATA.train.labels == label).sum())
        assert int((held.labels == label).sum()) == int(members * 0.25 + 0.5)
    assert len(rest.train) + len(held) == 60
    assert torch.equal(DATA.train.images[kept], rest.train.images)
    together = torch.cat([rest.train.images, held.images]).flatten(1).tolist()
    assert sorted(together) == sorted(DATA.train.images.flatten(1).tolist())
    assert (rest.mean, rest.std, len(rest.test)) == (DATA.mean, DATA.std, 12)
    again, other = hold_out(DATA, 0.25, seed=3)[2], hold_out(DATA, 0.25, seed=4)[2]
    assert torch.equal(kept, again)
    assert not torch.equal(kept, other)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_holding_out_nothing_or_everything_is_refused(fraction):
    with pytest.raises(
        ValueError, match=f"data.holdout: got {fraction} of 60 images, .*, want some of both"
    ):
        hold_out(DATA, fraction, seed=0)


def test_the_irreducible_losses_are_those_of_a_network_that_saw_the_held_out_alone(tmp_path):
    config = small_config(
        tmp_path,
        data={"holdout": 0.5},
        selection={"strategy": "rho-loss", "holdout_epochs": 12},
        optim={"epochs": 1},
    )
    given = load_checkpoint(checkpoint_path(train(config, DATA).run_dir)).given
    losses = given["irreducible_loss"]
    assert losses.shape == (29,)  # classes round up
    # It has learnt something: a guess among three would lose log 3 on the average.
    assert losses.isfinite().all()
    assert losses.median() < np.log(3)


def test_the_irreducible_losses_are_saved_before_anything_else_begins(tmp_path, monkeypatch):
    config = small_config(
        tmp_path,
        data={"holdout": 0.5},
        selection={"strategy": "rho-loss", "holdout_epochs": 2, "warmup_epochs": 0},
        optim={"epochs": 1},
    )

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, on_refresh=end)
    (run_dir,) = tmp_path.iterdir()
    saved = load_checkpoint(checkpoint_path(run_dir))
    assert saved.global_step == 0
    monkeypatch.setattr("dynams.training.loop.irreducible_losses", end)
    assert train(config, DATA, resume=run_dir).completed
    ended = load_checkpoint(checkpoint_path(run_dir)).given
    assert torch.equal(ended["irreducible_loss"], saved.given["irreducible_loss"])


def test_a_holdout_model_that_diverges_is_told(tmp_path):
    # Its losses would be NaN of every sample, and the run would train on the first of them.
    config = small_config(
        tmp_path,
        data={"holdout": 0.3},
        selection={"strategy": "rho-loss", "holdout_epochs": 3},
        optim={"epochs": 2, "lr": 50.0, "warmup": 0.0, "batch_size": 4},
    )
    with pytest.raises(NonFiniteLossError, match=r"holdout model are not finite: .* optim\.lr"):
        train(config, made_up_data(60, 30))


def test_given_scores_are_of_all_images_and_lose_those_held_out(tmp_path):
    scores = torch.arange(60.0)
    torch.save(scores, tmp_path / "scores.pt")
    config = small_config(
        tmp_path,
        data={"holdout": 0.25},
        selection={"strategy": "rho-loss", "scores": str(tmp_path / "scores.pt")},
        optim={"epochs": 2},
    )
    state = load_checkpoint(checkpoint_path(train(config, DATA).run_dir))
    kept = hold_out(DATA, 0.25, seed=0)[2]
    assert torch.equal(state.given["irreducible_loss"], scores[kept])
    assert state.cost["seconds"]["holdout model"] == 0.0


def test_given_scores_take_the_place_of_the_scoring_pass(tmp_path):
    np.save(tmp_path / "scores.npy", np.arange(60.0))
    config = small_config(
        tmp_path, selection={"strategy": "el2n", "scores": str(tmp_path / "scores.npy")}
    )
    state = load_checkpoint(checkpoint_path(train(config, DATA).run_dir))
    assert state.sampler["indices"].tolist() == list(range(24, 60))
    assert state.cost["samples"]["scoring"] == state.cost["samples"]["proxy loss"] == 0
