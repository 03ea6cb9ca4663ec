"""Steps that are too small name the setting that makes them so, before the run where it can be known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from training_runs import equal, made_up_data, small_config

from dynams.report.runlog import read_run
from dynams.training.entry import train
from dynams.training.step_sizes import check_steps

DATA = made_up_data()
# Maps of 1 x 1 behind the stem, for pictures of 8 x 8.
IMAGENET = {"stem": "imagenet"}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"selection": {"budget": 0.01}},
            r"selection\.budget: got 0\.01, want at least 0\.04: epoch 2 has 1 sample, in",
        ),
        # 50 samples are even in steps of at most 2; the 25 of a selection are not.
        (
            {"optim": {"batch_size": 2}, "selection": {"budget": 0.5}},
            r"optim\.batch_size: got 2, want at least 4: .*, which leaves 1 for a step of a process",
        ),
        (
            {"optim": {"batch_size": 32, "drop_last": True}},
            r"optim\.batch_size: got 32 with optim\.drop_last, want at most 30: epoch 2 has 30 samples",
        ),
    ],
    ids=["one selected", "an odd selection", "no full step"],
)
def test_a_step_of_one_sample_is_refused_where_the_network_cannot_take_it(tmp_path, sections, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        train(small_config(tmp_path, model=IMAGENET, **sections), DATA)
    assert list(tmp_path.iterdir()) == []


def test_a_step_of_one_sample_is_taken_where_the_network_can(tmp_path):
    config = small_config(tmp_path, selection={"budget": 0.01}, optim={"epochs": 2})
    summary = train(config, DATA)
    assert (summary.completed, summary.samples) == (True, 51)


def own_network(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), norm, nn.Linear(6, 3))


@pytest.mark.parametrize("kept", [True, False], ids=["running statistics", "none"])
def test_a_step_of_one_sample_is_refused_for_a_network_of_ones_own(tmp_path, kept):
    norm = nn.BatchNorm1d(6, track_running_stats=kept)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    config = small_config(tmp_path, selection={"budget": 0.01}, proxy={"recipe": "none"})
    with pytest.raises(ValueError, match=r"^selection\.budget: got 0\.01, want at least 0\.04"):
        train(config, DATA, model=own_network(norm))
    assert equal(norm.state_dict(), before)
    resting = own_network(nn.BatchNorm1d(6).eval())
    assert train(config, DATA, model=resting).completed


class OfTheThird(nn.Module):
    """A batch-norm of a third of the batch only, which nothing but a step shows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, features: Tensor) -> Tensor:
        third = len(features) // 3 if self.training else len(features)
        return torch.cat([self.norm(features[:third]), features[third:]])


def test_what_only_a_step_shows_is_named_there_and_the_run_has_its_end(tmp_path):
    config = small_config(
        tmp_path,
        selection={"budget": 0.08, "strategy": "random"},
        proxy={"recipe": "none"},
    )
    with pytest.raises(ValueError, match=r"^optim\.batch_size: .* raise .*selection\.budget$"):
        train(config, DATA, model=own_network(OfTheThird()))
    (run_dir,) = tmp_path.iterdir()
    end = read_run(run_dir).summary
    assert end is not None
    assert (end.completed, end.epochs) == (False, 1)


@pytest.mark.parametrize(
    ("batch_size", "size", "said"),
    [
        (32, 1, r"selection\.budget: got 0\.6, want at least 0\.04: .* each process needs one"),
        (2, 5, r"optim\.batch_size: got 2, want at least 4: .*, which leaves 0 for a step"),
    ],
)
def test_a_process_without_samples_in_a_step_is_refused(tmp_path, batch_size, size, said):
    run = SimpleNamespace(
        config=small_config(tmp_path, optim={"batch_size": batch_size}),
        fabric=SimpleNamespace(world_size=2),
        batches=range(50),
    )
    with pytest.raises(ValueError, match=f"^{said}"):
        check_steps(run, 1, size)
