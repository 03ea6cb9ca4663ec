"""Two ranks score together: the same bits on both, those of one process, and no rank waits for ever.

One pair of processes does everything and writes down what came of it; each test looks at a part of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dynams.selection import RankShard, SubsetSampler, gather_scores, score_batches
from two_ranks import told_by_two

N, FEATURES, CLASSES = 22, 4, 3
Pairs = list[tuple[Tensor, Tensor]]


def samples(count: int = N) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, FEATURES, generator=generator)
    return TensorDataset(inputs, torch.randint(0, CLASSES, (count,), generator=generator))


def network(seen: Tensor | None = None) -> nn.Module:
    """One with statistics, of the samples that it saw; its parameters are always the same."""
    generator = torch.Generator().manual_seed(6)
    model = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, CLASSES))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    for _ in range(3 if seen is not None else 0):
        model(seen)
    return model


def loader(count: int, batch_size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(samples(count), batch_size, sampler=RankShard(count), **options)


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


class Unreadable(Dataset[tuple[Tensor, Tensor]]):
    """One whose second half cannot be read."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= N // 2:
            raise OSError("disk")
        return samples()[index]


def scored(rank: int) -> dict[str, Any]:
    seen = samples().tensors[0][rank::2]
    model = network(seen)
    own = [buffer.clone() for buffer in model.buffers()]
    wrapped = DistributedDataParallel(network(seen))
    wrapped.module.load_state_dict(model.state_dict())  # wrapping has given it rank 0's
    calls: list[int] = []

    def counted(model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        return model(inputs)

    score_batches(model, loader(N, 4))  # thrown away: ranks meet where pairs are asked for
    if rank == 0:
        score_batches(model, loader(N, 4))
    batches = score_batches(model, loader(N, 11), kind="loss", forward=counted)
    before = list(calls)
    told = {
        "own": own,
        "aligned": list(batches),
        "again": list(batches),
        "kind": batches.kind,
        "calls": (before, list(calls)),
        "uneven": list(score_batches(model, loader(5, 1))),
        "one": list(score_batches(model, loader(1, 4))),
        "workers": list(score_batches(model, loader(5, 2, num_workers=1))),
        "indices": list(
            score_batches(
                model,
                loader(N, 11),
                indices=lambda batch: (torch.arange(len(batch[1])) + 100 * rank, batch[0]),
            )
        ),
        "wrapped": list(score_batches(wrapped, loader(5, 1))),
        # Rank 0 has no part: a call that waited for its own would never end.
        "inside one": list(score_batches(lambda inputs: wrapped(inputs), loader(1, 1))),
    }
    told["modes"] = (
        model.training and wrapped.training,
        wrapped.broadcast_buffers,
        wrapped.require_forward_param_sync,
    )
    told["kept"] = [list(model.buffers()), list(wrapped.buffers())]
    return told


def refused(rank: int) -> dict[str, Any]:
    model = network(samples().tensors[0][rank::2])
    own = [buffer.clone() for buffer in model.buffers()]

    def fails(_: object, inputs: Tensor) -> Tensor:
        if rank == 1:
            raise OSError("gpu")
        return model(inputs)

    def before() -> Any:
        if rank == 1:
            raise OSError("before")
        return score_batches(model, loader(N, 4))

    def after() -> Iterator[tuple[Tensor, Tensor]]:
        yield from score_batches(model, loader(N, 4))
        if rank == 0:
            raise OSError("after")

    def another() -> Any:
        return (
            score_batches(model, loader(N, 4))
            if rank == 0
            else score_batches(model, [samples().tensors[0]])
        )

    def alone() -> Any:  # the rank that fails is the only one that scores together
        fresh = score_batches(model, loader(N, 4), forward=fails)
        return fresh if rank == 1 else [(torch.arange(N), torch.zeros(N))]

    unreadable = DataLoader(Unreadable(), 4, sampler=RankShard(N))
    sampler = SubsetSampler(N, budget=0.5, warmup_epochs=1)
    told = {
        name: said(lambda score=score: sampler.begin_epoch(1, score))
        for name, score in {
            "forward": lambda: score_batches(model, loader(N, 4), forward=fails),
            "loader": lambda: score_batches(model, unreadable),
            "before": before,
            "after": after,
            "another": another,
            "alone": alone,
            "good": lambda: score_batches(model, loader(N, 4)),
        }.items()
    }
    told["kind"] = said(
        lambda: list(score_batches(model, loader(N, 4), kind=("gap", "probability")[rank]))
    )
    told["samples"] = said(lambda: list(score_batches(model, loader(N - rank, 4))))
    other = model if rank == 0 else nn.BatchNorm1d(FEATURES, track_running_stats=False)
    told["model"] = said(lambda: list(score_batches(other, loader(N, 4))))
    told["gathered"] = said(lambda: gather_scores(pairs_failing_on_rank_1(rank)))
    told["world"] = said(
        lambda: score_batches(model, DataLoader(samples(), 4, sampler=RankShard(N, 0, 3)))
    )
    told["selection"] = sampler.indices
    told["kept"] = all(map(torch.equal, own, model.buffers()))
    told["modes"] = model.training
    return told


def pairs_failing_on_rank_1(rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.arange(3), torch.zeros(3)
    if rank == 1:
        raise OSError("disk")


def gathered(rank: int) -> dict[str, Any]:
    mine = torch.tensor([5, 3, 1]) + 10 * rank
    pairs = [(mine[:2], mine[:2].double() / 3), (mine[2:], mine[2:].double() / 3)]
    return {
        "uneven": gather_scores(pairs if rank else pairs[:1]),
        "empty": gather_scores(pairs if rank else []),
        "nothing": gather_scores([]),
    }


def on_rank(rank: int, folder: Path) -> dict[str, Any]:
    return {"scored": scored(rank), "refused": refused(rank), "gathered": gathered(rank)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return told_by_two(on_rank, tmp_path_factory.mktemp("ranks"))


def same(one: Iterable[tuple[Tensor, Tensor]], other: Iterable[tuple[Tensor, Tensor]]) -> bool:
    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        torch.equal(*indices) and scores[0].dtype == scores[1].dtype and torch.equal(*scores)
        for indices, scores in (zip(*pair, strict=True) for pair in zip(one, other, strict=True))
    )


def of_rank_0(told: list[dict[str, Any]]) -> nn.Module:
    model = network()
    for buffer, value in zip(model.buffers(), told[0]["scored"]["own"], strict=True):
        buffer.copy_(value)
    return model


def joined(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    indices, scores = zip(*pairs, strict=True)
    return torch.cat(indices), torch.cat(scores)


def test_both_ranks_get_the_bits_that_one_process_computes(told: list[dict[str, Any]]) -> None:
    model = of_rank_0(told)
    one_process = list(score_batches(model, DataLoader(samples(), 11), kind="loss"))
    first, second = (each["scored"] for each in told)
    assert not all(map(torch.equal, first["own"], second["own"]))  # or nothing was to be agreed on
    for each in (first, second):
        assert same(each["aligned"], one_process)
        assert each["kind"] == "loss"
        assert each["calls"] == ([], [11])  # nothing before pairs are asked for, then its own part
        assert each["again"] == []


@pytest.mark.parametrize("name", ["uneven", "one", "workers", "wrapped", "inside one"])
def test_parts_of_other_lengths_are_scored_all_the_same(
    told: list[dict[str, Any]], name: str
) -> None:
    count = 1 if name.endswith("one") else 5
    first, second = (each["scored"][name] for each in told)
    assert same(first, second)
    indices, scores = joined(first)
    expected = joined(score_batches(of_rank_0(told), DataLoader(samples(count), count)))
    assert torch.equal(indices, expected[0])
    torch.testing.assert_close(scores, expected[1])
    # Each rank did its part: 2 and 3 of 5, and none and one of one.
    assert [len(part) for part, _ in first] == ([1] if count == 1 else [2, 3])


def test_indices_of_the_callers_own_are_exchanged_as_told(told: list[dict[str, Any]]) -> None:
    first, second = (each["scored"]["indices"] for each in told)
    assert same(first, second)
    assert joined(first)[0].tolist() == [*range(11), *range(100, 111)]


def test_networks_are_as_they_were_afterwards(told: list[dict[str, Any]]) -> None:
    for each in told:
        assert each["scored"]["modes"] == (True, True, True)
        for buffers in each["scored"]["kept"]:
            assert all(map(torch.equal, buffers, each["scored"]["own"]))
        assert each["refused"]["kept"]
        assert each["refused"]["modes"]


def test_a_rank_that_fails_is_told_to_the_other_wherever_it_does(
    told: list[dict[str, Any]],
) -> None:
    first, second = (each["refused"] for each in told)
    scoring = "RuntimeError: rank 1 could not score its part of the samples: "
    assert (first["forward"], second["forward"]) == (f"{scoring}OSError: gpu", "OSError: gpu")
    assert (first["loader"], second["loader"]) == (f"{scoring}OSError: disk", "OSError: disk")
    assert second["before"] == "OSError: before"
    assert first["before"].endswith("rank 1 could not begin an epoch: OSError: before")
    assert first["after"] == "OSError: after"
    assert second["after"] == "RuntimeError: rank 0 could not begin an epoch: OSError: after"
    assert second["gathered"] == "OSError: disk"
    assert first["gathered"] == "RuntimeError: rank 1 could not give its scores: OSError: disk"
    # Afterwards they go on together.
    assert first["good"] == second["good"] == "done"
    assert torch.equal(first["selection"], second["selection"])


def test_ranks_that_score_otherwise_are_told_so(told: list[dict[str, Any]]) -> None:
    first, second = (each["refused"] for each in told)
    assert (
        "rank 1: got one that is to begin an epoch, want it to begin to score" in first["another"]
    )
    assert (
        "rank 0: got one that is to begin to score, want it to begin an epoch" in second["another"]
    )
    assert first["alone"].endswith("want it to begin an epoch like this one")
    assert second["alone"].endswith("want it to begin to score like this one")
    for name, message in {
        "kind": "kind: got probability on rank 1 and gap on rank 0, want the same on all",
        "samples": f"num_samples: got {N - 1} on rank 1 and {N} on rank 0, want the same on all",
        "model": "shapes of the model's statistics: got [] on rank 1 and [[4], [4]] on rank 0, want the same "
        "on all",
    }.items():
        assert first[name] == second[name] == f"ValueError: {message}"
    assert first["world"] == second["world"]
    assert first["world"].startswith("ValueError: world: got 3, want 2, as many ranks as")


def test_scores_of_ones_own_reach_all_ranks_in_their_order(told: list[dict[str, Any]]) -> None:
    first, second = (each["gathered"] for each in told)
    for name, parts in {
        "uneven": [[5, 3], [15, 13, 11]],
        "empty": [[15, 13, 11]],
        "nothing": [],
    }.items():
        assert same(first[name], second[name])
        assert [indices.tolist() for indices, _ in first[name]] == parts
        for indices, scores in first[name]:
            assert torch.equal(scores, indices.double() / 3)


def test_without_a_process_group_scores_stay_what_they_are() -> None:
    pairs = [(torch.tensor([2, 1]), torch.tensor([0.5, 1.5])), (torch.tensor([0]), torch.zeros(1))]
    ((indices, scores),) = gather_scores(pairs)
    assert (indices.tolist(), scores.tolist()) == ([2, 1, 0], [0.5, 1.5, 0.0])
    model = network()
    one, other = (
        list(score_batches(model, made)) for made in (loader(N, 4), DataLoader(samples(), 4))
    )
    assert same(one, other)
    for wrong, message in (
        ((torch.arange(2).int(), torch.zeros(2)), "indices: got torch.int32, want an int64"),
        ((torch.arange(2), torch.arange(2)), "scores: got .*, want a floating point tensor"),
        ((torch.arange(2), torch.zeros(3)), "scores: got shape .*, want"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            gather_scores([wrong])


def test_a_loader_of_parts_that_leaves_samples_out_is_refused() -> None:
    model = network()
    for options, message in (
        ({"batch_size": 4, "drop_last": True}, "loader: got drop_last=True, want the last"),
        ({"batch_size": None}, "loader: got batch_size=None with a RankShard, want a batch_size"),
    ):
        with pytest.raises(ValueError, match=message):
            score_batches(model, DataLoader(samples(), sampler=RankShard(N), **options))
    with pytest.raises(ValueError, match=f"num_samples: got {N - 1}, want {N}, the samples of the"):
        score_batches(model, DataLoader(samples(), 4, sampler=RankShard(N - 1)))
    with pytest.raises(ValueError, match="world: got 2, want 1, as many ranks as the default"):
        score_batches(model, DataLoader(samples(), 4, sampler=RankShard(N, 0, 2)))
