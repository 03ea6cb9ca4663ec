"""Every strategy keeps to the interface: valid, reproducible selections, and refusals by name."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import STRATEGIES, BatchStrategy, Selection, Strategy, build_strategy
from dynams.selection.methods.ranked import Ranked
from dynams.selection.signals import Signals
from dynams.selection.switches import Aged, ClassBalanced, Exploring, NoiseGuard, with_switches
from strategy_inputs import generator, signals

# Every class and option that changes the path taken.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "margin": [{"kind": kind} for kind in ("gap", "probability", "distance", "label")],
    "importance": [{}, {"replacement": True}, {"score": "loss", "smoothing": 0.0}],
    "craig": [{}, {"part_size": 3}],
    "gradmatch": [{}, {"part_size": 3}],
    "gradmatch-batches": [{"batch_size": 1}, {"batch_size": 4}],
    "glister": [{}, {"rounds": 3}],
    "loss": [{}, {"ties": "random"}],
    "orderdp": [{}, {"exploitation": 1.0}],
    "seta": [{}, {"groups": 3, "window": 0.2}, {"groups": 4, "window": 0.3}],
}
CASES = [(name, options) for name in STRATEGIES for options in OPTIONS.get(name, [{}])]


# Switches meet weights and none, draws and none, fixed and random sizes, groups of their own.
SWITCHED: list[tuple[str, dict[str, Any]]] = [
    ("margin", {}),
    ("random", {}),
    ("importance", {"replacement": True}),
    ("craig", {"part_size": 3}),
    ("gradmatch-batches", {"batch_size": 4}),
    ("glister", {}),
]


def of_epochs() -> list[Strategy]:
    built = [build_strategy(name, **options) for name, options in CASES]
    plain = [each for each in built if isinstance(each, Strategy)]
    switched: list[Strategy] = [NoiseGuard(each, 0.3) for each in plain if not each.budgeted]
    for name, options in SWITCHED:
        each = build_strategy(name, **options)
        assert isinstance(each, Strategy)
        if isinstance(each, Ranked):
            switched += [
                Aged(each, 0.25),
                with_switches(each, softness=1.0, class_shares="equal", exploration=0.3),
            ]
        switched += [
            ClassBalanced(each, "proportional"),
            Exploring(each, 0.4),
            NoiseGuard(each, 0.3),
            with_switches(
                each, class_shares="equal", exploration=0.3, noise_share=0.2, noise_score="label"
            ),
        ]
    return plain + switched


def choose(strategy: Strategy, known: Signals, size: int, seed: int = 0) -> Selection:
    return strategy.select(known, size, epoch=3, progress=0.3, generator=generator(seed))


def check(selection: Selection, count: int) -> None:
    indices, weights = selection.indices, selection.weights
    assert indices.dtype == torch.int64
    assert bool((indices.diff() > 0).all())
    if len(indices):
        assert int(indices[0]) >= 0
        assert int(indices[-1]) < count
    if weights is not None:
        assert weights.shape == indices.shape
        assert weights.dtype == torch.float32
        assert bool((weights > 0).all())
        assert bool(weights.isfinite().all())


def draws_with_replacement(strategy: Any) -> bool:
    inner = getattr(strategy, "strategy", None)
    return getattr(strategy, "replacement", False) or (
        inner is not None and draws_with_replacement(inner)
    )


@pytest.mark.parametrize("strategy", of_epochs(), ids=repr)
@given(count=st.integers(1, 23), seed=st.integers(0, 99), data=st.data())
def test_a_selection_is_valid_and_a_function_of_the_generator(
    strategy: Strategy, count: int, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, count))
    known = signals(count, seed=seed)
    only = Signals(
        count,
        {name: score for name, score in known.scores.items() if name in strategy.needs},
        known.labels if "labels" in strategy.needs else None,
        known.features if "features" in strategy.needs else None,
        known.residuals if "residuals" in strategy.needs else None,
        known.validation if "validation.features" in strategy.needs else None,
    )
    assert only.missing(strategy.needs) == []
    selection = choose(strategy, only, size, seed)
    check(selection, count)
    if strategy.budgeted and not draws_with_replacement(strategy):
        assert len(selection.indices) == size
    torch.manual_seed(seed)  # the global generator has no part in it
    again = choose(strategy, only, size, seed)
    assert torch.equal(selection.indices, again.indices)
    if selection.weights is not None:
        assert again.weights is not None
        assert torch.equal(selection.weights, again.weights)


@pytest.mark.parametrize("strategy", of_epochs(), ids=repr)
def test_broken_numbers_still_give_a_valid_selection(strategy: Strategy) -> None:
    """A diverged network must not break the run's bookkeeping too."""
    known = signals(12)
    assert known.features is not None
    assert known.residuals is not None
    for score in known.scores.values():
        score[::3] = torch.nan
        score[1] = torch.inf
        score[2] = -torch.inf
    known.features[4] = torch.nan
    known.residuals[5] = torch.inf
    for size in (0, 5, 12):
        selection = choose(strategy, known, size)
        check(selection, 12)
        if strategy.budgeted and not draws_with_replacement(strategy):
            assert len(selection.indices) == size


@pytest.mark.parametrize("strategy", of_epochs(), ids=repr)
def test_equal_samples_give_a_valid_selection(strategy: Strategy) -> None:
    known = signals(1)
    twelve = known.subset(torch.zeros(12, dtype=torch.int64))
    for size in (0, 1, 7, 12):
        selection = choose(strategy, twelve, size)
        check(selection, 12)
        if strategy.budgeted and not draws_with_replacement(strategy):
            assert len(selection.indices) == size


@pytest.mark.parametrize("strategy", of_epochs(), ids=repr)
def test_a_size_out_of_range_is_refused(strategy: Strategy) -> None:
    if not strategy.budgeted and not isinstance(strategy, NoiseGuard):
        return
    for size, bound in ((-1, "at least 0"), (7, "at most 6")):
        with pytest.raises(ValueError, match=f"size: got {size}, want {bound}"):
            choose(strategy, signals(6), size)


def run_either(strategy: Strategy | BatchStrategy, known: Signals) -> None:
    if isinstance(strategy, Strategy):
        choose(strategy, known, 3)
    else:
        strategy.keep(known, progress=0.0, generator=generator())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_what_is_needed_and_missing_is_named(name: str, options: dict[str, Any]) -> None:
    strategy = build_strategy(name, **options)
    for need in strategy.needs:
        whole = signals(6)
        fields = {
            part: getattr(whole, part)
            for part in ("labels", "features", "residuals", "validation")
            if part != need
        }
        scores = {key: value for key, value in whole.scores.items() if key != need}
        if need.startswith("validation."):
            fields["validation"] = None
        without = Signals(6, scores, **fields)
        assert need in without.missing(strategy.needs)
        told = need.split(".")[0]
        with pytest.raises(
            ValueError, match=f"^{told}: got None, want|^scores: got .*, want {told}$"
        ):
            run_either(strategy, without)


@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case[0] in ("craig", "gradmatch")]
)
@given(count=st.integers(1, 40), seed=st.integers(0, 99), share=st.floats(0.1, 1.0))
def test_weights_of_clusters_and_pursuits_have_mean_one(
    name: str, options: dict[str, Any], count: int, seed: int, share: float
) -> None:
    strategy = build_strategy(name, **options)
    assert isinstance(strategy, Strategy)
    size = max(1, int(share * count))
    for each in (strategy, ClassBalanced(strategy, "equal"), Exploring(strategy, 0.3)):
        weights = choose(each, signals(count, seed=seed), size).weights
        assert weights is not None
        assert float(weights.double().mean()) == pytest.approx(1.0, abs=1e-6)


BATCHES = [case for case in CASES if not isinstance(build_strategy(case[0]), Strategy)]


@pytest.mark.parametrize(
    ("name", "options"), [*BATCHES, ("batch-importance", {"replacement": False})]
)
@given(count=st.integers(0, 20), seed=st.integers(0, 99))
def test_a_choice_of_a_batch_is_valid_and_a_function_of_the_generator(
    name: str, options: dict[str, Any], count: int, seed: int
) -> None:
    choices = []
    for _ in range(2):
        strategy = build_strategy(name, **options)
        assert isinstance(strategy, BatchStrategy)
        choices.append(
            strategy.keep(signals(count, seed=seed), progress=0.5, generator=generator(seed))
        )
    first, second = choices
    assert first.mask.shape == (count,)
    assert first.mask.dtype == torch.bool
    assert bool(first.mask.any()) == (count > 0)
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.indices, first.mask.nonzero().flatten())
    assert first.count is None or first.count == int(first.mask.sum())
    if first.weights is not None:
        assert first.weights.dtype == torch.float32
        assert torch.equal(first.weights > 0, first.mask)


def test_the_published_refresh_behaviour() -> None:
    static = {
        name
        for name in STRATEGIES
        if isinstance(strategy := build_strategy(name), Strategy) and not strategy.dynamic
    }
    assert static == {
        "full",
        "static-random",
        "static-margin",
        "el2n",
        "grand",
        "forgetting",
        "confidence",
        "entropy",
        "memorisation",
    }


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"strategy: got 'magrin', want one of full, random"):
        build_strategy("magrin")


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"^infobatch: got 'rato', want one of ratio, delta .did you mean ratio",
    ):
        build_strategy("infobatch", rato=0.3)
    with pytest.raises(ValueError, match=r"^full: got 'rate', want none"):
        build_strategy("full", rate=0.3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("margin", {"kind": "gab"}, "kind: got 'gab', want one of gap, .*did you mean gap"),
        ("loss", {"ties": "first"}, "ties: got 'first', want one of index, random"),
        ("importance", {"smoothing": 1.5}, "smoothing: got 1.5, want a number in [0, 1]"),
        ("batch-importance", {"share": 0.0}, "share: got 0.0, want a number in (0, 1]"),
        ("batch-importance", {"threshold": -1.0}, "threshold: got -1.0, want a number in [0, inf)"),
        ("batch-rho-loss", {"share": 0.0}, "share: got 0.0, want a number in (0, 1]"),
        ("selective-backprop", {"beta": -1.0}, "beta: got -1.0, want a number in [0, inf)"),
        ("selective-backprop", {"history": 0}, "history: got 0, want at least 1"),
        ("infobatch", {"ratio": 1.0}, "ratio: got 1.0, want a number in [0, 1)"),
        ("infobatch", {"delta": 1.1}, "delta: got 1.1, want a number in [0, 1]"),
        ("repb", {"ratio": 1.0}, "ratio: got 1.0, want a number in [0, 1)"),
        ("alignprune", {"ratio": -0.1}, "ratio: got -0.1, want a number in [0, 1)"),
        ("orderdp", {"exploitation": 0.0}, "exploitation: got 0.0, want a number in (0, 1]"),
        ("seta", {"ratio": 1.0}, "ratio: got 1.0, want a number in [0, 1)"),
        ("seta", {"groups": 0}, "groups: got 0, want at least 1"),
        ("seta", {"window": 0.0}, "window: got 0.0, want a number in (0, 1]"),
        ("seta", {"delta": 1.1}, "delta: got 1.1, want a number in [0, 1]"),
        ("craig", {"part_size": 0}, "part_size: got 0, want at least 1"),
        ("gradmatch", {"ridge": 0.0}, "ridge: got 0.0, want a number in (0, inf)"),
        ("gradmatch", {"part_size": 0}, "part_size: got 0, want at least 1"),
        ("gradmatch-batches", {"batch_size": 0}, "batch_size: got 0, want at least 1"),
        ("gradmatch-batches", {"ridge": math.nan}, "ridge: got nan, want a number in (0, inf)"),
        ("glister", {"step": 0.0}, "step: got 0.0, want a number in (0, inf)"),
        ("glister", {"rounds": 0}, "rounds: got 0, want at least 1"),
    ],
)
def test_options_out_of_range_are_refused_under_the_strategys_name(
    name: str, options: dict[str, Any], message: str
) -> None:
    parts = (re.escape(part) for part in f"{name}.{message}".split(".*"))
    with pytest.raises(ValueError, match="^" + ".*".join(parts)):
        build_strategy(name, **options)


def test_an_option_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^infobatch\.ratio: got 'much', want a number$"):
        build_strategy("infobatch", ratio="much")
    with pytest.raises(TypeError, match=r"^importance\.replacement: got 1, want true or false$"):
        build_strategy("importance", replacement=1)
    assert build_strategy("importance", smoothing=1) == build_strategy("importance", smoothing=1.0)


def test_signals_refuse_what_does_not_fit() -> None:
    others: list[tuple[Any, str]] = [([0.5] * 3, "list"), (torch.zeros(3).numpy(), "ndarray")]
    for values, came in others:
        with pytest.raises(TypeError, match=f"^gap: got {came}, want a tensor$"):
            Signals(3, {"gap": values})
        with pytest.raises(TypeError, match=f"^labels: got {came}, want a tensor$"):
            Signals(3, labels=values)
    with pytest.raises(TypeError, match=r"^memorisation: got torch.int64, want a floating point t"):
        Signals(3, {"memorisation": torch.arange(3)})
    with pytest.raises(ValueError, match=r"gap: got shape \(4,\), want \(3,\)"):
        Signals(3, {"gap": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"features: got shape \(3,\), want \(3, any\)"):
        Signals(3, features=torch.zeros(3))
    with pytest.raises(ValueError, match="labels: got meta, want cpu"):
        Signals(3, {"gap": torch.zeros(3)}, torch.zeros(3, dtype=torch.int64, device="meta"))
    with pytest.raises(ValueError, match="count: got -1, want at least 0"):
        Signals(-1)
    assert Signals(3).device == torch.device("cpu")
