"""What ranks score for a sharded sampler stays where it was made, is what one process scores, and costs what is said.

One pair of processes does everything and writes down what came of it; each test looks at a part of that.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from dynams.selection import RankShard, SubsetSampler, score_batches
from pages import python_blocks
from two_ranks import told_by_two

N, FEATURES, CLASSES, BATCH = 64, 6, 4, 8
MANY = 100_000
BITS = MANY // 2 // 8
# Of one selection, as docs/selection.md says: histograms of 11-bit digits, and what ranks agree on.
HISTOGRAMS, AGREED = 3 * 2**11 * 8, 4096


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(8)
    inputs = torch.randn(N, FEATURES, generator=generator)
    return TensorDataset(inputs, torch.randint(0, CLASSES, (N,), generator=generator))


def network(*, normed: bool, seen: Tensor | None = None) -> nn.Module:
    """Its parameters are always the same, its statistics those of what it saw."""
    generator = torch.Generator().manual_seed(9)
    first = nn.BatchNorm1d(FEATURES) if normed else nn.Tanh()
    model = nn.Sequential(first, nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    for _ in range(3 if seen is not None else 0):
        model(seen)
    return model


def scoring(batch_size: int) -> DataLoader[Any]:
    return DataLoader(samples(), batch_size, sampler=RankShard(N))


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def selected(rank: int) -> dict[str, Any]:
    """By a network whose statistics are of other samples on each rank."""
    model = network(normed=True, seen=samples().tensors[0][rank::2])
    own = [buffer.clone() for buffer in model.buffers()]
    told: dict[str, Any] = {"own": own}
    for name, batch_size in {"aligned": BATCH, "cut elsewhere": 5}.items():
        for sharded in (False, True):
            sampler = SubsetSampler(
                N,
                budget=0.5,
                score=lambda batch_size=batch_size: score_batches(model, scoring(batch_size)),
                sharded=sharded,
            )
            sampler.set_epoch(0)
            told[f"{name} {sharded}"] = [sampler.margins, sampler.indices, sampler.order()]
    told["kept"] = [*map(torch.equal, own, model.buffers()), model.training]
    return told


def refused(rank: int) -> dict[str, str]:
    model = network(normed=True)

    def fails(_: object, inputs: Tensor) -> Tensor:
        if rank == 1:
            raise OSError("gpu")
        return model(inputs)

    def wrapped() -> Iterator[tuple[Tensor, Tensor]]:
        yield from score_batches(model, scoring(BATCH))

    def plain() -> Any:
        return score_batches(model, DataLoader(samples(), BATCH))

    def one_gathers() -> Any:
        pairs = score_batches(model, scoring(BATCH))
        return pairs.of_this_rank() if rank == 1 else list(pairs)

    sampler = SubsetSampler(N, sharded=True)
    whole = SubsetSampler(N)
    return {
        "fails": said(
            lambda: sampler.begin_epoch(0, lambda: score_batches(model, scoring(5), forward=fails))
        ),
        "wrapped": said(lambda: sampler.begin_epoch(0, wrapped)),
        "plain": said(lambda: sampler.begin_epoch(0, plain)),
        "one gathers": said(lambda: whole.begin_epoch(0, one_gathers)),
        "kind": said(
            lambda: sampler.begin_epoch(
                0, lambda: score_batches(model, scoring(BATCH), kind="entropy")
            )
        ),
        "good": said(lambda: sampler.begin_epoch(0, lambda: score_batches(model, scoring(BATCH)))),
    }


def trained(world: int) -> list[Tensor]:
    """The margins and the selection of the third epoch, after two with the same batches over all ranks."""
    model: nn.Module = network(normed=False)
    if world > 1:
        model = DistributedDataParallel(model)
    sampler = SubsetSampler(
        N,
        budget=0.5,
        warmup_epochs=1,
        score=lambda: score_batches(model, scoring(BATCH)),
        sharded=world > 1,
    )
    rank = dist.get_rank() if world > 1 else 0
    share = sampler.shard(rank, world, BATCH // world)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for inputs, labels in DataLoader(samples(), batch_sampler=share) if epoch < 2 else ():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            share.advance()
    return [sampler.margins, sampler.indices]


class Counted:
    """The collectives of torch.distributed, and how many bytes a rank hands in to each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = {"all_reduce": 0, "all_gather": 0, "all_gather_object": 0}
        for name, place in {"all_reduce": 0, "all_gather": 1, "all_gather_object": 1}.items():
            patch.setattr(dist, name, self._counting(name, getattr(dist, name), place))

    def _counting(self, name: str, collective: Callable[..., Any], place: int) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            given = arguments[place]
            is_tensor = isinstance(given, Tensor)
            self.bytes[name] += given.nbytes if is_tensor else len(pickle.dumps(given))
            return collective(*arguments, **options)

        return counted


def exchanged(sharded: bool) -> dict[str, int]:
    part = RankShard(MANY).part
    mine = torch.arange(part.start, part.stop) if sharded else torch.arange(MANY)
    margins = torch.rand(MANY, generator=torch.Generator().manual_seed(3))[mine]
    sampler = SubsetSampler(MANY, budget=0.3, sharded=sharded)
    with pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch)
        sampler.begin_epoch(0, lambda: [(mine, margins)])
    return counted.bytes


def by_the_page(folder: Path) -> dict[str, Any]:
    (block,) = python_blocks("docs/selection.md", "Scores by shard")
    names: dict[str, Any] = {"plain_set": samples(), "model": network(normed=True)}
    exec(block.replace('"sampler.pt"', repr(str(folder / "sampler.pt"))), names)
    return {"order": names["sampler"].order(), "batches": list(names["batches"])}


def on_rank(rank: int, folder: Path) -> dict[str, Any]:
    return {
        "page": by_the_page(folder.parent),
        "selected": selected(rank),
        "refused": refused(rank),
        "trained": trained(2),
        "exchanged": exchanged(sharded=True),
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks") / "told"
    folder.mkdir()
    told = told_by_two(on_rank, folder)
    told[0]["page"]["saved"] = torch.load(folder.parent / "sampler.pt", weights_only=True)
    return told


@pytest.mark.parametrize("batches", ["aligned", "cut elsewhere"])
def test_each_rank_keeps_the_scores_that_gathering_would_have_given(
    told: list[dict[str, Any]], batches: str
) -> None:
    first, second = (each["selected"] for each in told)
    everything, chosen, order = first[f"{batches} False"]
    parts = [each[f"{batches} True"] for each in (first, second)]
    assert torch.equal(torch.cat([margins for margins, _, _ in parts]), everything)
    for _, indices, ordered in parts:
        assert torch.equal(indices, chosen)
        assert torch.equal(ordered, order)
    for each in (first, second):
        assert all(each["kept"])
    assert not all(map(torch.equal, first["own"], second["own"]))  # or nothing was to be agreed on


@pytest.mark.parametrize("batches", ["aligned", "cut elsewhere"])
def test_one_process_scores_and_selects_alike(told: list[dict[str, Any]], batches: str) -> None:
    model = network(normed=True)
    for buffer, value in zip(model.buffers(), told[0]["selected"]["own"], strict=True):
        buffer.copy_(value)
    sampler = SubsetSampler(N, budget=0.5, score=lambda: score_batches(model, scoring(BATCH)))
    sampler.set_epoch(0)
    margins = torch.cat([each["selected"][f"{batches} True"][0] for each in told])
    if batches == "aligned":
        assert torch.equal(margins, sampler.margins)
    assert_alike(margins, told[0]["selected"][f"{batches} True"][1], sampler)


def assert_alike(
    margins: Tensor, chosen: Tensor, sampler: SubsetSampler, most: float = 1e-4
) -> None:
    """Close scores, and the same samples where margins differ by more than scores do."""
    torch.testing.assert_close(margins, sampler.margins, rtol=0, atol=most)
    ascending = sampler.margins.sort().values
    k = len(sampler.indices)
    assert float(ascending[k] - ascending[k - 1]) > 2 * most  # or the subset need not be the same
    assert torch.equal(chosen, sampler.indices)


def test_training_by_the_same_batches_scores_and_selects_alike(
    told: list[dict[str, Any]],
) -> None:
    sampler = SubsetSampler(N, budget=0.5)
    margins, chosen = trained(1)
    sampler.begin_epoch(0, lambda: [(torch.arange(N), margins)])
    assert torch.equal(sampler.indices, chosen)
    assert_alike(torch.cat([each["trained"][0] for each in told]), told[0]["trained"][1], sampler)
    untrained = torch.cat(
        [scores for _, scores in score_batches(network(normed=False), scoring(BATCH))]
    )
    assert float((margins - untrained).abs().max()) > 0.1  # or nothing was trained


def test_the_page_s_ranks_select_what_one_process_does(told: list[dict[str, Any]]) -> None:
    model = network(normed=True)
    sampler = SubsetSampler(N, score=lambda: score_batches(model, scoring(N)))
    sampler.set_epoch(0)
    saved = told[0]["page"]["saved"]
    assert torch.equal(saved["indices"], sampler.indices)
    assert saved["scores"]["gap"]["num_samples"] == N
    for rank, each in enumerate(told):
        assert torch.equal(each["page"]["order"], sampler.order())
        assert each["page"]["batches"] == [sampler.order()[rank::2].tolist()]  # one step


def test_a_selection_sends_what_the_page_says(told: list[dict[str, Any]]) -> None:
    for each in told:
        sent = each["exchanged"]
        assert 0 < sent["all_reduce"] <= HISTOGRAMS
        assert BITS <= sent["all_gather"] <= BITS + AGREED
        assert 0 < sent["all_gather_object"] <= AGREED
    with pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch)
        SubsetSampler(MANY, sharded=True).begin_epoch(
            0, lambda: [(torch.arange(MANY), torch.ones(MANY))]
        )
    assert set(counted.bytes.values()) == {0}  # one process tells nobody


def test_what_fails_or_was_gathered_is_refused_on_both(told: list[dict[str, Any]]) -> None:
    first, second = (each["refused"] for each in told)
    scoring = "RuntimeError: rank 1 could not score its part of the samples: OSError: gpu"
    assert (first["fails"], second["fails"]) == (scoring, "OSError: gpu")
    for name in ("wrapped", "plain"):
        want = "ValueError: indices: got 0 to 63, want them in [{}): a sharded sampler's rank scores its part"
        assert first[name].startswith(want.format("0, 32"))
        assert second[name].startswith(want.format("32, 64"))
    assert first["one gathers"] == second["one gathers"]
    assert first["one gathers"] == (
        "ValueError: whether scores are gathered: got False on rank 1 and True on rank 0, want the same on all"
    )
    assert first["kind"] == second["kind"]
    assert first["kind"].startswith("ValueError: score: got entropy, want gap")
    assert first["good"] == second["good"] == "done"
