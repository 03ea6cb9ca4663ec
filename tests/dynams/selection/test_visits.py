"""What training steps leave behind of the samples they visit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynams.selection import SubsetSampler, Visits, build_strategy, with_switches
from two_ranks import told_by_two

NAMES = ("last_loss", "gap", "forgetting")
LABELS = torch.tensor([0, 1, 2, 0])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def test_scores_are_those_of_the_last_visit_and_infinite_before_the_first():
    visits = Visits(6, NAMES)
    places = torch.tensor([5, 0, 3, 2])
    visits.record(0, places, logits(0), LABELS)
    visits.record(1, places[:2], logits(1)[:2], LABELS[:2])
    latest = torch.cat([logits(1)[:2], logits(0)[2:]])
    losses, gaps = visits.score("last_loss"), visits.score("gap")
    torch.testing.assert_close(losses[places], cross_entropy(latest, LABELS, reduction="none"))
    two = latest.topk(2).values
    torch.testing.assert_close(gaps[places], two[:, 0] - two[:, 1])
    assert losses[[1, 4]].tolist() == gaps[[1, 4]].tolist() == [torch.inf] * 2
    gaps.zero_()
    assert visits.score("gap")[5] > 0  # a copy


class _Assigned(TorchDispatchMode):
    """What is assigned to places of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index_put_.default:
            self.shapes += [leaf.shape for leaf in tree_leaves(args[2:])]
        return func(*args, **(kwargs or {}))


def test_a_visit_assigns_no_number_for_which_a_device_would_be_waited_for():
    visits = Visits(6, _ALL)
    with _Assigned() as assigned:
        visits.record(0, torch.tensor([5, 0, 3, 2]), logits(0), LABELS)
        visits.compare(torch.zeros(3))
    assert set(assigned.shapes) == {torch.Size([4])}


def test_forgetting_counts_from_right_to_wrong():
    visits = Visits(2, ["forgetting"])
    right, wrong = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    for epoch, each in enumerate([wrong, right, wrong, right, wrong]):
        visits.record(epoch, torch.tensor([1]), each, torch.tensor([0]))
    assert visits.score("forgetting").tolist() == [torch.inf, 2.0]


@pytest.mark.parametrize("max_age", [1, 2, 3])
def test_a_visit_is_fresh_for_so_many_epochs(max_age):
    visits = Visits(3, ["gap"])
    visits.record(4, torch.tensor([1]), logits(0)[:1], LABELS[:1])
    visits.record(0, torch.tensor([2]), logits(0)[:1], LABELS[:1])
    for epoch in (5, 6, 7, 8):
        assert visits.fresh(epoch, max_age).tolist() == [False, epoch - 4 <= max_age, False]
    assert visits.fresh(1, max_age).tolist() == [False, True, True]


def test_a_state_is_a_copy_and_goes_on():
    visits = Visits(6, NAMES)
    visits.record(0, torch.arange(4), logits(0), LABELS)
    state = visits.state_dict()
    visits.record(1, torch.arange(4), logits(1), LABELS)
    again = Visits(6, NAMES)
    again.load_state_dict(state)
    again.record(1, torch.arange(4), logits(1), LABELS)
    for name in NAMES:
        assert torch.equal(again.score(name), visits.score(name))
    assert torch.equal(again.fresh(2, 1), visits.fresh(2, 1))
    with pytest.raises(ValueError, match=r"^visits: got .*, want gap, epochs$"):
        Visits(6, ["gap"]).load_state_dict(state)
    with pytest.raises(ValueError, match=r"^[a-z]+: got 6 samples, want 7$"):
        Visits(7, NAMES).load_state_dict(state)


def test_signals_are_all_that_is_remembered():
    visits = Visits(3, [*NAMES, "last_epoch"])
    visits.record(4, torch.tensor([2, 0]), logits(0)[:2], LABELS[:2])
    known = visits.signals()
    assert known.count == 3
    assert sorted(known.scores) == ["forgetting", "gap", "last_epoch", "last_loss"]
    assert known.score("last_epoch").tolist() == [4.0, -torch.inf, 4.0]
    assert torch.equal(known.score("gap"), visits.score("gap"))
    assert Visits(2, ["last_epoch"]).signals().scores.keys() == {"last_epoch"}


def test_a_loop_selects_by_what_its_steps_left_behind():
    strategy = with_switches(build_strategy("margin", kind="label"), age_weight=0.25)
    visits = Visits(4, strategy.needs)
    sampler = SubsetSampler(4, strategy, budget=0.5, warmup_epochs=1, score=visits.signals)
    rows = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]])
    chosen = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        chosen.append(sampler.indices.tolist())
        visits.record(
            epoch,
            sampler.indices,
            rows[sampler.indices],
            torch.ones(len(sampler), dtype=torch.int64),
        )
    # Ranks 0.75, 0.5, 0.25 and 0, and a quarter for each epoch left out; equal ones go by index.
    assert chosen == [[0, 1, 2, 3], [0, 1], [0, 1], [0, 2], [0, 1], [0, 3]]


def _visited(rank: int, _: Path) -> dict[str, Any]:
    visits = Visits(6, _ALL)
    for epoch in range(3):
        part = _PARTS[(epoch + rank) % 2]
        count = len(part)
        visits.record(epoch, part, logits(epoch + count)[:count], LABELS[:count])
        visits.merge()
        visits.compare(torch.tensor([1.0, epoch]))
    return visits.state_dict()


_ALL = [*NAMES, "window_loss", "trained_epochs", "alignment"]
# The samples change hands from epoch to epoch.
_PARTS = [torch.tensor([0, 1, 2]), torch.tensor([3, 4])]


def test_processes_take_each_others_latest_visits(tmp_path):
    whole = Visits(6, _ALL)
    for epoch in range(3):
        for part in _PARTS:
            count = len(part)
            whole.record(epoch, part, logits(epoch + count)[:count], LABELS[:count])
        whole.compare(torch.tensor([1.0, epoch]))
    assert whole.score("trained_epochs").tolist() == [3.0] * 5 + [0.0]
    for told in told_by_two(_visited, tmp_path):
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(told[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["gap", "labels"], r"^names: got labels, which no step leaves behind, want some of align"),
        (["distance"], r"^names: got distance, which no step leaves behind, want some of"),
        ("loss", r"^names: got 'loss', want a list of names$"),
    ],
)
def test_names_of_what_no_step_leaves_behind_are_refused_at_once(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Visits(4, given)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epoch": -1}, r"^epoch: got -1, want at least 0$"),
        ({"epoch": 0.5}, r"^epoch: got 0.5, want a whole number$"),
        (
            {"indices": torch.tensor([-1, 0, 2, 3])},
            r"^indices: got -1 to 3, want them in \[0, 6\)$",
        ),
        ({"indices": torch.tensor([6, 0, 2, 3])}, r"^indices: got 0 to 6, want them in \[0, 6\)$"),
        ({"indices": torch.arange(3)}, r"^indices: got shape \(3,\), want \(4,\), as logits"),
        ({"indices": torch.arange(4).int()}, r"^indices: got torch.int32, want an int64 tensor$"),
        # One label would do for all rows.
        ({"labels": LABELS[:1]}, r"^labels: got shape \(1,\), want \(4,\), as logits have rows$"),
        ({"logits": logits(0)[None]}, r"^logits: got \(1, 4, 3\), want \(B, C\)$"),
    ],
)
def test_a_visit_that_does_not_fit_is_refused_and_leaves_nothing(changed, message):
    visits = Visits(6, ["forgetting", "trained_epochs"])
    before = visits.state_dict()
    visit = {"epoch": 0, "indices": torch.arange(4), "logits": logits(0), "labels": LABELS}
    with pytest.raises((TypeError, ValueError), match=message):
        visits.record(**{**visit, **changed})
    for name, tensor in visits.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_visits_made_in_inference_mode_are_noted_outside_of_it():
    with torch.inference_mode():
        visits = Visits(6, _ALL)
    visits.record(0, torch.arange(4), logits(0), LABELS)
    visits.compare(torch.ones(2))
    assert visits.score("trained_epochs").tolist() == [1.0] * 4 + [0.0] * 2


def test_labels_are_given_beside_what_steps_leave_behind():
    strategy = with_switches(build_strategy("margin"), class_shares="equal")
    visits = Visits(4, strategy.needs - {"labels"})
    labels = torch.tensor([0, 0, 0, 1])
    sampler = SubsetSampler(
        4, strategy, budget=0.5, score=lambda: replace(visits.signals(), labels=labels)
    )
    visits.record(0, torch.arange(4), torch.tensor([[0.0, 3], [0, 1], [0, 2], [0, 9]]), labels)
    sampler.set_epoch(0)
    assert sampler.indices.tolist() == [1, 3]


# Right, wrong, right, wrong: forgotten twice, by one process or the other.
_COURSE = [torch.tensor([[0.0, 9.0]]), torch.tensor([[9.0, 0.0]])] * 2


def _counted(rank: int, _: Path) -> dict[str, Any]:
    visits = Visits(2, ["forgetting", "trained_epochs"])
    for epoch, row in enumerate(_COURSE):
        # The two samples change hands from epoch to epoch; a refresh, which merges, is due at the end.
        visits.record(epoch, torch.tensor([(epoch + rank) % 2]), row, torch.tensor([1]))
    return dict(visits.signals().scores)


def test_processes_count_visits_of_a_sample_that_changes_hands_between_refreshes(tmp_path):
    for told in told_by_two(_counted, tmp_path):
        assert told["forgetting"].tolist() == [2.0, 2.0]
        assert told["trained_epochs"].tolist() == [4.0, 4.0]


def _apart(rank: int, _: Path) -> dict[str, Any]:
    def failing() -> Any:
        raise OSError("no disk")

    def refused(score: Any, begun: bool = False) -> str:
        sampler = SubsetSampler(6, score=score)
        if begun:
            sampler.load_state_dict({**sampler.state_dict(), "epoch": 0})
        with pytest.raises((OSError, RuntimeError, ValueError)) as caught:
            sampler.set_epoch(0)
        return str(caught.value)

    visits = Visits(6, ["gap"])
    others = Visits(6, ["gap", "loss"]) if rank else visits
    larger = Visits(7, ["gap"]) if rank else visits
    return {
        "failed": refused(failing if rank else visits.signals),
        "begun": refused(visits.signals, begun=bool(rank)),
        "names": refused(others.signals),
        "samples": refused(larger.signals),
    }


def test_a_process_that_fails_or_is_elsewhere_while_others_merge_is_told_to_all(tmp_path):
    first, second = told_by_two(_apart, tmp_path)
    assert first["failed"] == "rank 1 could not begin an epoch: OSError: no disk"
    assert second["failed"] == "no disk"
    wanted = "rank {}: got one that is to {}, want it to {} like this one"
    assert first["begun"] == wanted.format(1, "begin an epoch", "merge visits")
    assert second["begun"] == wanted.format(0, "merge visits", "begin an epoch")
    for told in (first, second):
        assert (
            told["names"]
            == "names: got gap, loss on rank 1 and gap on rank 0, want the same on all"
        )
        assert (
            told["samples"] == "num_samples: got 7 on rank 1 and 6 on rank 0, want the same on all"
        )
