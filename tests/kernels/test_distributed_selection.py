"""dk.distributed.smallest_k: on any number of ranks, however the values are split, the answer of one process."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import counts, keys, layouts_1d, special_values
from pages import python_blocks
from two_ranks import told_by_ranks, told_by_two

WORLDS = (1, 2, 3, 5, 8)
MOST_CASES = 500  # of a nightly run


@dataclass
class Case:
    values: Tensor
    k: int | float
    seed: int
    step: int  # between global indices
    first: int  # of them

    def cuts(self, world: int) -> list[int]:
        """Where the ranks' parts begin and end: uneven, some empty."""
        rng = np.random.default_rng(self.seed)
        inner = np.sort(rng.integers(0, len(self.values) + 1, world - 1))
        if self.seed % 4 == 0 and world > 1:
            inner[:] = inner[0]  # all but two are empty
        return [0, *inner.tolist(), len(self.values)]

    def own(self, rank: int, world: int) -> Tensor:
        """The places of a rank's values, in no order, none of them another's."""
        rng = np.random.default_rng(self.seed + 1)
        owners = rng.integers(0, world, len(self.values))
        return torch.from_numpy(rng.permutation(len(self.values))[owners == rank])

    def want(self) -> Tensor:
        """The places of the selected values, by the oracle."""
        size = oracle.share(self.k, len(self.values))
        return torch.from_numpy(oracle.smallest_k(oracle.array(self.values), size))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    values = draw(keys(max_size=600))
    k: int | float = draw(counts(len(values)))
    if draw(st.integers(0, 4)) == 0:
        k = draw(st.sampled_from([1e-9, 0.1, 0.6, 1.0]))
    # Indices of few bits and of all 64, negative ones among them.
    step, first = draw(
        st.sampled_from([(1, 0), (3, 5), (7, -1000), (2**40, -(2**50)), (2**53, -(2**63))])
    )
    return Case(values, k, draw(st.integers(0, 999)), step, first)


def drawn() -> list[Case]:
    """As many cases as the profile says: drawn once, as all ranks must have the same."""
    found: list[Case] = []

    @settings(max_examples=min(settings().max_examples, MOST_CASES))
    @given(case=cases())
    def take(case: Case) -> None:
        found.append(case)

    take()
    return found


def hard_cases() -> list[Case]:
    """Special values of every dtype, and ties that are cut between ranks."""
    made = []
    for seed, dtype in enumerate(oracle.DTYPES):
        special = special_values(dtype)
        made += [Case(special, k, seed, 3, -30) for k in (1, len(special) // 2, len(special) - 1)]
        many = torch.randn(9000, generator=torch.Generator().manual_seed(seed)).to(dtype)
        many[::3] = 0.25
        made += [Case(many, k, seed, 1, 0) for k in (0.6, 6100)]
        made.append(Case(torch.full((100,), math.nan, dtype=dtype), 37, seed, 2, 0))
    return made


@pytest.mark.parametrize("world", WORLDS)
def test_the_answer_of_one_process_on_any_number_of_ranks(world: int, tmp_path: Path) -> None:
    tried = drawn()[:: 2 if world == 8 else 1] + hard_cases()

    def make(rank: int, _: Path) -> dict[str, Any]:
        found = []
        for case in tried:
            begin, end = case.cuts(world)[rank : rank + 2]
            in_turn = dk.distributed.smallest_k(case.values[begin:end], case.k)
            own = case.own(rank, world)
            numbered = dk.distributed.smallest_k(
                case.values[own], case.k, indices=own * case.step + case.first
            )
            found.append((*in_turn, *numbered))
        return {"found": found}

    told = [one["found"] for one in told_by_ranks(make, tmp_path, world)]
    for place, case in enumerate(tried):
        want = case.want()
        alone = dk.smallest_k(case.values, case.k)
        assert torch.equal(alone.indices, want)
        answers = [told[rank][place] for rank in range(world)]
        # Rank after rank, the winners are those of one process, in its order.
        assert torch.equal(torch.cat([one[1] for one in answers]), want), (place, case)
        assert oracle.same_bits(torch.cat([one[0] for one in answers]), alone.values)
        cuts = case.cuts(world)
        for rank, (_, places, values, indices) in enumerate(answers):
            assert ((places >= cuts[rank]) & (places < cuts[rank + 1])).all()
            mine = want[torch.isin(want, case.own(rank, world))]
            assert torch.equal(indices, mine * case.step + case.first), (place, case)
            assert oracle.same_bits(values, case.values[mine])


# ------------------------------------------------------------------------------------ rounds and bytes


class Traffic:
    """The collectives of a process, and what it gives to each."""

    def __init__(self) -> None:
        self.sums: list[int] = []
        self.gathers: list[int] = []

    def __enter__(self) -> Traffic:
        self._real = dist.all_reduce, dist.all_gather

        def all_reduce(tensor: Tensor, *rest: Any, **named: Any) -> Any:
            self.sums.append(tensor.nbytes)
            return self._real[0](tensor, *rest, **named)

        def all_gather(into: list[Tensor], tensor: Tensor, *rest: Any, **named: Any) -> Any:
            self.gathers.append(tensor.nbytes)
            return self._real[1](into, tensor, *rest, **named)

        dist.all_reduce, dist.all_gather = all_reduce, all_gather
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_reduce, dist.all_gather = self._real


KIB = 1024
ROUNDS = {
    torch.float16: [2 * KIB] * 2,
    torch.bfloat16: [2 * KIB] * 2,
    torch.float32: [16 * KIB] * 2 + [8 * KIB],
    torch.float64: [16 * KIB] * 4 + [8 * KIB] * 2,
}


def traffic_of_two(folder: Path, size: int) -> list[dict[str, Any]]:
    def make(rank: int, _: Path) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for dtype in oracle.DTYPES:
            x = (torch.arange(size) % 7).to(dtype)
            indices = torch.arange(size) * 2 + rank
            for name, numbers in (("in turn", None), ("numbered", indices)):
                with Traffic() as traffic:
                    dk.distributed.smallest_k(x, size, indices=numbers)
                told[f"{dtype} {name}"] = (traffic.sums, traffic.gathers)
        return told

    return told_by_two(make, folder)


def test_rounds_and_bytes_are_those_of_the_dtype(tmp_path: Path) -> None:
    for size in (20, 50_000):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        for told in traffic_of_two(folder, size):
            for dtype, rounds in ROUNDS.items():
                # The exchange before, and the ties of each rank after.
                assert told[f"{dtype} in turn"] == (rounds, [512, 8])
                # Ties are cut: 40 or 100,000 indices are told apart by 6 or 17 bits.
                more = [64 * 8] if size == 20 else [512 * 8, 256 * 8]
                assert told[f"{dtype} numbered"] == (rounds + more, [512])


# ------------------------------------------------------------------------------------ errors


Long = type("Lé" * 400, (str,), {})
X = torch.arange(6.0)
I = torch.arange(6)  # noqa: E741 - indices
Arguments = tuple[Any, Any, Any]
# What each of two ranks gives, and what all of them are told: the error, and how its message begins on the other.
REFUSED: dict[str, tuple[Arguments, Arguments, type[Exception], str]] = {
    "k": ((X, 4, None), (X, 5, None), ValueError, "k: got 5 on rank 1 and 4 on rank 0, want the same"),
    "int and float": ((X, 1, None), (X, 1.0, None), ValueError, "k: got 1.0 on rank 1 and 1 on rank 0"),
    "dtype": ((X, 4, None), (X.double(), 4, None), ValueError, "dtype: got torch.float64 on rank 1"),
    "indices": ((X, 4, I), (X, 4, None), ValueError, "indices: got None on rank 1 and a tensor on rank 0"),
    "type of k": ((X, 4, None), (X, "4", None), TypeError, "on rank 1: k: got str, want an int or a float"),
    "values": ((X, 4, None), (X.tolist(), 4, None), TypeError, "on rank 1: values: got list, want a tensor"),
    "shape": ((X, 4, None), (X[None], 4, None), ValueError, "on rank 1: values: got shape (1, 6)"),
    "device": ((X, 4, None), (X.to("meta"), 4, None), ValueError, "on rank 1: values: got device meta, want"),
    "indices' type": ((X, 4, I), (X, 4, I.int()), TypeError, "on rank 1: indices: got dtype torch.int32"),
    "a list": ((X, 4, I), (X, 4, I.tolist()), TypeError, "on rank 1: indices: got list, want an int64"),
    "their shape": ((X, 4, I), (X, 4, I[:2]), ValueError, "on rank 1: indices: got shape (2,), want (6,)"),
    "a long k": ((X, 4, None), (X, 10**600, None), ValueError, "on rank 1: what a rank tells: got 7"),
    "a long message": ((X, 4, None), (X, Long("4"), None), TypeError, "on rank 1: k: got LéLé"),
    "too many": ((X, 13, None), (X, 13, None), ValueError, "k: got 13, want 0 <= k <= 12"),
    "negative": ((X, -1, None), (X, -1, None), ValueError, "k: got -1, want 0 <= k <= 12"),
    "fraction": ((X, 1.5, None), (X, 1.5, None), ValueError, "k: got 1.5, want"),
    "nan": ((X, math.nan, None), (X, math.nan, None), ValueError, "k: got nan, want"),
    "an index twice": ((X, 3, I), (X, 3, I), ValueError, "indices: got 1 for 2 equal values, want every index once"),
}  # fmt: skip


def tried(values: Any, k: Any, indices: Any = None, group: Any = None) -> tuple[str, str]:
    try:
        dk.distributed.smallest_k(values, k, indices=indices, group=group)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def test_an_error_is_one_of_all_ranks_and_the_next_call_is_none(tmp_path: Path) -> None:
    def make(rank: int, _: Path) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for name, both in REFUSED.items():
            told[name] = tried(*both[rank])
            assert (
                dk.distributed.smallest_k(X, 7).values.tolist() == [0.0, 1.0, 2.0, 3.0][: 4 - rank]
            )
        one = dist.new_group([0])
        two = dist.new_group([0, 1])
        told["of one"] = tried(X, 2, group=one)
        told["of two"] = dk.distributed.smallest_k(X, 7, group=two).indices.tolist()
        told["no group"] = tried(X, 2, group="all")
        # Last, as it leaves the groups out of step.
        apart = [dist.new_group([0, 1], timeout=timedelta(seconds=1)) for _ in range(2)]
        told["apart"] = tried(X, 2, group=apart[rank])
        return told

    told = told_by_two(make, tmp_path)
    for name, (_, _, error, message) in REFUSED.items():
        for rank in (0, 1):
            kind, said = told[rank][name]
            assert kind == error.__name__, (name, rank, said)
            # Its own error is not told to a rank as another's.
            wanted = message.removeprefix("on rank 1: ") if rank == 1 else message
            assert said.startswith(wanted), (name, rank)
    assert told[0]["of one"] == ("", "")
    assert told[1]["of one"][1].startswith("group: got one without this process")
    assert [one["of two"] for one in told] == [[0, 1, 2, 3], [6, 7, 8]]
    for one in told:
        assert one["no group"] == ("TypeError", "group: got str, want a process group or None")
        assert one["apart"][0] == "RuntimeError"
        assert one["apart"][1].startswith("group: got no answer from all of its 2 ranks")


# ------------------------------------------------------------------------------------ one process


def test_the_page_of_the_kernels_runs_in_one_process() -> None:
    for block in python_blocks("docs/kernels.md", "Over several ranks"):
        exec(block, {})


def test_the_signature_is_that_of_the_contract() -> None:
    parameters = inspect.signature(dk.distributed.smallest_k).parameters.values()
    assert [(one.name, one.kind == one.KEYWORD_ONLY, one.default) for one in parameters] == [
        ("values", False, inspect.Parameter.empty),
        ("k", False, inspect.Parameter.empty),
        ("indices", True, None),
        ("group", True, None),
    ]


def test_without_a_group_this_process_is_the_only_rank(device: str) -> None:
    x = torch.tensor([3.0, math.nan, -0.0, 0.0, -math.inf], device=device)
    for got, want in (
        (dk.distributed.smallest_k(x, 3), [2, 3, 4]),
        (dk.distributed.smallest_k(x, 0.4), [2, 4]),
        (dk.distributed.smallest_k(x, 0), []),
        (dk.distributed.smallest_k(x[:0], 0.5), []),
    ):
        assert got.indices.tolist() == want
        assert got.indices.device == x.device
        oracle.check_selection(got, x, np.array(want, dtype=np.int64))
    indices = torch.tensor([9, 7, 5, -3, 2**62], device=device)
    got = dk.distributed.smallest_k(x, 2, indices=indices)
    assert got.indices.tolist() == [-3, 2**62]
    assert got.values.tolist() == [0.0, -math.inf]
    assert dk.distributed.smallest_k(x, 5, indices=indices).indices.tolist() == [
        -3,
        5,
        7,
        9,
        2**62,
    ]


def test_the_outermost_indices() -> None:
    last = 2**63 - 1
    for indices in ([last], [-(2**63)], [last, last - 1], [last, -(2**63)]):
        numbers = torch.tensor(indices)
        for k in range(1, len(indices) + 1):
            got = dk.distributed.smallest_k(torch.zeros(len(indices)), k, indices=numbers)
            assert got.indices.tolist() == sorted(indices)[:k]


def test_indices_cut_ties_on_any_device(device: str) -> None:
    rng = np.random.default_rng(3)
    for dtype in oracle.DTYPES:
        x = torch.from_numpy(rng.integers(-2, 3, 500)).to(dtype).to(device)
        order = torch.from_numpy(rng.permutation(500)).to(device)
        for k in (1, 77, 250, 499, 500):
            got = dk.distributed.smallest_k(x[order], k, indices=order)
            oracle.check_selection(got, x, k)


def test_torch_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.setattr(dist, "is_initialized", None)
    assert dk.distributed.smallest_k(torch.tensor([2.0, 1.0]), 1).indices.tolist() == [1]
    with pytest.raises(ValueError, match="group: got object, want None"):
        dk.distributed.smallest_k(X, 1, group=object())


def test_any_strides_and_no_gradient(device: str) -> None:
    base = torch.randint(-9, 9, (300,), generator=torch.Generator().manual_seed(4)).float()
    indices = torch.arange(299, -1, -1, device=device)
    for _name, x in layouts_1d(base.to(device)):
        got = dk.distributed.smallest_k(x.requires_grad_(), 100, indices=indices)
        assert not got.values.requires_grad
        oracle.check_selection(got, x.detach().flip(0), 100)
