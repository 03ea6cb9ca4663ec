"""`MarginSelection` on two processes: one subset, each sample once, as many batches on both, exact resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from huggingface_runs import (
    EPOCHS,
    SIZES,
    Recording,
    joined,
    plain_loop,
    rate_at_end,
    samples,
    trainer,
)
from two_ranks import told_by_two

EVEN = {"count": 40}  # one left over joins an update, and weighs less than on one process
Told = dict[str, dict[str, Any]]


class Counted(list[Any]):
    """A data set that counts how often its samples are read."""

    reads = 0

    def __getitem__(self, at: Any) -> Any:
        self.reads += 1
        return super().__getitem__(at)


def facts(run: Recording) -> dict[str, Any]:
    return {
        "trained": run.trained,
        "steps": run.state.global_step,
        "planned": run.planned_steps(),
        "rate": rate_at_end(run),
        "weights": [each.detach().clone() for each in run.model.parameters()],
        "margins": run.sampler.margins,
    }


def told_by_rank(rank: int, folder: Path) -> Told:
    told: Told = {}

    def train(name: str, kind: str, resume: str | None = None, **changed: Any) -> Recording:
        run = trainer(Path(folder, name), kind, ddp_backend="gloo", **changed)
        run.train(resume)
        told[name] = facts(run)
        return run

    halves = {"per_device_train_batch_size": 2}
    even = {
        **halves,
        "count": 40,
    }  # one left over joins an update, and weighs less than on one process
    train("whole", "still text", **even, save_strategy="steps", save_steps=7)
    for step in (14, 21):  # the middle and the end of an epoch
        train(f"from {step}", "still text", f"{folder}/whole/checkpoint-{step}", **even)
    train("from one", "still text", f"{folder}/one/checkpoint-14", **even)
    counted = Counted(samples("image"))
    train("image", "image", **halves, scoring_dataset=counted)
    told["image"]["reads"] = counted.reads
    train("accumulated", "text", **halves, gradient_accumulation_steps=2)
    half = {"selection": {"budget": 0.5}, "max_steps": 10}
    train("dropped", "text", **halves, **half, dataloader_drop_last=True)
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    folder = tmp_path_factory.mktemp("ranks")
    alone = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, **EVEN}
    trainer(folder / "one", "still text", **alone, save_strategy="steps", save_steps=14).train()
    return told_by_two(told_by_rank, folder, launched=True)


def updates(told: list[Told], name: str, micro_batches: int = 1) -> list[list[int]]:
    """The samples of each update, ascending; as many batches on both."""
    first, second = (each[name]["trained"] for each in told)
    assert len(first) == len(second)
    return [
        sorted(joined(first[at : at + micro_batches] + second[at : at + micro_batches]))
        for at in range(0, len(first), micro_batches)
    ]


def test_two_processes_train_on_the_updates_of_a_plain_loop(told: list[Told]) -> None:
    found = updates(told, "whole")
    expected, _ = plain_loop("still text", **EVEN)
    assert found == [sorted(batch) for batch in expected]
    for first, second in zip(*(each["whole"]["weights"] for each in told), strict=True):
        assert torch.equal(first, second)


def test_steps_and_rate_are_exact_on_two_processes(told: list[Told]) -> None:
    for each in told:
        for name, run in each.items():
            assert run["steps"] == run["planned"], name
            assert run["rate"] == 0.0, name


@pytest.mark.parametrize("step", [14, 21])
def test_both_resume_with_the_very_next_samples(step: int, told: list[Told]) -> None:
    for each in told:
        assert each[f"from {step}"]["trained"] == each["whole"]["trained"][step:]
        for resumed, whole in zip(
            each[f"from {step}"]["weights"], each["whole"]["weights"], strict=True
        ):
            assert torch.equal(resumed, whole)


def test_two_go_on_where_one_that_accumulated_was(told: list[Told]) -> None:
    assert updates(told, "from one") == updates(told, "whole")[14:]


@pytest.mark.parametrize(("name", "parts"), [("image", 1), ("accumulated", 2)])
def test_each_epoch_has_its_samples_once(name: str, parts: int, told: list[Told]) -> None:
    found = updates(told, name, parts)
    for size in SIZES:
        epoch: list[int] = []
        while len(epoch) < size:
            epoch += found.pop(0)
        assert len(epoch) == len(set(epoch)) == size
    assert not found


def test_dropped_batches_leave_full_ones_on_both(told: list[Told]) -> None:
    for each in told:
        assert {len(batch) for batch in each["dropped"]["trained"]} == {2}
    for epoch in (updates(told, "dropped")[:5], updates(told, "dropped")[5:]):
        assert len(set(joined(epoch))) == 20  # of 21


def test_scoring_is_shared_out_and_all_ranks_hold_the_same_scores(told: list[Told]) -> None:
    refreshes = EPOCHS - 2  # without warm-up and tail
    reads = [each["image"]["reads"] for each in told]
    assert reads == [20 * refreshes, 21 * refreshes]
    for name in ("whole", "image"):
        assert torch.equal(told[0][name]["margins"], told[1][name]["margins"])
