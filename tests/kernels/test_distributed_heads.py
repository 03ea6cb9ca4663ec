"""dk.distributed.linear_margin and linear_scores: a head whose classes are spread over ranks scores as the whole head does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from torch import Tensor
from torch.nn import functional as F

import dynams_kernels as dk
import oracle
from kernel_inputs import random_head
from live_ranks import LiveRanks
from pages import python_blocks
from spread_heads import compare, shards

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no distributed here")

INF, NAN = math.inf, math.nan
KINDS = oracle.SCORE_KINDS
SIZES = (2, 4)
IGNORED = -100


# ------------------------------------------------------------------------------------ on the ranks


def scored(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kinds: Sequence[str],
    named: dict[str, Any],
) -> dict[str, Tensor]:
    return dk.distributed.linear_scores(features, weight, kinds, bias, **named)


def margins(features: Tensor, weight: Tensor, bias: Tensor | None, named: dict[str, Any]) -> Tensor:
    return dk.distributed.linear_margin(features, weight, bias, **named)


def bytes_gathered(features: Tensor, weight: Tensor, kinds: Sequence[str], labels: Tensor) -> Any:
    """The bytes that this rank sends in each collective of a call, by a counting stand-in."""
    sent: list[int] = []
    gather = dist.all_gather

    def counting(into: list[Tensor], tensor: Tensor, **about: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return gather(into, tensor, **about)

    dist.all_gather = counting
    try:
        dk.distributed.linear_scores(features, weight, kinds, labels=labels)
    finally:
        dist.all_gather = gather
    return sent


def in_a_part_of_the_ranks(features: Tensor, weight: Tensor, members: list[int]) -> Any:
    group = dist.new_group(members)
    if dist.get_rank() not in members:
        with pytest.raises(ValueError, match="group: got one without this process"):
            dk.distributed.linear_margin(features, weight, group=group)
        return None
    return dk.distributed.linear_margin(features, weight, group=group)


def under_autocast(features: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return dk.distributed.linear_margin(features, weight)


# ------------------------------------------------------------------------------------ shards


def over_ranks(
    group: LiveRanks,
    sizes: Sequence[int],
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kinds: Sequence[str],
    **named: Any,
) -> dict[str, Tensor]:
    """The scores, which must be the same bits on every rank."""
    each = [(features, *shard, kinds, named) for shard in shards(sizes, weight, bias)]
    first, *others = group.call(scored, each)
    assert isinstance(first, dict), first
    assert list(first) == list(kinds)
    for other in others:
        assert all(oracle.same_bits(first[kind], other[kind]) for kind in kinds)
    return first


@st.composite
def heads(draw: st.DrawFn, ranks: int) -> tuple[list[int], Tensor, Tensor, Tensor | None, Tensor]:
    """Class counts of the ranks, and a head of small whole numbers: its logits are exact in every dtype, and often tie."""
    sizes = draw(
        st.lists(st.integers(0, 5), min_size=ranks, max_size=ranks).filter(lambda s: sum(s) > 1)
    )
    rows, size, classes = draw(st.integers(0, 9)), draw(st.integers(1, 6)), sum(sizes)
    dtype = draw(st.sampled_from(oracle.DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = torch.from_numpy(rng.integers(-3, 4, (rows, size))).to(dtype)
    weight = torch.from_numpy(rng.integers(-3, 4, (classes, size))).to(dtype)
    bias = None
    if draw(st.booleans()):
        bias = torch.from_numpy(rng.integers(-2, 3, classes)).to(dtype)
        special = draw(st.sampled_from([[], [INF], [-INF], [NAN], [INF, -INF], [-INF] * 9]))
        for value in special:
            bias[rng.integers(classes)] = value
    labels = torch.from_numpy(rng.integers(0, classes, rows))
    labels[torch.from_numpy(rng.random(rows) < 0.2)] = IGNORED
    if rows and draw(st.booleans()):
        features[rng.integers(rows), 0] = NAN
    return sizes, features, weight, bias, labels


@pytest.mark.parametrize("ranks", SIZES)
@given(data=st.data())
def test_scores_are_those_of_the_whole_head(
    ranks: int, data: st.DataObject, ranks_of: Callable[[int], LiveRanks]
) -> None:
    sizes, features, weight, bias, labels = data.draw(heads(ranks))
    kinds = data.draw(st.lists(st.sampled_from(KINDS), unique=True))
    got = over_ranks(ranks_of(ranks), sizes, features, weight, bias, kinds, labels=labels)
    with np.errstate(invalid="ignore"):
        z = oracle.linear(
            oracle.array(features),
            oracle.array(weight),
            None if bias is None else oracle.array(bias),
        )
    for kind, want in oracle.scores(z, kinds, labels.numpy()).items():
        assert got[kind].dtype == oracle.result_dtype(features.dtype)
        # Differences of exact logits have no error at all.
        exact = kind in ("gap", "label")
        # The oracle is of float64 itself, and its entropy cancels near 0.
        floor = 1.0 if kind == "entropy" or features.dtype == torch.float64 else 2.0**-14
        oracle.check(got[kind], want, ulps=0 if exact else 16, floor=floor)
        if exact:
            whole = dk.linear_scores(features, weight, [kind], bias, labels=labels)[kind]
            assert oracle.same_answer(got[kind], whole)


# Several runs of tiles a rank; blocks of rows; all of it one product. Ranks of one class, and of none.
SPREAD = [
    (40, 32, [12_000, 15_000]),
    (40, 24, [1, 20_000, 0, 7000]),
    (970, 24, [500, 0, 1, 599]),
    (9, 7, [5, 4, 3, 1]),
]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "size", "sizes"), SPREAD, ids=str)
def test_error_is_no_larger_than_torchs_own(
    rows: int,
    size: int,
    sizes: list[int],
    dtype: torch.dtype,
    ranks_of: Callable[[int], LiveRanks],
) -> None:
    features, weight, bias = random_head(rows, size, sum(sizes), dtype, scale=2.0)
    labels = torch.arange(rows) * 617 % sum(sizes)
    group = ranks_of(len(sizes))
    got = over_ranks(group, sizes, features, weight, bias, KINDS, labels=labels)
    want = oracle.scores(
        oracle.linear(*map(oracle.array, (features, weight, bias))), KINDS, labels.numpy()
    )
    torchs = oracle.scores(oracle.array(F.linear(features, weight, bias)), KINDS, labels.numpy())
    eps = torch.finfo(oracle.result_dtype(dtype)).eps
    for kind in KINDS:
        size_of = max(1.0, float(np.abs(want[kind]).max()))
        allowed = 1.25 * oracle.worst(torchs[kind], want[kind]) + 16 * eps * size_of
        assert oracle.worst(got[kind], want[kind]) <= allowed, kind


def test_what_is_nearly_certain_keeps_its_precision(
    ranks_of: Callable[[int], LiveRanks],
) -> None:
    weight = torch.tensor([[20.0], [0.0], [1.0], [19.0], [-3.0], [2.0]])
    features = torch.tensor([[1.0], [4.0], [-6.0], [0.0]])
    labels = torch.tensor([0, 0, 4, 2])
    got = over_ranks(ranks_of(2), [3, 3], features, weight, None, KINDS, labels=labels)
    z = oracle.array(features) @ oracle.array(weight).T
    for kind, want in oracle.scores(z, KINDS, labels.numpy()).items():
        oracle.check(got[kind], want, ulps=32)


def test_any_shape_width_and_mode(ranks_of: Callable[[int], LiveRanks]) -> None:
    features, weight, _ = random_head(6, 12, 9)
    (begin, _), (end, _) = shards([4, 5], weight, None)
    named = {"width": 0.5, "kind": "label", "labels": torch.arange(6).view(2, 3)}
    wide = features.view(2, 3, 12)
    got = ranks_of(2).call(margins, [(wide, begin, None, named), (wide, end, None, named)])
    want = dk.linear_margin(wide[..., :6], weight, **named)
    assert all(one.shape == (2, 3) and torch.allclose(one, want) for one in got)
    one, other = ranks_of(2).call(under_autocast, [(features, begin), (features, end)])
    half = dk.linear_margin(features.bfloat16(), weight.bfloat16())
    assert oracle.same_bits(one, half)
    assert oracle.same_bits(other, half)
    assert ranks_of(2).call(scored, [(wide, begin, None, [], {})] * 2) == [{}, {}]


def test_labels_and_a_class_that_is_ignored(ranks_of: Callable[[int], LiveRanks]) -> None:
    features, weight, bias = random_head(8, 5, 8)
    labels = torch.arange(8)
    got = over_ranks(
        ranks_of(2), [5, 3], features, weight, bias, ["loss", "gap"], labels=labels, ignore_index=6
    )
    assert got["loss"].isnan().tolist() == [False] * 6 + [True, False]
    assert not got["gap"].isnan().any()


def test_a_group_of_some_ranks(ranks_of: Callable[[int], LiveRanks]) -> None:
    features, weight, _ = random_head(6, 12, 9)
    parts = [one for one, _ in shards([4, 0, 5, 0], weight, None)]
    found = ranks_of(4).call(in_a_part_of_the_ranks, [(features, part, [0, 2]) for part in parts])
    assert found[1] is found[3] is None
    assert torch.allclose(found[0], dk.linear_margin(features, weight))
    assert oracle.same_bits(found[0], found[2])


def test_without_a_group_it_is_the_head_of_this_process() -> None:
    features, weight, bias = random_head(6, 12, 9)
    for kind in ("gap", "distance"):
        got = dk.distributed.linear_margin(features, weight, bias, width=5, kind=kind)
        assert oracle.same_bits(got, dk.linear_margin(features, weight, bias, width=5, kind=kind))
    got = dk.distributed.linear_scores(features, weight, ["entropy"], bias)["entropy"]
    assert oracle.same_bits(got, dk.linear_scores(features, weight, ["entropy"], bias)["entropy"])


def as_the_guide_has_it(hidden: Tensor, own_rows: Tensor, tokens: Tensor) -> list[Tensor]:
    names: dict[str, Any] = {
        "hidden": hidden.requires_grad_(), "own_rows": own_rows.requires_grad_(), "tokens": tokens
    }  # fmt: skip
    (block,) = python_blocks("docs/kernels.md", "Heads sharded over ranks")
    exec(block, names)
    return [names["found"]["loss"].detach(), own_rows.grad, hidden.grad]


def test_the_guide(ranks_of: Callable[[int], LiveRanks]) -> None:
    hidden, weight, _ = random_head(10, 8, 30)
    hidden, tokens = hidden.view(2, 5, 8), torch.arange(10).view(2, 5) * 3
    tokens[1, 1] = IGNORED
    parts = [one for one, _ in shards([14, 16], weight, None)]
    found = ranks_of(2).call(as_the_guide_has_it, [(hidden, part, tokens) for part in parts])
    whole = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss = F.cross_entropy(F.linear(*whole).flatten(0, 1), tokens.flatten())
    of_hidden, of_weight = torch.autograd.grad(loss, whole)
    for rank_loss, _, rank_hidden in found:
        compare(rank_loss.nanmean(), loss.detach(), 1e-6)
        compare(rank_hidden, of_hidden, 1e-6)
    compare(torch.cat([of_rows for _, of_rows, _ in found]), of_weight, 1e-6)


# ------------------------------------------------------------------------------------ what is sent


@pytest.mark.parametrize(
    ("kinds", "floats"),
    [(["gap"], 2), (["label"], 3), (["loss", "probability"], 4), (KINDS, 6)],
    ids=["gap", "label", "loss", "all"],
)
def test_bytes_a_row_do_not_grow_with_the_classes(
    kinds: list[str], floats: int, ranks_of: Callable[[int], LiveRanks]
) -> None:
    for classes in (4, 400):
        features, weight, _ = random_head(100, 3, classes)
        labels = torch.arange(100) % classes
        each = [
            (features, part, kinds, labels) for part, _ in shards([1, classes - 1], weight, None)
        ]
        # An agreement, and the states.
        assert ranks_of(2).call(bytes_gathered, each) == [[512, 100 * floats * 4]] * 2


# ------------------------------------------------------------------------------------ errors


FEATURES, WEIGHT, _ = random_head(4, 6, 5)
LABELS = torch.arange(4)
GOOD: dict[str, Any] = {"features": FEATURES, "weight": WEIGHT, "kinds": ["gap"], "named": {}}


def with_named(**named: Any) -> dict[str, Any]:
    return {"named": named}


@pytest.mark.parametrize(
    ("one", "other", "error", "message"),
    [
        ({"kinds": ["entropy"]}, {}, ValueError, "kinds: got gap on rank 1 and entropy on rank 0"),
        ({"features": FEATURES[:3]}, {}, ValueError, r"features: got \(4,\) on cpu on rank 1 and \(3,\)"),
        ({"features": FEATURES + 1}, {}, ValueError, r"features \(sum of bits\): got"),
        ({"features": FEATURES.flip(0)}, {}, ValueError, r"features \(sum of bits\): got"),
        ({"features": FEATURES.half(), "weight": WEIGHT.half()}, {}, ValueError, "weight: got torch.float32"),
        (with_named(width=3), {}, ValueError, "width: got 6 on rank 1 and 3 on rank 0"),
        (with_named(bias=torch.zeros(5)), {}, ValueError, "bias: got None on rank 1 and a tensor"),
        ({"weight": WEIGHT.clone().requires_grad_()}, {}, ValueError, "requires_grad: got"),
        ({"weight": WEIGHT.double()}, {}, TypeError, "weight: got dtype torch.float64, want the features'"),
        ({"weight": WEIGHT[:, :4]}, {}, ValueError, r"features: got shape \(4, 6\), want"),
        ({"kinds": ["gaps"]}, {}, ValueError, "kind: got 'gaps', want one of"),
        ({"kinds": ["loss"]}, {"kinds": ["loss"]}, ValueError, "labels: got None, want int64"),
        ({"kinds": ["distance"]}, {"kinds": ["distance"]}, ValueError, "kind: got 'distance' over several"),
        (with_named(width=[3, 6]), {}, TypeError, "width: got list, want one"),
        ({"weight": WEIGHT[:0]}, {"weight": WEIGHT[:1]}, ValueError, "weight: got 1 classes, want at least 2"),
    ],
)  # fmt: skip
def test_an_error_of_one_rank_or_a_disagreement_is_an_error_on_all(
    one: dict[str, Any],
    other: dict[str, Any],
    error: type[Exception],
    message: str,
    ranks_of: Callable[[int], LiveRanks],
) -> None:
    group = ranks_of(2)
    found = group.call(given_call, [(one,), (other,)])
    for raised in found:
        assert type(raised) is error, raised
        with pytest.raises(error, match=message):
            raise raised
    # The group is as good as before.
    assert all(isinstance(scores, dict) for scores in group.call(given_call, [({},), ({},)]))


def given_call(change: dict[str, Any]) -> Any:
    call = GOOD | change
    return dk.distributed.linear_scores(
        call["features"], call["weight"], call["kinds"], **call["named"]
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([LABELS, LABELS.flip(0)], r"labels \(sum\): got"),
        ([LABELS + 7] * 2, r"labels: got 10, want every label in \[0, 10\)"),
        ([LABELS - 9] * 2, r"labels: got -9, want every label in \[0, 10\)"),
    ],
)
def test_labels_that_differ_or_name_no_class_are_an_error_on_all(
    labels: list[Tensor], message: str, ranks_of: Callable[[int], LiveRanks]
) -> None:
    calls = [({"kinds": ["el2n"], **with_named(labels=one)},) for one in labels]
    for raised in ranks_of(2).call(given_call, calls):
        with pytest.raises(ValueError, match=message):
            raise raised


def test_a_tensor_that_is_spread_by_torch_is_asked_for_its_own_rows() -> None:
    class Spread(Tensor):
        def to_local(self) -> Tensor:
            return self.as_subclass(Tensor)

    from dynams_kernels.distributed.shards import Shard

    with pytest.raises(TypeError, match=r"weight: got Spread, want this rank's own rows"):
        Shard(FEATURES, WEIGHT.as_subclass(Spread), None, None, ["gap"], None, IGNORED)
