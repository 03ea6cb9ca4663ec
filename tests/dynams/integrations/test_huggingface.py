"""`MarginSelection` in Hugging Face's Trainer: a plain loop's samples, each once, exact steps and resumes."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import TrainerCallback, TrainingArguments, default_data_collator  # noqa: E402

from huggingface_runs import (  # noqa: E402
    BATCH,
    EPOCHS,
    SIZES,
    VARYING,
    N,
    joined,
    network,
    of_updates,
    own_state,
    plain_loop,
    rate_at_end,
    same_weights,
    samples,
    trainer,
)

__all__ = ["own_state"]  # a fixture


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_plain_loop_trains_on_the_same_batches_to_the_same_weights(
    kind: str, tmp_path: Path
) -> None:
    workers: dict[str, Any] = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    run = trainer(tmp_path, kind, **(workers if kind == "image" else {}))
    run.train()
    expected, model = plain_loop(kind)
    assert run.trained == expected
    assert same_weights(run.model, model)
    assert run.state.global_step == run.state.max_steps == len(expected)
    assert rate_at_end(run) == 0.0
    assert run.args.max_steps == -1  # the user's own again
    gone = weakref.ref(run)
    del run  # with its workers, as any Trainer
    assert gone() is None


@pytest.mark.parametrize("steps", [3, 9])
def test_accumulated_updates_hold_every_sample_once_and_all_their_micro_batches(
    steps: int, tmp_path: Path
) -> None:
    run = trainer(tmp_path, gradient_accumulation_steps=steps)
    run.train()
    updates = of_updates(run.trained, steps)
    assert run.state.global_step == len(updates) == run.planned_steps()
    assert len(run.trained) == len(updates) * steps
    assert rate_at_end(run) == 0.0
    for (
        size
    ) in SIZES:  # all updates are full but the last of an epoch, whose micro-batches are even
        epoch: list[int] = []
        while len(epoch) < size:
            epoch += updates.pop(0)
        assert len(epoch) == len(set(epoch)) == size
    assert not updates
    counts = [len(batch) for batch in run.trained]
    for at in range(0, len(counts), steps):
        assert max(counts[at : at + steps]) - min(counts[at : at + steps]) <= 1


def test_epochs_end_for_trainer_where_they_end_for_the_sampler(tmp_path: Path) -> None:
    worse = iter(range(0, -99, -1))
    run = trainer(
        tmp_path,
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_first",
        compute_metrics=lambda _: {"first": next(worse)},
    )
    run.train()
    ends = [11, 21, 28, 32, 43]  # of batches of 4
    logs = run.state.log_history
    for name in ("loss", "eval_loss"):
        told = [(each["epoch"], each["step"]) for each in logs if name in each]
        assert told == list(enumerate(ends, 1))
    kept = {each.name for each in tmp_path.iterdir()}
    assert kept == {f"checkpoint-{step}" for step in ends}
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-11")
    best = network("text")
    best.load_state_dict(type(best).from_pretrained(tmp_path / "checkpoint-11").state_dict())
    assert same_weights(run.model, best)
    assert run.state.num_train_epochs == EPOCHS


@pytest.mark.parametrize(("steps", "every"), [(1, 14), (2, 7)])
def test_a_resumed_run_is_the_uninterrupted_one(steps: int, every: int, tmp_path: Path) -> None:
    """From the middle of an epoch, from the end of one with what is done there, and from the very end."""
    settings: dict[str, Any] = {
        "gradient_accumulation_steps": steps,
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
    }
    whole = trainer(tmp_path / "whole", save_strategy="steps", save_steps=every, **settings)
    whole.train()
    folders = sorted(
        (tmp_path / "whole").iterdir(), key=lambda each: int(each.name.partition("-")[2])
    )
    total = whole.planned_steps()
    wanted = [*range(every, total, every), total]
    assert [each.name for each in folders] == [f"checkpoint-{step}" for step in wanted]
    for step, folder in zip(wanted, folders, strict=True):
        resumed = trainer(tmp_path / "resumed", **settings)
        resumed.train(str(folder))
        assert getattr(resumed, "trained", []) == whole.trained[step * steps :]
        assert same_weights(resumed.model, whole.model)
        assert resumed.state.global_step == total
        losses = [
            [each["eval_loss"] for each in run.state.log_history if "eval_loss" in each]
            for run in (whole, resumed)
        ]
        assert losses[1][:EPOCHS] == losses[0]


def test_the_newest_checkpoint_is_found_and_a_new_training_begins_anew(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_strategy="steps", save_steps=30)
    run.train()
    first = run.trained
    run.trained = []
    run.train()  # Trainer keeps network and optimizer, so that later selections differ
    assert len(run.trained) == len(first)
    assert run.trained[:11] == first[:11]
    second, run.trained = run.trained, []
    (tmp_path / f"checkpoint-{run.planned_steps()}").rename(tmp_path / "moved")
    run.train(resume_from_checkpoint=True)
    assert run.trained == second[30:]


def test_max_steps_ends_in_the_middle_of_an_epoch_and_can_be_raised(tmp_path: Path) -> None:
    constant = {"selection": {"budget": 0.5}, "save_strategy": "steps"}
    whole = trainer(tmp_path / "whole", max_steps=20, **constant)
    whole.train()
    assert (whole.state.global_step, rate_at_end(whole)) == (20, 0.0)
    epochs = [joined(whole.trained[at : at + 6]) for at in range(0, 18, 6)]  # 21 samples
    assert [len(set(each)) for each in epochs] == [21, 21, 21]
    assert whole.state.epoch == 3 + 8 / 21
    run = trainer(tmp_path / "two", max_steps=8, lr_scheduler_type="constant", **constant)
    run.train()
    more = trainer(tmp_path / "two", max_steps=20, lr_scheduler_type="constant", **constant)
    more.train(resume_from_checkpoint=True)
    assert len(run.trained) + len(more.trained) == 20
    assert len(set(joined((run.trained + more.trained)[6:12]))) == 21
    with pytest.raises(ValueError, match=r"^max_steps: got 99, want at most 43, all of epochs=5$"):
        trainer(tmp_path, max_steps=99, selection=VARYING | {"epochs": 5}).train()


def test_full_batches_only_where_the_last_ones_are_dropped(tmp_path: Path) -> None:
    run = trainer(tmp_path, dataloader_drop_last=True)
    run.train()
    assert {len(batch) for batch in run.trained} == {BATCH}
    assert run.state.global_step == sum(size // BATCH for size in SIZES) == run.planned_steps()
    assert (rate_at_end(run), run.state.epoch) == (0.0, 5.0)


def test_an_epoch_that_is_broken_off_is_followed_by_the_next(tmp_path: Path) -> None:
    class AfterTwo(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_epoch_stop |= state.global_step == 2
            return control

    run = trainer(tmp_path, max_steps=8, selection={"budget": 0.5}, callbacks=[AfterTwo()])
    run.train()
    assert run.state.epoch == 2.0
    assert len(set(joined(run.trained[2:]))) == 21


@pytest.mark.parametrize("strategy", ["loss", "margin"])
def test_scores_are_those_of_the_logits_and_labels_in_order(strategy: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, selection={"strategy": strategy}, per_device_eval_batch_size=16)
    pairs = list(run.score_samples())
    assert [len(scores) for _, scores in pairs] == [16, 16, 9]
    assert torch.cat([at for at, _ in pairs]).tolist() == list(range(N))
    batch = default_data_collator(samples("text"))
    labels = batch.pop("labels")
    logits = run.model.eval()(**batch).logits.double()
    if strategy == "loss":
        expected = cross_entropy(logits, labels, reduction="none")
    else:
        top = logits.topk(2).values
        expected = top[:, 0] - top[:, 1]
    torch.testing.assert_close(
        torch.cat([scores for _, scores in pairs]).double(), expected, rtol=1e-5, atol=1e-6
    )


def test_samples_are_scored_in_the_precision_of_the_training(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []
    run = trainer(tmp_path, bf16=True, max_steps=1, selection={"budget": 0.5})
    run.model.bert.register_forward_pre_hook(
        lambda module, _: seen.append((module.training, torch.is_autocast_enabled("cpu")))
    )
    run.train()
    assert {autocast for _, autocast in seen} == {True}
    assert {training for training, _ in seen} == {True, False}


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(samples("text"))


BY_LENGTH: dict[str, Any] = (
    {"train_sampling_strategy": "group_by_length"}
    if hasattr(TrainingArguments, "train_sampling_strategy")
    else {"group_by_length": True}  # before version 5
)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "stream": ({"train_dataset": Stream(), "max_steps": 3}, "train_dataset: got Stream, want one"),
    "by length": (BY_LENGTH, f"{next(iter(BY_LENGTH))}: got "),
    "split": ({"accelerator_config": {"split_batches": True}}, "accelerator_config.split_batches"),
    "dispatched": (
        {"accelerator_config": {"dispatch_batches": True}},
        "accelerator_config.dispatch_batches: got True, want None",
    ),
    "batch size": ({"auto_find_batch_size": True}, "auto_find_batch_size: got True, want False"),
    "part of an epoch": ({"num_train_epochs": 1.5}, "num_train_epochs: got 1.5, want a whole"),
    "accumulated": (
        {"gradient_accumulation_steps": 17},
        "selection: got 16 samples in an epoch, want at least 17, those of an update of 17",
    ),
    "dropped": (
        {"gradient_accumulation_steps": 5, "dataloader_drop_last": True},
        "selection: got 16 samples in an epoch, want at least 20",
    ),
    "epochs": ({"selection": {"epochs": 3}}, "epochs: got 3, want 5, the num_train_epochs"),
    "another set": ({"scoring_dataset": [1, 2]}, "scoring_dataset: got 2 samples, want the 41"),
    "a budget alone": ({"selection": 0.6}, "selection: got 0.6, want SubsetSampler's arguments"),
    "features": ({"selection": {"strategy": "craig"}}, "strategy: got one that needs features"),
    "weights": ({"selection": {"strategy": "importance"}}, "strategy: got one whose samples"),
    "its own size": ({"selection": {"strategy": "infobatch"}}, "strategy: got one that decides"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    changed, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        trainer(tmp_path, **changed).train()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    run = trainer(
        tmp_path, save_strategy="steps", save_steps=5, max_steps=5, selection={"budget": 0.5}
    )
    run.train()
    folder = tmp_path / "checkpoint-5"
    with pytest.raises(ValueError, match=r"got updates of 4 samples in 1 parts, want 2 in 3"):
        trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=3).train(
            str(folder)
        )
    (folder / "sampler.pt").unlink()
    with pytest.raises(
        ValueError, match=r"^resume_from_checkpoint: got .* without sampler.pt, want"
    ):
        trainer(tmp_path).train(str(folder))
