"""dk.smallest_k_grouped is one exact selection for each group: any groups, quotas, dtypes, ties, threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import keys, layouts_1d, special_values

ORDERS = ("index", "value")
FRACTIONS = (1e-9, 0.05, 0.5, 0.6, 1.0)


def check(values: Tensor, groups: Tensor, k: Any, orders: tuple[str, ...] = ORDERS) -> None:
    quotas = k if isinstance(k, float) else [int(one) for one in k]
    for order in orders:
        got = dk.smallest_k_grouped(values, groups, k, order=order)
        assert got.values.device == got.indices.device == values.device
        want = oracle.smallest_k_grouped(
            oracle.array(values), groups.cpu().numpy(), quotas, order=order
        )
        oracle.check_selection(got, values, want, order)


def some_of_each(groups: Tensor, group_count: int, seed: int = 0) -> list[int]:
    """Quotas from none to all of a group."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups.numpy(), minlength=group_count)
    quotas: list[int] = np.floor(rng.random(group_count) * (sizes + 1)).astype(int).tolist()
    return quotas


@given(values=keys(), data=st.data())
def test_each_group_is_selected_from_on_its_own(
    values: Tensor, data: st.DataObject, device: str
) -> None:
    size = len(values)
    group_count = data.draw(st.integers(1, size + 2))
    groups = torch.from_numpy(
        np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, group_count, size)
    )
    quotas = some_of_each(groups, group_count, data.draw(st.integers(0, 99)))
    x, g = values.to(device), groups.to(device)
    check(x, g, quotas)
    check(x, g, data.draw(st.sampled_from(FRACTIONS)))


@given(data=st.data())
def test_every_quota_of_small_groups_of_hard_values(data: st.DataObject, device: str) -> None:
    hard = st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1.0])
    pairs = data.draw(st.lists(st.tuples(hard, st.integers(0, 3)), max_size=12))
    values = torch.tensor([p[0] for p in pairs], dtype=torch.float32, device=device)
    groups = torch.tensor([p[1] for p in pairs], dtype=torch.int64, device=device)
    sizes = torch.bincount(groups, minlength=4).tolist()
    for part in range(4):
        check(values, groups, [size * part // 3 for size in sizes])


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("group_count", [1, 7, 400, 30_000])
def test_many_values_in_few_or_many_groups(
    dtype: torch.dtype, group_count: int, device: str
) -> None:
    rng = np.random.default_rng(group_count)
    size = 30_011
    normal = rng.standard_normal(size)
    groups = rng.integers(0, group_count, size)
    inputs = {
        "gaps": np.abs(normal) ** 3,
        "ties": rng.integers(0, 3, size).astype(np.float64),
        "apart": normal + 100 * groups,  # each group in a range of its own
        "half nan": np.where(rng.random(size) < 0.5, np.nan, normal),
    }
    # The oracle goes group by group: of many, a few stand for all.
    g = torch.from_numpy(groups)
    quotas = some_of_each(g, group_count)
    for raw in inputs.values():
        x = torch.from_numpy(raw).to(dtype)
        if group_count <= 400:
            check(x.to(device), g.to(device), quotas, ("index",))
            check(x.to(device), g.to(device), 0.6, ("value",))
        else:
            got = dk.smallest_k_grouped(x.to(device), g.to(device), 0.5).indices.cpu()
            for group in (0, 17, group_count - 1):
                members = np.flatnonzero(groups == group)
                want = members[
                    oracle.smallest_k(oracle.array(x)[members], oracle.share(0.5, len(members)))
                ]
                assert got[g[got] == group].tolist() == want.tolist()


def test_one_group_is_a_plain_selection_and_groups_of_one_are_all_or_none(device: str) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(1)).to(device)
    one = torch.zeros(20_000, dtype=torch.int64, device=device)
    for order in ORDERS:
        got = dk.smallest_k_grouped(x, one, [12_000], order=order)
        oracle.check_selection(got, x, 12_000, order)
    taken = torch.arange(20_000) % 3 == 0
    own = torch.arange(19_999, -1, -1, device=device)
    got = dk.smallest_k_grouped(x, own, taken.long())
    assert torch.equal(got.indices.cpu(), taken.flip(0).nonzero().flatten())


def test_groups_in_runs_and_of_very_different_sizes(device: str) -> None:
    sizes = torch.tensor([0, 1, 40_000, 3, 0, 5000, 2])
    groups = torch.repeat_interleave(torch.arange(7), sizes)
    x = torch.randn(len(groups), generator=torch.Generator().manual_seed(2)).to(device)
    check(x, groups.to(device), 0.3)
    check(x, groups.to(device), [0, 1, 17, 3, 0, 4999, 0])


def test_special_values_of_every_dtype(device: str) -> None:
    for dtype in oracle.DTYPES:
        x = special_values(dtype)
        x = torch.cat([x, x.flip(0)])
        groups = torch.arange(len(x)) % 3
        for fraction in (0.2, 0.5, 0.9):
            check(x.to(device), groups.to(device), fraction)


def test_any_strides(device: str) -> None:
    base = torch.randint(-9, 9, (500,), generator=torch.Generator().manual_seed(4)).float()
    groups = torch.arange(500, device=device) % 11
    apart = torch.stack([groups, groups + 99], 1)[:, 0]
    for _name, x in layouts_1d(base.to(device)):
        check(x, groups, 0.4)
        check(x, apart, 0.4)


def test_groups_numbered_far_apart(device: str) -> None:
    x = torch.arange(8.0, device=device)
    groups = torch.tensor([5, 10**12, 5, 2**62, 10**12, 5, 5, 10**12], device=device)
    assert dk.smallest_k_grouped(x, groups, 0.5).indices.tolist() == [0, 1, 2, 3, 4]


def test_the_forms_of_k(device: str) -> None:
    x = torch.tensor([3.0, 1.0, 2.0, 0.0, 5.0], device=device)
    groups = torch.tensor([0, 0, 2, 2, 2], device=device)
    for k in ([1, 0, 2], (1, 0, 2), torch.tensor([1, 0, 2]), np.array([1, 0, 2]),
              torch.tensor([1, 0, 2], dtype=torch.int32), [np.int32(1), torch.tensor(0), 2]):  # fmt: skip
        assert dk.smallest_k_grouped(x, groups, k).indices.tolist() == [1, 2, 3]
    empty = torch.empty(0, device=device)
    for nothing in ([], [0, 0], 0.5):
        assert dk.smallest_k_grouped(empty, empty.long(), nothing).indices.tolist() == []


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_any_number_of_threads_gives_the_same_bits(
    distinct: int, threads: Callable[[int], None]
) -> None:
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(0, distinct, (120_007,), generator=generator).float()
    for group_count in (1, 90, 60_000):
        groups = torch.randint(0, group_count, x.shape, generator=generator)
        answers = []
        for count in (1, 2, 3, 4):
            threads(count)
            answers.append(dk.smallest_k_grouped(x, groups, 0.6))
        for other in answers[1:]:
            assert all(map(torch.equal, other, answers[0]))


def test_selection_is_not_differentiable(device: str) -> None:
    x = torch.randn(6, device=device, requires_grad=True)
    got = dk.smallest_k_grouped(x * 1, torch.zeros(6, dtype=torch.int64, device=device), 0.5)
    with pytest.raises(RuntimeError, match="not differentiable"):
        got.values.sum().backward()


# ------------------------------------------------------------------------------------ refusals

X, G = torch.randn(6), torch.tensor([0, 1, 1, 2, 2, 2])


@pytest.mark.parametrize(
    ("groups", "k", "error", "words"),
    [
        (G, [1, 3, 1], ValueError, "k: got 3 for group 1, want an int in [0, 2]"),
        (G, [1, 1, 2**40], ValueError, f"k: got {2**40} for group 2"),
        (G, [1, 1, 2**63], ValueError, f"k: got {2**63} for group 2"),
        (G, [1, -1, 1], ValueError, "k: got -1 for group 1"),
        (G, torch.tensor([1, -1, 1]), ValueError, "k: got -1 for group 1"),
        (G, [1, 1], ValueError, "groups: got 2, want every group in [0, 2)"),
        (G, [], ValueError, "groups: got 2, want every group in [0, 0)"),
        (G - 1, [1, 1, 1], ValueError, "groups: got -1"),
        (G - 1, 0.5, ValueError, "groups: got -1"),
        (G, 0.0, ValueError, "k: got 0.0"),
        (G, 1.5, ValueError, "k: got 1.5"),
        (G, math.nan, ValueError, "k: got nan"),
        (G, 2, TypeError, "k: got int"),
        (G, None, TypeError, "k: got NoneType"),
        (G, [1, True, 1], TypeError, "k: got bool for group 1"),
        (G, [1, 0.5, 1], TypeError, "k: got float for group 1"),
        (G, torch.ones(3), TypeError, "k: got dtype torch.float32"),
        (G, torch.ones(3, 1, dtype=torch.int64), ValueError, "k: got shape (3, 1)"),
        (G[:5], 0.5, ValueError, "groups: got shape (5,), want (6,)"),
        (G[None], 0.5, ValueError, "groups: got shape (1, 6)"),
        (G.int(), 0.5, TypeError, "groups: got dtype torch.int32"),
        (G.tolist(), 0.5, TypeError, "groups: got list"),
        (G.to("meta"), 0.5, ValueError, "groups: got device meta"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(
    groups: Any, k: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        dk.smallest_k_grouped(X, groups, k)
    assert str(caught.value).startswith(words)
