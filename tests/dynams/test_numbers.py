"""Numbers of NumPy's and of torch's are taken wherever one is asked for, and become Python's where files hold them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dynams.bench import BenchConfig
from dynams.checks import at_least, interval, number, of_type, plain, whole
from dynams.data import Augmentation, load_data
from dynams.models import build_model
from dynams.selection import (
    SCHEDULE_KINDS,
    STRATEGIES,
    Signals,
    SubsetSampler,
    Timetable,
    build_schedule,
    build_strategy,
    constant,
    score_batches,
    selection_size,
    with_switches,
)
from dynams.training import DataConfig, OptimConfig, RunConfig, SelectionConfig, TrainConfig

Number = Callable[[Any], Any]
# How a caller may have a whole number, and a fraction.
KINDS: dict[str, tuple[Number, Number]] = {
    "numpy": (np.int64, np.float32),
    "small numpy": (np.int16, np.float64),
    "array": (np.array, np.array),
    "tensor": (torch.tensor, torch.tensor),
}
NO_COUNTS = [True, np.bool_(True), torch.tensor(True), torch.tensor([3]), np.array([3]), 3.0, "3"]

kinds = pytest.mark.parametrize(("count", "share"), KINDS.values(), ids=KINDS)


@kinds
def test_checks_take_them(count: Number, share: Number) -> None:
    assert whole("x", count(3), 1, 3) == 3
    assert type(whole("x", count(3))) is int
    assert type(number("x", share(0.5), "(0, 1]")) is float
    at_least("x", count(3), 3)
    interval("x", share(0.5), "(0, 1]")
    of_type("x", share(0.5), float)
    assert type(plain(share(0.5))) is float


@pytest.mark.parametrize("wrong", NO_COUNTS)
def test_what_is_no_count_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^x: got .*, want a whole number$"):
        whole("x", wrong)
    with pytest.raises(TypeError, match=r"^x: got .*, want a whole number$"):
        at_least("x", wrong, 1)


@pytest.mark.parametrize(
    "wrong", [True, np.bool_(True), torch.tensor(True), np.array([0.5]), "0.5"]
)
def test_what_is_no_fraction_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^x: got .*, want a number in \(0, 1\]$"):
        number("x", wrong, "(0, 1]")
    with pytest.raises(TypeError, match=r"^widths: got "):
        build_model("resnet8", 10, widths=(wrong, 1.0))


@kinds
def test_a_sampler_takes_them(count: Number, share: Number) -> None:
    sampler = SubsetSampler(
        count(40),
        budget=share(0.5),
        epochs=count(6),
        refresh_every=count(2),
        warmup_epochs=count(1),
        tail=share(0.25),
        seed=count(3),
        score=lambda: [(torch.arange(40), torch.rand(40))],
    )
    for epoch in range(3):
        sampler.set_epoch(count(epoch))
        assert len(list(sampler)) == (40 if epoch == 0 else 20)
        sampler.advance(count(5))
    sampler.load_state_dict(sampler.state_dict())
    assert type(sampler.seed) is type(sampler.epoch) is type(sampler.num_samples) is int
    assert sampler.total_steps(count(10)) == 4 + 3 * 2 + 2 * 4


@kinds
def test_schedules_and_timetables_take_them(count: Number, share: Number) -> None:
    for kind in SCHEDULE_KINDS:
        made = build_schedule(kind, share(0.5), start=share(0.75), exponent=share(2.0))
        assert 0.5 <= made(share(0.25)) <= 0.75
    assert selection_size(count(10), share(0.5)) == 5
    table = Timetable(constant(share(0.5)), epochs=count(4), refresh_every=count(2))
    assert table == Timetable(constant(0.5), epochs=4, refresh_every=2)
    assert table.planned_sizes(count(10)) == [5] * 4


@kinds
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_takes_its_options_so(name: str, count: Number, share: Number) -> None:
    options = {
        option: (share if isinstance(each.default, float) else count)(each.default)
        for option, each in inspect.signature(STRATEGIES[name]).parameters.items()
        if isinstance(each.default, (int, float)) and not isinstance(each.default, bool)
    }
    random = torch.Generator().manual_seed(0)
    tensors = [torch.rand(30, n, generator=random) for n in (4, 3)]
    scores = {each: torch.rand(30, generator=random) for each in STRATEGIES[name]().needs}
    labels = torch.arange(30) % 3
    for each in ("features", "residuals", "labels"):
        scores.pop(each, None)
    held = Signals(30, scores, labels, *tensors)
    signals = Signals(30, scores, labels, *tensors, held)
    for strategy in (STRATEGIES[name](**options), build_strategy(name, **options)):
        random = torch.Generator().manual_seed(0)
        if hasattr(strategy, "select"):
            strategy.select(signals, 10, epoch=0, progress=0.0, generator=random)
        else:
            strategy.keep(signals, progress=0.0, generator=random)
    with_switches(build_strategy("margin"), exploration=share(0.25), noise_share=share(0.25))


@kinds
def test_a_model_takes_them(count: Number, share: Number) -> None:
    model = build_model(
        "resnet8",
        count(10),
        widths=(share(0.6), share(1.0)),
        in_channels=count(1),
        base_channels=count(4),
    )
    images = torch.rand(2, 1, 8, 8)
    for width in (share(0.6), 0.6):
        assert torch.equal(model(images, width=width), model(images, width=(width, 1.0))[0])
        assert model.head_at(width).weight.shape[0] == 10
        model.features(images, width)
        model.plain(width)
        list(score_batches(model, [images], width=width))


@kinds
def test_a_configuration_holds_pythons_numbers(count: Number, share: Number) -> None:
    config = TrainConfig(
        data=DataConfig(limit=count(100), holdout=share(0.25)),
        optim=OptimConfig(epochs=count(3), lr=share(0.5)),
        selection=SelectionConfig(
            "importance", budget=share(0.5), options={"importance": {"smoothing": share(0.5)}}
        ),
        run=RunConfig(seed=count(7)),
    )
    assert json.loads(json.dumps(config.to_dict()))["optim"]["epochs"] == 3
    assert type(config.optim.lr) is float
    with pytest.raises(TypeError, match=r"^optim\.epochs: got "):
        OptimConfig(epochs=np.bool_(True))  # type: ignore[arg-type]
    json.dumps(BenchConfig(rows=count(10), width=share(0.5)).to_dict())


@kinds
def test_data_take_them(count: Number, share: Number) -> None:
    assert len(load_data("digits", limit=count(50)).train) == 50
    assert Augmentation(crop_padding=count(2), size=count(8)) == Augmentation(2, size=8)
