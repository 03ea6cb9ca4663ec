"""What a run does, leaves behind and refuses."""

from __future__ import annotations

import dataclasses
import gc
import math
from pathlib import Path

import pytest
import torch
import yaml
from training_runs import StopAt, equal, log_lines, made_up_data, made_up_images, small_config

from dynams.cost import PURPOSES
from dynams.report.runlog import read_run
from dynams.training.checkpoint import load_checkpoint, save_checkpoint
from dynams.training.config import TrainConfig
from dynams.training.entry import train
from dynams.training.errors import NonFiniteLossError, ReportError
from dynams.training.interrupt import Interrupt
from dynams.training.rundir import BEST, checkpoint_path, resume_command

DATA = made_up_data()


def test_a_run_learns_and_leaves_its_files_behind(tmp_path):
    data = made_up_data(train=200, test=60)
    config = small_config(
        tmp_path,
        optim={"epochs": 8},
        selection={"refresh_every": 2},
        run={"report": True, "tensorboard": True},
    )
    summary = train(config, data)
    assert summary.completed
    assert summary.accuracy > 0.85
    assert summary.proxy_accuracy is not None
    assert summary.proxy_accuracy > 0.6
    folder = Path(summary.run_dir)
    assert folder.parent == tmp_path
    assert {"config.yaml", "log.jsonl", "checkpoints", "report.html", "tensorboard"} <= {
        item.name for item in folder.iterdir()
    }
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert TrainConfig.from_dict(written) == config


def test_the_report_names_the_classes_without_pictures_too(tmp_path):
    config = small_config(
        tmp_path,
        optim={"epochs": 1},
        selection={"strategy": "random", "warmup_epochs": 0},
        run={"report": True},
    )
    page = (Path(train(config, DATA).run_dir) / "report.html").read_text()
    for name in DATA.train.classes:
        assert f">{name}</th>" in page


def test_the_log_tells_what_was_trained_on(tmp_path):
    summary = train(small_config(tmp_path, selection={"refresh_every": 2}), DATA)
    run = read_run(summary.run_dir)
    assert [record.epoch for record in run.epochs] == [0, 1, 2, 3]
    assert [record.samples for record in run.epochs] == [50, 30, 30, 30]
    assert [record.budget for record in run.epochs] == [1.0, 0.6, 0.6, 0.6]
    assert [record.steps for record in run.epochs] == [4, 2, 2, 2]
    assert [record.epoch for record in run.refreshes] == [1, 3]
    for refresh in run.refreshes:
        assert refresh.selected == sum(refresh.class_counts) == 30
        assert sum(refresh.histogram_counts) == 50
        assert len(refresh.quantiles) == 21
        assert refresh.quantiles == sorted(refresh.quantiles)
        assert refresh.quantiles[11] <= refresh.threshold + 1e-6 <= refresh.quantiles[13]
    assert run.refreshes[0].overlap is None
    assert 0.0 < run.refreshes[1].overlap <= 1.0
    assert run.summary == summary
    assert (summary.samples, summary.steps, summary.epochs) == (140, 10, 4)


def test_every_purpose_is_measured_and_the_total_holds_them_all(tmp_path):
    summary = train(small_config(tmp_path), DATA)
    assert tuple(summary.seconds) == PURPOSES
    assert {name for name, seconds in summary.seconds.items() if not seconds} == {"holdout model"}
    assert sum(summary.seconds.values()) <= summary.total_seconds
    laps = [record.seconds for record in read_run(summary.run_dir).epochs]
    for purpose in PURPOSES:
        together = sum(lap[purpose] for lap in laps)
        assert together == pytest.approx(summary.seconds[purpose], abs=1e-6)


@pytest.mark.parametrize(
    ("sections", "purposes"),
    [
        ({"selection": {"strategy": "full"}}, {"proxy loss", "scoring"}),
        ({"selection": {"strategy": "random"}}, {"proxy loss", "scoring"}),
        ({"proxy": {"width": 1.0}}, {"proxy loss"}),
    ],
)
def test_what_is_not_done_costs_nothing(tmp_path, sections, purposes):
    summary = train(small_config(tmp_path, **sections), DATA)
    free = {name for name, seconds in summary.seconds.items() if seconds == 0.0}
    assert free == purposes | {"holdout model"}
    assert summary.proxy_accuracy is None
    assert summary.proxy_width is None
    state = load_checkpoint(checkpoint_path(summary.run_dir)).model
    assert not any("width_0_5" in name for name in state)  # DDP would miss its gradients


def test_the_proxy_trains_at_every_nth_step_only(tmp_path):
    def proxy_norm_steps(every: int) -> tuple[int, int]:
        config = small_config(tmp_path / str(every), proxy={"every": every})
        state = load_checkpoint(checkpoint_path(train(config, DATA).run_dir)).model
        counts = {
            width: int(state[f"network.stem.norm.{width}.num_batches_tracked"])
            for width in ("width_0_5", "width_1_0")
        }
        return counts["width_0_5"], counts["width_1_0"]

    # No selection follows the last refresh, so the proxy rests in the last epoch, of 2 steps.
    assert proxy_norm_steps(1) == (8, 10)
    assert proxy_norm_steps(3) == (3, 10)  # steps 0, 3 and 6


def test_a_static_selection_stays_and_its_proxy_rests_afterwards(tmp_path):
    config = small_config(tmp_path, selection={"strategy": "static-margin", "warmup_epochs": 2})
    run = read_run(train(config, DATA).run_dir)
    assert [refresh.epoch for refresh in run.refreshes] == [2]
    assert [record.samples for record in run.epochs] == [50, 50, 30, 30]
    assert [record.proxy_loss is None for record in run.epochs] == [False, False, True, True]


def test_the_learning_rate_warms_up_and_decays(tmp_path):
    run = read_run(train(small_config(tmp_path, optim={"warmup": 0.5}), DATA).run_dir)
    rates = [record.lr for record in run.epochs]
    assert rates[0] < rates[1] > rates[2] > rates[3] > 0.0
    assert max(rates) < 0.05


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    def run(name: str, seed: int) -> str:
        config = small_config(tmp_path / name, run={"seed": seed}, optim={"epochs": 2})
        return train(config, DATA).run_dir

    first, again, other = run("a", 1), run("b", 1), run("c", 2)

    def weights(run_dir: str) -> dict[str, torch.Tensor]:
        return load_checkpoint(checkpoint_path(run_dir)).model

    assert equal(weights(first), weights(again))
    assert log_lines(first) == log_lines(again)
    assert not equal(weights(first), weights(other))


def test_the_global_generator_neither_matters_nor_changes(tmp_path):
    def run(name: str) -> dict[str, torch.Tensor]:
        config = small_config(tmp_path / name, optim={"epochs": 2})
        return load_checkpoint(checkpoint_path(train(config, DATA).run_dir)).model

    torch.manual_seed(1)
    first = run("a")
    before = torch.manual_seed(2).get_state()
    second = run("b")
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(first, second)


def test_the_best_checkpoint_has_the_best_accuracy(tmp_path):
    summary = train(small_config(tmp_path, optim={"epochs": 6}), DATA)
    accuracies = [record.accuracy for record in read_run(summary.run_dir).epochs]
    best = load_checkpoint(checkpoint_path(summary.run_dir, BEST))
    assert best.accuracy == best.best_accuracy == max(accuracies)
    assert best.epoch == accuracies.index(max(accuracies)) + 1


def test_evaluation_happens_when_asked_and_at_the_end(tmp_path):
    config = small_config(tmp_path, run={"evaluate_every": 3})
    summary = train(config, DATA)
    evaluated = [r.accuracy is not None for r in read_run(summary.run_dir).epochs]
    assert evaluated == [False, False, True, True]
    assert not math.isnan(summary.accuracy)


def test_views_are_of_evaluation_alone(tmp_path):
    # Left and right are classes: whoever sees both sides of an image cannot tell them apart.
    data = made_up_data(train=200, test=60)
    seen, blind = (
        train(
            small_config(
                tmp_path,
                optim={"epochs": 8},
                run={"test_views": views, "evaluate_every": 8},
            ),
            data,
        )
        for views in (1, 2)
    )
    models = [load_checkpoint(checkpoint_path(Path(run.run_dir))).model for run in (seen, blind)]
    assert equal(*models)
    assert seen.accuracy > 0.85
    assert blind.accuracy < 0.85


def test_a_diverging_loss_stops_the_run_and_keeps_the_checkpoint_of_before(tmp_path):
    config = small_config(tmp_path, optim={"lr": 1e30, "warmup": 0.0})
    with pytest.raises(NonFiniteLossError, match=r"epoch \d.*smaller optim\.lr"):
        train(config, DATA)
    (run_dir,) = tmp_path.iterdir()
    path = checkpoint_path(run_dir)
    if path.exists():
        state = load_checkpoint(path).model
        assert all(bool(value.isfinite().all()) for value in state.values())


def test_the_checkpoint_of_a_good_epoch_survives_a_bad_one(tmp_path):
    config = small_config(tmp_path)
    stopped = train(config, DATA, interrupt=StopAt(7))
    path = checkpoint_path(stopped.run_dir)
    saved = load_checkpoint(path)
    saved.model["network.head.bias"].fill_(float("nan"))
    save_checkpoint(stopped.run_dir, saved)
    before = path.read_bytes()
    reported = small_config(tmp_path, run={"report": True})
    with pytest.raises(NonFiniteLossError, match="the checkpoint of before is kept") as told:
        train(reported, DATA, resume=stopped.run_dir)
    assert path.read_bytes() == before
    end = read_run(stopped.run_dir).summary
    assert end is not None
    assert (end.completed, end.failure) == (False, str(told.value))
    page = (Path(stopped.run_dir) / "report.html").read_text()
    assert "failed after 1 of 4 epochs: the loss became nan" in page


@pytest.mark.parametrize(
    ("optim", "run", "stop"),
    [
        ({"lr": 1e12}, {"save_every_steps": 1}, None),
        ({"lr": 1e12}, {}, 4),
        # Its only step has a finite loss.
        ({"lr": 1e38, "weight_decay": 1e3, "batch_size": 100}, {}, None),
    ],
    ids=["saved within an epoch", "told to stop", "the last step of an epoch"],
)
def test_no_checkpoint_is_taken_of_what_has_diverged(tmp_path, optim, run, stop):
    data = made_up_data(train=100)
    begun = {"optim": {"warmup": 0.0, **optim}, "run": run}
    with pytest.raises(NonFiniteLossError, match=r"the (loss|weights) became (nan|inf) in epoch 1"):
        train(small_config(tmp_path, **begun), data, interrupt=StopAt(stop))
    (run_dir,) = tmp_path.iterdir()
    path = checkpoint_path(run_dir)
    assert path.exists() == bool(run)
    if path.exists():
        saved = load_checkpoint(path)
        assert saved.step > 0
        assert all(math.isfinite(loss) for loss in saved.sums["losses"])
        weights = (each for name, each in saved.model.items() if "weight" in name)
        assert all(bool(each.isfinite().all()) for each in weights)


def test_whatever_ends_a_run_is_in_its_log_and_the_run_goes_on(tmp_path):
    config = small_config(tmp_path)

    def fail(run: object, known: object) -> None:
        raise LookupError("a fault\nof the caller")

    with pytest.raises(LookupError):
        train(config, DATA, on_refresh=fail)
    (run_dir,) = tmp_path.iterdir()
    end = read_run(run_dir).summary
    assert end is not None
    assert (end.completed, end.epochs, end.failure) == (False, 1, "a fault of the caller")
    assert train(config, DATA, resume=run_dir).completed
    assert read_run(run_dir).summary.failure is None


def test_a_report_that_cannot_be_written_takes_nothing_with_it(tmp_path):
    config = small_config(tmp_path, optim={"epochs": 2}, run={"report": True})

    def block(run: object, known: object) -> None:
        (run_dir,) = tmp_path.iterdir()
        (run_dir / "report.html").mkdir()

    with pytest.raises(
        ReportError, match=r"the run is saved, but not its report: .*report\.html"
    ) as told:
        train(config, DATA, on_refresh=block)
    summary = told.value.summary
    assert (summary.completed, summary.failure) == (True, None)
    assert read_run(summary.run_dir).summary == summary
    assert f"{resume_command(summary.run_dir)}" in str(told.value)
    (Path(summary.run_dir) / "report.html").rmdir()
    assert train(config, DATA, resume=summary.run_dir).completed
    assert (Path(summary.run_dir) / "report.html").is_file()


def test_too_few_images_are_refused(tmp_path):
    tiny = dataclasses.replace(DATA, train=made_up_images(1, 1))
    with pytest.raises(ValueError, match=r"data\.train: got 1 images, want at least 2"):
        train(small_config(tmp_path), tiny)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"run\.accelerator: got cuda, want a device"):
        train(small_config(tmp_path, run={"accelerator": "cuda"}), DATA)


def test_two_runs_in_one_second_have_their_own_directories(tmp_path):
    config = small_config(tmp_path, optim={"epochs": 1})
    assert train(config, DATA).run_dir != train(config, DATA).run_dir


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_on_cuda_finishes_and_resumes(tmp_path, precision):
    config = small_config(
        tmp_path, run={"accelerator": "cuda", "precision": precision, "channels_last": True}
    )
    stopped = train(config, DATA, interrupt=StopAt(9))
    summary = train(config, DATA, resume=stopped.run_dir)
    assert summary.completed
    assert {name for name, seconds in summary.seconds.items() if not seconds} == {"holdout model"}


class Leftovers(Interrupt):
    """Never stops; counts the logits that are still there after each step."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.seen: list[int] = []

    @property
    def requested(self) -> bool:
        tensors = (each for each in gc.get_objects() if type(each) is torch.Tensor)
        self.seen.append(sum(tuple(each.shape) == self.shape for each in tensors))
        return False


def test_no_step_s_logits_stay_beside_the_next_ones(tmp_path):
    watch = Leftovers((16, 3))
    config = small_config(tmp_path, optim={"epochs": 1}, selection={"strategy": "infobatch"})
    train(config, made_up_data(train=48, test=12), interrupt=watch)
    assert watch.seen == [0] * 4  # three steps, and the evaluation


class Threads(Interrupt):
    """Never stops; notes with how many threads the steps are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    @property
    def requested(self) -> bool:
        self.seen.add(torch.get_num_threads())
        return False


@pytest.mark.parametrize(
    ("chosen", "batch_size", "wanted"),
    [(None, 16, 1), (None, 512, 3), (2, 16, 2)],
    ids=["small batches", "large batches", "chosen"],
)
def test_threads_are_those_chosen_or_those_the_batches_are_worth(
    tmp_path, chosen, batch_size, wanted
):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        watch = Threads()
        sections = {"run": {"threads": chosen}, "optim": {"batch_size": batch_size, "epochs": 1}}
        data = made_up_data(train=batch_size + 50)  # one whole batch is enough
        train(small_config(tmp_path, **sections), data, interrupt=watch)
        assert watch.seen == {wanted}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
