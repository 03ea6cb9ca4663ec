"""MarginSelector: overwriting, never scored samples, repeats, refusals that lose nothing, state."""

from __future__ import annotations

import io
import math
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import dynams_kernels as dk
import oracle
from kernel_inputs import special_values

INF, NAN = math.inf, math.nan
HARD = [0.0, -0.0, INF, -INF, NAN, 1.0, -1.0]


def same(selector: dk.MarginSelector, model: oracle.Selector, size: int) -> None:
    for k in sorted({0, min(1, size), size // 3, size * 2 // 3, size}):
        got = selector.smallest(k)
        values, indices = model.smallest(k)
        assert got.indices.tolist() == indices.tolist(), f"k={k}"
        assert got.values.dtype == torch.float32
        assert np.array_equal(got.values.cpu().numpy(), values, equal_nan=True)


@given(data=st.data())
def test_any_sequence_of_updates(data: st.DataObject, device: str) -> None:
    size = data.draw(st.integers(1, 30))
    selector, model = dk.MarginSelector(size, device=device), oracle.Selector(size)
    margin = st.one_of(st.sampled_from(HARD), st.floats(width=32))
    for _ in range(data.draw(st.integers(0, 5))):
        pairs = data.draw(st.lists(st.tuples(st.integers(0, size - 1), margin), max_size=20))
        indices, margins = [p[0] for p in pairs], [p[1] for p in pairs]
        selector.update(
            torch.tensor(indices, dtype=torch.int64, device=device),
            torch.tensor(margins, dtype=torch.float32, device=device),
        )
        model.update(indices, margins)
        same(selector, model, size)


def test_nothing_scored_selects_the_first(device: str) -> None:
    selector = dk.MarginSelector(5, device=device)
    got = selector.smallest(3)
    assert isinstance(got, dk.SmallestK)
    assert got.indices.tolist() == [0, 1, 2]
    assert got.values.tolist() == [-INF] * 3
    assert got.values.device.type == got.indices.device.type == device


def test_an_update_overwrites(device: str) -> None:
    selector = dk.MarginSelector(3, device=device)
    every = torch.arange(3, device=device)
    selector.update(every, torch.tensor([1.0, 2.0, 3.0], device=device))
    selector.update(every[:1], torch.tensor([9.0], device=device))
    assert selector.smallest(2).indices.tolist() == [1, 2]
    assert selector.smallest(3).values.tolist() == [9.0, 2.0, 3.0]


def test_never_scored_before_a_scored_minus_infinity_and_nan_last(device: str) -> None:
    selector = dk.MarginSelector(6, device=device)
    selector.update(
        torch.tensor([0, 2, 3, 4], device=device),
        torch.tensor([-INF, NAN, 0.0, INF], device=device),
    )
    assert selector.smallest(1).indices.tolist() == [1]
    assert selector.smallest(2).indices.tolist() == [1, 5]
    assert selector.smallest(3).indices.tolist() == [0, 1, 5]
    assert selector.smallest(4).indices.tolist() == [0, 1, 3, 5]
    assert selector.smallest(5).indices.tolist() == [0, 1, 3, 4, 5]
    assert selector.smallest(6).values[2].isnan()


def test_no_bit_pattern_passes_for_never_scored(device: str) -> None:
    hard = special_values(torch.float32)
    for value in (*hard, *special_values(torch.float16), *special_values(torch.float64)):
        if value.dtype == torch.float64 and value < 0 and value.float().isinf():
            continue
        selector = dk.MarginSelector(2, device=device)
        selector.update(torch.tensor([0], device=device), value.reshape(1).to(device))
        assert selector.smallest(1).indices.tolist() == [1], value
        later = dk.MarginSelector(2, device=device)
        later.load_state_dict(selector.state_dict())
        assert later.smallest(1).indices.tolist() == [1], value


def test_the_least_finite_margin_counts_as_minus_infinity(device: str) -> None:
    least = torch.finfo(torch.float32).min
    selector = dk.MarginSelector(4, device=device)
    selector.update(
        torch.tensor([0, 1, 2], device=device), torch.tensor([least, 5.0, -INF], device=device)
    )
    assert selector.smallest(4).values.tolist() == [-INF, 5.0, -INF, -INF]
    # The sample never scored is first, then the two of margin -inf, by index.
    assert selector.smallest(1).indices.tolist() == [3]
    assert selector.smallest(2).indices.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("repeats", "kept"),
    [([2.0, 1.0, 3.0], 1.0), ([NAN, 5.0], 5.0), ([5.0, NAN], 5.0), ([NAN, INF], INF),
     ([-INF, NAN, 0.0], -INF), ([NAN, NAN], NAN), ([INF, 2.0, INF], 2.0), ([-1.0, -2.0], -2.0)],
)  # fmt: skip
def test_a_repeated_index_keeps_its_smallest_margin(
    repeats: list[float], kept: float, device: str
) -> None:
    selector = dk.MarginSelector(2, device=device)
    # The earlier score must not count: an update overwrites.
    selector.update(torch.tensor([0, 1], device=device), torch.tensor([-9.0, -9.0], device=device))
    selector.update(
        torch.full((len(repeats),), 1, device=device), torch.tensor(repeats, device=device)
    )
    got = selector.smallest(2).values
    assert got[0] == -9.0
    assert got[1].item() == kept or (math.isnan(kept) and got[1].isnan())


def test_many_repeats_in_one_large_update(device: str) -> None:
    rng = np.random.default_rng(0)
    size = 5000
    indices = rng.integers(0, size, 60_000)
    margins = rng.standard_normal(60_000).astype(np.float32)
    margins[rng.random(60_000) < 0.3] = np.nan
    selector, model = dk.MarginSelector(size, device=device), oracle.Selector(size)
    selector.update(torch.from_numpy(indices).to(device), torch.from_numpy(margins).to(device))
    model.update(indices.tolist(), margins.tolist())
    same(selector, model, size)


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_margins_of_every_dtype_are_kept_in_float32(dtype: torch.dtype, device: str) -> None:
    selector = dk.MarginSelector(4, device=device)
    margins = torch.tensor([0.1, -2.5, 1 / 3, 7.0], dtype=dtype, device=device)
    selector.update(torch.arange(4, device=device), margins)
    assert oracle.same_bits(selector.smallest(4).values, margins.float())


def test_strided_updates(device: str) -> None:
    selector, model = dk.MarginSelector(50, device=device), oracle.Selector(50)
    indices = torch.arange(100, device=device).view(50, 2).flip(0)[:, 0] // 2
    margins = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).to(device).t()[:, 1]
    selector.update(indices, margins)
    model.update(indices.tolist(), margins.tolist())
    same(selector, model, 50)


def test_an_empty_update_changes_nothing(device: str) -> None:
    selector = dk.MarginSelector(3, device=device)
    selector.update(torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, device=device))
    assert selector.smallest(3).values.tolist() == [-INF] * 3


def test_an_update_keeps_no_hold_on_its_arguments(device: str) -> None:
    selector = dk.MarginSelector(3, device=device)
    indices = torch.arange(3, device=device)
    margins = torch.tensor([1.0, 2.0, 3.0], device=device)
    selector.update(indices, margins)
    margins.fill_(-5.0)
    indices.fill_(0)
    assert selector.smallest(3).values.tolist() == [1.0, 2.0, 3.0]
    selector.smallest(3).values.fill_(-7.0)
    assert selector.smallest(3).values.tolist() == [1.0, 2.0, 3.0]


def test_margins_that_require_grad_are_stored_without_it(device: str) -> None:
    selector = dk.MarginSelector(2, device=device)
    selector.update(
        torch.arange(2, device=device), torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    )
    assert not selector.smallest(2).values.requires_grad


def test_scores_made_in_inference_mode_can_be_overwritten_outside_it(device: str) -> None:
    selector = dk.MarginSelector(2, device=device)
    with torch.inference_mode():
        selector.update(torch.arange(2, device=device), torch.tensor([1.0, 2.0], device=device))
        inside = selector.smallest(1).indices.tolist()
    selector.update(torch.tensor([0], device=device), torch.tensor([5.0], device=device))
    assert inside == [0]
    assert selector.smallest(1).indices.tolist() == [1]


def test_a_selector_made_in_inference_mode_can_be_updated_outside_it(device: str) -> None:
    with torch.inference_mode():
        selector = dk.MarginSelector(2, device=device)
    selector.update(torch.tensor([0], device=device), torch.tensor([5.0], device=device))
    assert selector.smallest(1).indices.tolist() == [1]


@pytest.mark.parametrize("scored_minus_infinity", [False, True])
def test_smallest_writes_into_what_it_is_given(scored_minus_infinity: bool, device: str) -> None:
    selector, model = dk.MarginSelector(9, device=device), oracle.Selector(9)
    margins = [2.0, NAN, 0.5, -INF if scored_minus_infinity else 3.0]
    selector.update(torch.arange(4, device=device), torch.tensor(margins, device=device))
    model.update(range(4), margins)
    for k, count in ((9, 9), (6, 6), (0.5, 5)):
        out = (torch.zeros(count, device=device), torch.zeros(count, device=device).long())
        got = selector.smallest(k, out=out)
        assert got.values is out[0]
        assert got.indices is out[1]
        values, indices = model.smallest(count)
        assert got.indices.tolist() == indices.tolist()
        assert np.array_equal(got.values.cpu().numpy(), values, equal_nan=True)
    with pytest.raises(ValueError, match="out indices"):
        selector.smallest(
            3, out=(torch.zeros(3, device=device), torch.zeros(4, device=device).long())
        )


def test_a_result_stays_as_it_is_at_the_next_call(device: str) -> None:
    selector = dk.MarginSelector(4, device=device)
    first = selector.smallest(2)
    selector.update(torch.arange(4, device=device), torch.tensor([4.0, 3, 2, 1], device=device))
    second = selector.smallest(2)
    assert first.indices.tolist() == [0, 1]
    assert first.values.tolist() == [-INF, -INF]
    assert second.indices.tolist() == [2, 3]


# ------------------------------------------------------------------------------------ state


def scored(device: str = "cpu", size: int = 7) -> dk.MarginSelector:
    selector = dk.MarginSelector(size, device=device)
    selector.update(
        torch.tensor([0, 2, 3, 4], device=device),
        torch.tensor([-INF, NAN, 0.5, -1.0], device=device),
    )
    return selector


def answers(selector: dk.MarginSelector, size: int = 7) -> list[tuple[list[int], str]]:
    every = [selector.smallest(k) for k in range(size + 1)]
    return [(got.indices.tolist(), str(got.values.tolist())) for got in every]


def test_state_goes_round_with_what_was_never_scored(device: str) -> None:
    first = scored(device)
    second = dk.MarginSelector(7, device=device)
    second.update(torch.arange(7, device=device), torch.zeros(7, device=device))
    second.load_state_dict(first.state_dict())
    assert answers(second) == answers(first)


def test_state_survives_torch_save_with_safe_loading_and_pickle(device: str) -> None:
    first = scored(device)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    for state in (
        torch.load(file, weights_only=True),
        pickle.loads(pickle.dumps(first.state_dict())),
    ):
        second = dk.MarginSelector(7, device=device)
        second.load_state_dict(state)
        assert answers(second) == answers(first)


def test_loading_shares_no_memory(device: str) -> None:
    first = scored(device)
    second = dk.MarginSelector(7, device=device)
    second.load_state_dict(first.state_dict())
    before = answers(first)
    second.update(torch.arange(7, device=device), torch.full((7,), 3.0, device=device))
    assert answers(first) == before


def test_state_of_another_size_is_refused_and_nothing_changes(device: str) -> None:
    selector = scored(device)
    before = answers(selector)
    with pytest.raises(ValueError, match=r"(?s)(11.*7|7.*11)"):
        selector.load_state_dict(scored(device, 11).state_dict())
    assert answers(selector) == before


@pytest.mark.parametrize("damage", ["empty", "missing", "other tensors", "a list"])
def test_a_damaged_state_is_refused_and_nothing_changes(damage: str, device: str) -> None:
    selector = scored(device)
    before = answers(selector)
    state = dict(scored(device).state_dict())
    broken: object = {}
    if damage == "missing":
        state.pop(next(iter(state)))
        broken = state
    elif damage == "other tensors":
        broken = {
            key: torch.zeros(2, 2, dtype=torch.complex64) if isinstance(v, torch.Tensor) else v
            for key, v in state.items()
        }
    elif damage == "a list":
        broken = [1, 2, 3]
    with pytest.raises((ValueError, TypeError, KeyError)):
        selector.load_state_dict(broken)  # type: ignore[arg-type]
    assert answers(selector) == before


def test_a_state_of_other_numbers_is_told_what_it_holds(device: str) -> None:
    state = scored(device, 11).state_dict() | {"num_samples": 12}
    with pytest.raises(ValueError, match="got num_samples 12 and 11 margins, want 11 of both"):
        scored(device, 11).load_state_dict(state)


def test_loaded_margins_bring_no_gradient(device: str) -> None:
    selector = dk.MarginSelector(3, device=device)
    margins = torch.tensor([2.0, 1.0, 3.0], device=device, requires_grad=True)
    selector.load_state_dict({"num_samples": 3, "margins": margins})
    assert not selector.margins.requires_grad
    out = margins.new_empty(2), torch.empty(2, dtype=torch.int64, device=device)
    assert selector.smallest(2, out=out).indices.tolist() == [0, 1]


def test_half_a_state_is_not_loaded(device: str) -> None:
    # The damaged entry may come last: what was read before it must not have been stored.
    for spoilt in scored(device).state_dict():
        selector = scored(device)
        before = answers(selector)
        other = dk.MarginSelector(7, device=device)
        other.update(torch.arange(7, device=device), torch.arange(7.0, device=device))
        state = {k: v for k, v in other.state_dict().items() if k != spoilt}
        with pytest.raises((ValueError, TypeError, KeyError)):
            selector.load_state_dict(state)
        assert answers(selector) == before


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("index", [7, -1, 2**40, -(2**40)])
def test_an_index_out_of_range_is_refused_and_nothing_changes(index: int) -> None:
    selector = scored()
    before = answers(selector)
    for place in range(3):
        indices = torch.tensor([1, 3, 5])
        indices[place] = index
        with pytest.raises(ValueError, match="indices"):
            selector.update(indices, torch.tensor([-4.0, -4.0, -4.0]))
        assert answers(selector) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("index", [7, -1, 2**40, -(2**40)])
def test_on_a_gpu_an_index_out_of_range_is_ignored(index: int) -> None:
    # Looking would make the host wait. The places in range are written all the same.
    for place in range(3):
        kept = [i for i in range(3) if i != place]
        indices = torch.tensor([1, 3, 5])
        selector, other = scored("cuda"), scored("cuda")
        other.update(indices[kept].cuda(), torch.full((2,), -4.0, device="cuda"))
        indices[place] = index
        selector.update(indices.cuda(), torch.full((3,), -4.0, device="cuda"))
        assert answers(selector) == answers(other)


@pytest.mark.parametrize(
    ("indices", "margins", "name"),
    [
        (torch.tensor([0, 1], dtype=torch.int32), torch.zeros(2), "indices"),
        (torch.tensor([0.0, 1.0]), torch.zeros(2), "indices"),
        (torch.tensor([True, False]), torch.zeros(2), "indices"),
        (torch.tensor([[0, 1]]), torch.zeros(1, 2), "indices"),
        (torch.tensor(0), torch.tensor(0.0), "indices"),
        (torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64), "margins"),
        (torch.tensor([0, 1]), torch.zeros(2, dtype=torch.complex64), "margins"),
        (torch.tensor([0, 1]), torch.zeros(3), "margins"),
        (torch.tensor([0, 1]), torch.zeros(1), "margins"),
        (torch.tensor([0, 1]), torch.zeros(2, 1), "margins"),
        ([0, 1], torch.zeros(2), "indices"),
        (torch.tensor([0, 1]), [0.0, 1.0], "margins"),
    ],
)
def test_wrong_updates_are_refused_by_name_and_nothing_changes(
    indices: torch.Tensor, margins: torch.Tensor, name: str, device: str
) -> None:
    selector = scored(device)
    before = answers(selector)
    there = [t.to(device) if isinstance(t, torch.Tensor) else t for t in (indices, margins)]
    with pytest.raises((ValueError, TypeError), match=name):
        selector.update(*there)
    assert answers(selector) == before


@pytest.mark.parametrize("k", [-1, 8, 10**12])
def test_k_out_of_range_names_both_numbers(k: int, device: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){k}.*\b7\b|\b7\b.*{k}"):
        scored(device).smallest(k)


@pytest.mark.parametrize("k", [True, None, "3"])
def test_k_of_another_type_is_refused(k: object, device: str) -> None:
    with pytest.raises(TypeError, match="k"):
        scored(device).smallest(k)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [-1, 1.5, True, None, "7"])
def test_a_wrong_number_of_samples_is_refused_by_name(size: object, device: str) -> None:
    with pytest.raises((ValueError, TypeError), match="num_samples"):
        dk.MarginSelector(size, device=device)  # type: ignore[arg-type]
