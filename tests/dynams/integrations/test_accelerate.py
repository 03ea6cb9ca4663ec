"""Accelerate trains on what the plain loop trains on: each sample once, ranks equally many batches, resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ChainDataset

pytest.importorskip("accelerate")

from accelerate import Accelerator, DataLoaderConfiguration

import accelerate_runs as runs
from dynams.integrations.accelerate import prepare_loader, scheduler_steps
from dynams.selection import SubsetSampler
from two_ranks import told_by_two

Trainings = dict[str, runs.Noted]


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Accelerate's settings are the process's: none of them is left to other tests."""
    yield
    runs.forget()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the single process saves its state."""
    return str(tmp_path_factory.mktemp("alone") / "state")


@pytest.fixture(scope="module")
def alone(state: str) -> Trainings:
    return dict(runs.trainings(state))


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, alone: Trainings, state: str
) -> list[dict[str, Any]]:
    """What each of two processes noted, and was refused."""
    told = told_by_two(
        lambda _, folder: runs.told_by_rank(state, folder),
        tmp_path_factory.mktemp("two"),
        launched=True,
    )
    return [
        {
            name: runs.Noted(**each) if isinstance(each, dict) else each
            for name, each in rank.items()
        }
        for rank in told
    ]


def nearest(scorer: list[Tensor]) -> list[int]:
    """The 60 % of the points nearest a linear network's boundaries."""
    weight, bias = (each.double().numpy() for each in scorer)
    logits = np.sort(runs.Points().points.double().numpy() @ weight.T + bias)
    return sorted(np.argsort(logits[:, -1] - logits[:, -2], kind="stable")[:62].tolist())


def check_same(left: runs.Noted, right: runs.Noted) -> None:
    """Both trained on the same batches and made the same network."""
    assert left.steps == right.steps
    assert all(map(torch.equal, left.weights, right.weights))


def test_one_process_trains_as_the_loop_without_accelerate(alone: Trainings) -> None:
    plain = runs.without_accelerate()
    check_same(alone["whole"], plain)
    assert alone["whole"].rates == plain.rates


@pytest.mark.parametrize("name", ["whole", "split", "gathered"])
def test_two_processes_walk_the_order_in_steps_each_sample_once(
    two: list[dict[str, Any]], name: str
) -> None:
    first, second = (rank[name] for rank in two)
    for epoch in range(runs.EPOCHS):
        order = first.orders[epoch]
        assert torch.equal(order, second.orders[epoch])
        walked = [
            sorted(chain(*batches))
            for batches in zip(first.steps[epoch], second.steps[epoch], strict=True)
        ]
        stretches = [sorted(each.tolist()) for each in order.split(2 * runs.BATCH)]
        assert walked == stretches
    assert all(map(torch.equal, first.weights, second.weights))


@pytest.mark.parametrize("name", ["whole", "split", "gathered"])
def test_every_selection_is_of_the_points_nearest_the_networks_boundary(
    alone: Trainings, two: list[dict[str, Any]], name: str
) -> None:
    for noted in (alone[name], two[0][name], two[1][name]):
        assert sorted(noted.orders[0].tolist()) == list(range(runs.N))
        for epoch, scorer in zip(range(1, runs.EPOCHS), noted.scorers, strict=True):
            assert sorted(noted.orders[epoch].tolist()) == nearest(scorer)


def test_a_split_batch_is_that_of_all_ranks_together(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert rank["split"].steps == rank["whole"].steps


@pytest.mark.parametrize("name", ["whole", "split", "gathered", "carried"])
def test_a_prepared_schedule_ends_with_the_last_update(
    alone: Trainings, two: list[dict[str, Any]], name: str
) -> None:
    for noted, times in (
        (alone[name], 1),
        (two[0][name], 1 if name == "split" else 2),
    ):
        assert noted.planned == times * len(noted.rates)
        assert 0 == noted.rates[-1] < noted.rates[-2]


def test_a_resumed_training_is_the_one_that_was_never_stopped(
    alone: Trainings, two: list[dict[str, Any]]
) -> None:
    epoch, updates = runs.STOP
    for noted in (alone, two[0], two[1]):
        whole, resumed = noted["gathered"], noted["resumed"]
        rest = {at: steps for at, steps in whole.steps.items() if at >= epoch}
        rest[epoch] = rest[epoch][updates * runs.GATHERED :]
        assert rest[epoch]
        check_same(replace(whole, steps=rest), resumed)
        assert resumed.rates == whole.rates[-len(resumed.rates) :]


def test_two_processes_share_what_one_left_of_an_epoch(
    alone: Trainings, two: list[dict[str, Any]]
) -> None:
    epoch, updates = runs.STOP
    left = alone["gathered"].orders[epoch][updates * runs.GATHERED * runs.BATCH :]
    first, second = (rank["moved"].steps[epoch] for rank in two)
    walked = [sorted(chain(*batches)) for batches in zip(first, second, strict=True)]
    assert walked == [sorted(each.tolist()) for each in left.split(2 * runs.BATCH)]


def test_a_batch_that_cannot_be_split_is_refused(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert rank["refused"].startswith("batch_size: got 7, want a multiple of 2")


def test_skip_first_batches_resumes_a_loop_that_does_not_count() -> None:
    accelerator = Accelerator(cpu=True)

    def at_epoch_1() -> tuple[SubsetSampler, Any]:
        sampler = SubsetSampler(runs.N, "random", budget=0.6, warmup_epochs=1)
        return sampler, prepare_loader(accelerator, runs.Points(), sampler, 10)

    first, loader = at_epoch_1()
    loader.set_epoch(1)
    whole = [batch[2].tolist() for batch in loader]
    second, loader = at_epoch_1()
    second.load_state_dict(first.state_dict())
    loader.set_epoch(1)
    rest = accelerator.skip_first_batches(loader, 4)
    assert [batch[2].tolist() for batch in rest] == whole[4:]


def test_gathering_for_metrics_cuts_nothing_off() -> None:
    accelerator = Accelerator(cpu=True)
    sampler = SubsetSampler(runs.N, "random", budget=0.6)
    loader = prepare_loader(accelerator, runs.Points(), sampler, 9)
    seen = [accelerator.gather_for_metrics(indices).tolist() for _, _, indices in loader]
    assert sorted(chain(*seen)) == sampler.indices.tolist()


def test_what_cannot_be_right_is_refused() -> None:
    sampler = SubsetSampler(runs.N + 1, "random", epochs=1)
    with pytest.raises(ValueError, match=r"dataset: got 103 samples, want 104"):
        prepare_loader(Accelerator(cpu=True), runs.Points(), sampler, 8)
    one_reads = DataLoaderConfiguration(dispatch_batches=True)
    with pytest.raises(ValueError, match="dispatch_batches: got True, want None or False"):
        prepare_loader(
            Accelerator(cpu=True, dataloader_config=one_reads),
            runs.Points(),
            SubsetSampler(runs.N),
            8,
        )
    for data in (iter(runs.Points()), ChainDataset([])):
        with pytest.raises(TypeError, match=r"^dataset: got .* want one with a length and items"):
            prepare_loader(Accelerator(cpu=True), data, sampler, 8)
    share: Any = sampler.shard(0, 1)
    for make in (partial(prepare_loader, dataset=runs.Points()), scheduler_steps):
        with pytest.raises(TypeError, match=r"^sampler: got SamplerShare, want a SubsetSampler"):
            make(Accelerator(cpu=True), sampler=share, batch_size=8)
    gathering = Accelerator(cpu=True, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="drop_last: got True with gradient_accumulation_steps=2"):
        scheduler_steps(gathering, sampler, 8, drop_last=True)
