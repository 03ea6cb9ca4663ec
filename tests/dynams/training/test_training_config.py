"""The configuration: defaults, validation, and what may change on resume."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import yaml

from dynams.training.changed_settings import MAY_CHANGE_ON_RESUME, changed_settings
from dynams.training.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    ProxyConfig,
    RunConfig,
    SelectionConfig,
    TrainConfig,
)
from dynams.training.options import read_options
from dynams.training.resolve import build_selector


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        (DataConfig, "name", "mnist"),
        (DataConfig, "limit", 0),
        (DataConfig, "image_size", 0),
        (DataConfig, "crop_padding", -1),
        (DataConfig, "flips", "never"),
        (DataConfig, "pad", "ones"),
        (DataConfig, "cutout", -1),
        (ModelConfig, "stem", "big"),
        (ModelConfig, "base_channels", 0),
        (SelectionConfig, "strategy", "best"),
        (SelectionConfig, "budget", 0.0),
        (SelectionConfig, "budget", 1.01),
        (SelectionConfig, "budget", float("nan")),
        (SelectionConfig, "start", -0.5),
        (SelectionConfig, "exponent", 0.0),
        (SelectionConfig, "refresh_every", 0),
        (SelectionConfig, "warmup_epochs", -1),
        (SelectionConfig, "batch_size", 0),
        (ProxyConfig, "width", 0.0),
        (ProxyConfig, "weight", 0.0),
        (ProxyConfig, "weight", float("inf")),
        (ProxyConfig, "every", 0),
        (OptimConfig, "epochs", 0),
        (OptimConfig, "batch_size", 1),
        (OptimConfig, "lr", 0.0),
        (OptimConfig, "lr", float("nan")),
        (OptimConfig, "momentum", 1.0),
        (OptimConfig, "weight_decay", -1e-4),
        (OptimConfig, "warmup", 1.0),
        (OptimConfig, "final_lr", 1.5),
        (OptimConfig, "label_smoothing", 1.0),
        (RunConfig, "seed", -1),
        (RunConfig, "devices", 0),
        (RunConfig, "precision", "16"),
        (RunConfig, "name", "a/b"),
        (RunConfig, "evaluate_every", 0),
        (RunConfig, "test_views", 3),
        (RunConfig, "save_every", 0),
    ],
)
def test_a_refused_value_is_named_with_its_setting(section, setting, value):
    with pytest.raises(ValueError, match=rf"\.{setting}:") as refused:
        section(**{setting: value})
    assert str(value) in str(refused.value)


def test_a_value_of_the_wrong_type_is_a_type_error():
    with pytest.raises(TypeError, match=r"optim\.lr: got 'fast', want a number"):
        OptimConfig(lr="fast")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"proxy\.every: got 1\.5, want a whole number"):
        ProxyConfig(every=1.5)  # type: ignore[arg-type]


def test_numbers_of_any_kind_become_plain_ones():
    config = OptimConfig(epochs=np.int64(3), lr=np.float32(0.5), warmup=0)
    assert [type(value) for value in (config.epochs, config.lr, config.warmup)] == [
        int,
        float,
        float,
    ]


@pytest.mark.parametrize(
    ("section", "setting", "value", "said"),
    [
        (RunConfig, "tensorboard", "no", "got 'no', want true or false"),
        (RunConfig, "report", None, "got None, want true or false"),
        (RunConfig, "name", 2024, "got 2024, want text"),
        (OptimConfig, "lr", None, "got None, want a number"),
        (OptimConfig, "epochs", True, "got True, want a whole number"),
        (SelectionConfig, "options", [], "got [], want keys with values"),
    ],
)
def test_what_is_of_no_type_of_the_setting_is_refused(section, setting, value, said):
    with pytest.raises(TypeError, match=rf"\.{setting}: {re.escape(said)}"):
        section(**{setting: value})


def test_a_list_is_of_whole_numbers_within_bounds():
    model = ModelConfig(name="sprint", channels=(np.int64(4), 6))  # type: ignore[arg-type]
    assert model.channels == [4, 6]
    assert [type(value) for value in model.channels] == [int, int]
    config = TrainConfig(model=model)
    assert TrainConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config
    with pytest.raises(ValueError, match=r"^model\.channels\[1\]: got 0, want at least 1$"):
        ModelConfig(channels=[4, 0])
    with pytest.raises(TypeError, match=r"^model\.channels\[0\]: got 1\.5, want a whole number$"):
        ModelConfig(channels=[1.5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^model\.channels: got 4, want a list$"):
        ModelConfig(channels=4)  # type: ignore[arg-type]
    assert read_options({"model": {"channels": [4, 6]}}, "file") == {"model.channels": [4, 6]}
    with pytest.raises(TypeError, match=r"model\.channels: got 'wide', want a list or null"):
        read_options({"model.channels": "wide"}, "file")


def test_a_section_is_keys_with_values_or_nothing():
    assert TrainConfig.from_dict({"optim": None}) == TrainConfig()
    for value in (3, [], "text"):
        with pytest.raises(TypeError, match=r"^optim: got .*, want keys with values$"):
            TrainConfig.from_dict({"optim": value})


def test_contradicting_settings_are_refused():
    with pytest.raises(ValueError, match=r"optim\.nesterov"):
        OptimConfig(momentum=0.0)
    assert OptimConfig(momentum=0.0, nesterov=False).momentum == 0.0
    with pytest.raises(ValueError, match=r"optim\.batch_size: got 7, want at least 8"):
        TrainConfig(optim=OptimConfig(batch_size=7), run=RunConfig(devices=4))


def test_a_configuration_survives_the_way_through_plain_values():
    config = TrainConfig(
        data=DataConfig(name="cifar10", path="somewhere", limit=100, flip=False),
        selection=SelectionConfig(schedule="power", exponent=2.0),
    )
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_dict({}) == TrainConfig()


def test_unknown_sections_and_settings_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^unknown section optimiser \(did you mean optim\?\)$"):
        TrainConfig.from_dict({"optimiser": {}})
    with pytest.raises(
        ValueError, match=r"^unknown setting optim\.epoch \(did you mean optim\.epochs"
    ):
        TrainConfig.from_dict({"optim": {"epoch": 1}})


def test_there_is_a_proxy_only_when_samples_are_scored_at_a_slim_width():
    def config(strategy, width):
        return TrainConfig(
            selection=SelectionConfig(strategy=strategy), proxy=ProxyConfig(width=width)
        )

    assert build_selector(config("margin", 0.5)).proxy_width == 0.5
    assert build_selector(config("static-margin", 0.25)).proxy_width == 0.25
    assert build_selector(config("margin", 1.0)).proxy_width is None
    assert build_selector(config("random", 0.5)).proxy_width is None
    assert build_selector(config("full", 0.5)).proxy_width is None


def test_only_changes_that_matter_are_told():
    old = TrainConfig()
    harmless = dataclasses.replace(
        old, run=dataclasses.replace(old.run, evaluate_every=3, progress=False)
    )
    assert changed_settings(old, harmless) == []
    harmful = dataclasses.replace(harmless, optim=dataclasses.replace(old.optim, lr=0.5))
    assert changed_settings(old, harmful) == [("optim.lr", 0.1, 0.5)]


def test_every_setting_that_may_change_exists():
    settings = {f"{s}.{key}" for s, values in TrainConfig().to_dict().items() for key in values}
    assert settings >= MAY_CHANGE_ON_RESUME


def test_a_run_of_before_the_margin_was_an_option_of_its_strategy_is_told_where_it_is_now():
    values = TrainConfig().to_dict()
    values["selection"]["kind"] = "label"
    said = r"^selection\.kind: got 'label', want selection\.options\.margin\.kind$"
    with pytest.raises(ValueError, match=said):
        TrainConfig.from_dict(values)


def test_a_run_of_before_the_recipe_was_called_none_is_read():
    values = TrainConfig().to_dict()
    values["proxy"]["recipe"] = "full"
    assert TrainConfig.from_dict(values) == TrainConfig(proxy=ProxyConfig(recipe="none"))
    with pytest.raises(ValueError, match=r"proxy\.recipe: got 'full', want one of joint"):
        ProxyConfig(recipe="full")  # type: ignore[arg-type]
