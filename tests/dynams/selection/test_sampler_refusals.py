"""Validate, select, commit: what the sampler refuses, by name, and that nothing has changed then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from dynams.selection import Selection, Signals, SubsetSampler, build_strategy, linear
from dynams.selection.methods import Margin
from sampler_inputs import N, assert_states_equal, margins_of, scorer, smallest
from strategy_inputs import signals


def at_epoch_0() -> SubsetSampler:
    sampler = SubsetSampler(N, budget=0.5)
    sampler.begin_epoch(0, scorer(0))
    sampler.advance(3)
    return sampler


def bad_pairs() -> list[Any]:
    arange, zeros = torch.arange, torch.zeros
    return [
        pytest.param(arange(4), zeros(5), ValueError, "margins: got shape", id="sizes"),
        pytest.param(arange(4), zeros(4, 1), ValueError, "margins: got shape", id="column"),
        pytest.param(arange(4).view(2, 2), zeros(2, 2), ValueError, "indices: got shape", id="2-D"),
        pytest.param(arange(4).int(), zeros(4), TypeError, "indices: got torch.int32", id="int32"),
        pytest.param([0, 1], zeros(2), TypeError, "indices: got list", id="list"),
        pytest.param(arange(4), arange(4), TypeError, "margins: got torch.int64", id="int margins"),
        pytest.param(arange(4), [0.0] * 4, TypeError, "margins: got list", id="list margins"),
        pytest.param(
            arange(4) + N - 2, zeros(4), ValueError, r"indices: got .* in \[0, 40\)", id="too large"
        ),
        pytest.param(
            arange(4) - 1,
            zeros(4),
            ValueError,
            r"indices: got -1 to .* in \[0, 40\)",
            id="negative",
        ),
        pytest.param(arange(0), zeros(0), ValueError, "score: got no margins", id="nothing"),
    ]


@pytest.mark.parametrize(("indices", "margins", "error", "message"), bad_pairs())
def test_a_bad_pair_is_refused_by_name_and_changes_nothing(
    indices: Any, margins: Any, error: type[Exception], message: str
) -> None:
    sampler = at_epoch_0()
    before = sampler.state_dict()
    good = (torch.arange(3), torch.full((3,), -9.0))
    pairs = [(indices, margins)] if len(indices) == 0 else [good, (indices, margins)]
    with pytest.raises(error, match=message):
        sampler.begin_epoch(1, lambda: pairs)
    assert_states_equal(sampler.state_dict(), before)
    assert sampler.wanted(1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, ValueError, "score: got None, want a function that gives scores: epoch 1 starts"),
        (iter([]), TypeError, "score: got list_iterator, want a function, such as lambda: score_b"),
        (lambda: None, TypeError, "score: got NoneType, want pairs of indices and margins, or Sig"),
        (lambda: torch.zeros(N), TypeError, "score: got torch.float32, want pairs of indices"),
        (lambda: Signals(N - 1), ValueError, "score: got signals of 39 samples, want 40"),
        (lambda: Signals(N), ValueError, "score: got signals without gap, want them too"),
    ],
)
def test_what_is_no_score_is_refused_and_changes_nothing(
    given: Any, error: type[Exception], message: str
) -> None:
    sampler = at_epoch_0()
    before = sampler.state_dict()
    with pytest.raises(error, match=message):
        sampler.begin_epoch(1, given)
    assert_states_equal(sampler.state_dict(), before)


def test_a_scorer_that_fails_changes_nothing_and_may_be_tried_again() -> None:
    def failing() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.arange(3), torch.full((3,), -9.0)
        raise OSError("disk")

    sampler = at_epoch_0()
    before = sampler.state_dict()
    with pytest.raises(OSError, match="disk"):
        sampler.begin_epoch(1, failing)
    assert_states_equal(sampler.state_dict(), before)
    sampler.begin_epoch(1, scorer(1))
    assert sampler.indices.tolist() == smallest(margins_of(1), N // 2)


@dataclass
class Foreign:
    """A strategy of somebody else's, which gives what it is told, or raises it."""

    needs: ClassVar[frozenset[str]] = frozenset({"gap", "loss"})
    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    answers: tuple[Any, ...] = ()

    def select(self, signals: Signals, size: int, *, epoch: int, **_: Any) -> Selection:
        answer = self.answers[epoch]
        if isinstance(answer, Exception):
            raise answer
        return Selection(*answer)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (OverflowError("too much"), OverflowError, "too much"),
        ((torch.arange(0),), ValueError, r"selection of Foreign.*: got indices of shape \(0,\)"),
        ((torch.tensor([3, N]),), ValueError, r"got indices 3 to 40, want them in \[0, 40\)"),
        ((torch.tensor([3, 3]),), ValueError, "twice, want them ascending"),
        ((torch.tensor([3, 2]),), ValueError, "want them ascending"),
        ((torch.tensor([1.0]),), TypeError, "indices: got torch.float32, want an int64"),
        ((torch.arange(2), torch.ones(3)), ValueError, r"got weights of shape \(3,\), want \(2,\)"),
        ((torch.arange(2), torch.ones(2).long()), TypeError, "got weights of torch.int64"),
    ],
)
def test_a_strategy_that_fails_or_selects_what_it_may_not_leaves_scores_and_all_as_they_were(
    answer: Any, error: type[Exception], message: str
) -> None:
    strategy = Foreign(answers=((torch.arange(5),), answer))
    sampler = SubsetSampler(N, strategy, budget=0.5)
    sampler.begin_epoch(0, lambda: signals(N, seed=0))
    before = sampler.state_dict()
    assert set(before["scores"]) == {"gap", "loss"}
    with pytest.raises(error, match=message):
        sampler.begin_epoch(1, lambda: signals(N, seed=1))
    assert_states_equal(sampler.state_dict(), before)
    assert sampler.wanted(1)


def test_a_schedule_is_refused_before_anything_is_scored() -> None:
    calls: list[int] = []
    sampler = SubsetSampler(N, budget=lambda progress: 0.5 - progress, epochs=3)
    sampler.begin_epoch(0, scorer(0))
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=r"the budget of .*: got -0.5, want a number in \(0, 1\]"):
        sampler.begin_epoch(2, scorer(2, calls=calls))
    assert_states_equal(sampler.state_dict(), before)
    assert calls == []


def test_pairs_do_where_one_number_a_sample_is_enough() -> None:
    craig = SubsetSampler(N, "craig")
    with pytest.raises(ValueError, match="score: got no Signals, want them, with features, labels"):
        craig.begin_epoch(0, scorer(0))
    loss = SubsetSampler(N, "loss")
    with pytest.raises(ValueError, match="got loss of 3 samples so far, want all 40: only margins"):
        loss.begin_epoch(0, lambda: [(torch.arange(3), torch.ones(3))])
    assert (craig.epoch, loss.epoch) == (None, None)
    loss.begin_epoch(0, scorer(0))
    loss.begin_epoch(1, lambda: [(torch.tensor([0]), torch.tensor([99.0]))])
    assert 0 in loss.indices


def test_going_back_is_refused() -> None:
    sampler = SubsetSampler(N, "full")
    sampler.set_epoch(3)
    with pytest.raises(ValueError, match="epoch: got 2, want at least 3, the current one; to go"):
        sampler.begin_epoch(2)
    with pytest.raises(ValueError, match="epoch: got -1, want at least 0"):
        sampler.set_epoch(-1)
    with pytest.raises(TypeError, match=r"epoch: got 4\.0, want a whole number"):
        sampler.set_epoch(4.0)  # type: ignore[arg-type]
    assert sampler.epoch == 3


def test_training_longer_than_it_was_said_to_is_refused() -> None:
    sampler = SubsetSampler(N, budget=0.5, epochs=2, score=scorer(0))
    sampler.set_epoch(1)
    for begin in (sampler.set_epoch, sampler.begin_epoch):
        with pytest.raises(ValueError, match="epoch: got 2, want below epochs=2"):
            begin(2)
    assert (sampler.epoch, len(sampler)) == (1, N // 2)


def test_use_before_the_first_epoch_is_refused() -> None:
    sampler = SubsetSampler(N)
    for use in (sampler.order, lambda: sampler.advance(0)):
        with pytest.raises(RuntimeError, match="epoch: got none yet, want set_epoch"):
            use()


def test_a_batch_that_was_filled_up_counts_what_was_left_and_another_is_refused() -> None:
    sampler = at_epoch_0()
    with pytest.raises(ValueError, match="samples: got -1, want at least 0"):
        sampler.advance(-1)
    assert sampler.consumed == 3
    sampler.advance(18)  # of 17
    assert sampler.consumed == 20
    with pytest.raises(
        ValueError,
        match=r"samples: got 4, want 0: all 20 of epoch 0 .*; call set_epoch\(epoch\) before every epoch$",
    ):
        sampler.advance(4)
    sampler.advance(0)
    assert sampler.consumed == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples: got 0, want at least 1"),
        ({"budget": 0.0}, r"budget: got 0.0, want a number in \(0, 1\]"),
        ({"budget": 1.5}, "budget: got 1.5"),
        ({"refresh_every": 0}, "refresh_every: got 0, want at least 1"),
        ({"warmup_epochs": -1}, "warmup_epochs: got -1, want at least 0"),
        ({"epochs": 0}, "epochs: got 0, want at least 1"),
        ({"tail": 1.0}, r"tail: got 1.0, want a number in \[0, 1\)"),
        ({"tail": 0.5}, "epochs: got None with tail=0.5"),
        ({"strategy": "margn"}, r"strategy: got 'margn', want one of .* \(did you mean margin\?\)"),
        ({"strategy": "selective-backprop"}, "strategy: got Sel.*, which chooses inside a batch"),
        ({"budget": linear(1.0, 0.5)}, "epochs: got None with budget=linear"),
        ({"budget": lambda progress: 0.5}, "epochs: got None with budget="),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubsetSampler(**{"num_samples": N, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 4.0}, r"num_samples: got 4\.0, want a whole number"),
        ({"budget": "0.6"}, r"budget: got '0\.6', want a number"),
        ({"seed": None}, "seed: got None, want a whole number"),
        ({"score": [1]}, "score: got list, want a function"),
        ({"strategy": Margin}, "strategy: got <class .*, want a name or a strategy object"),
        ({"shuffle": "no"}, "shuffle: got 'no', want True or False"),
        ({"dynamic": "once"}, "dynamic: got 'once', want True or False"),
        ({"strategy": 3}, "strategy: got 3, want a name or a strategy object"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_by_name(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        SubsetSampler(**{"num_samples": N, **options})


def test_numbers_may_be_numpys_or_torchs() -> None:
    sampler = SubsetSampler(
        np.int64(N), build_strategy("random"), budget=np.float32(0.5), epochs=torch.tensor(8),
        refresh_every=np.int32(2), tail=np.float32(0.25),
    )  # fmt: skip
    sampler.set_epoch(np.int64(3))
    sampler.advance(torch.tensor(5))
    assert type(sampler.state_dict()["num_samples"]) is int
    assert (type(sampler.epoch), type(sampler.consumed)) == (int, int)
    for size in (10, np.int64(10), torch.tensor(10)):
        steps = sampler.total_steps(size)
        assert (type(steps), steps) == (int, 6 * 2 + 2 * 4)
    assert type(sampler.budget_at(3)) is float
    schedule = linear(np.float32(1.0), np.float32(0.5))
    assert repr(schedule) == "linear(start=1.0, end=0.5)"
    for budget in (True, np.bool_(True), torch.tensor(True), torch.tensor([0.5]), 0.5j):
        with pytest.raises(TypeError, match=r"budget: got .*, want a number in \(0, 1\]"):
            SubsetSampler(N, budget=budget)
