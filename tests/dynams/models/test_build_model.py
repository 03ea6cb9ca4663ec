"""Networks by name have the published sizes; bad arguments are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynams.models import MODEL_NAMES, ResNet, build_model, check_options
from dynams.models.build import architecture_of

RESNETS = [name for name in MODEL_NAMES if name.startswith("resnet")]


def size(name: str, num_classes: int, **options: Any) -> int:
    with torch.device("meta"):
        model = ResNet(architecture_of(name, num_classes, **options))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "stem", "parameters"),
    [
        # The published counts of the reference implementations.
        ("resnet18", 1000, "imagenet", 11_689_512),
        ("resnet34", 1000, "imagenet", 21_797_672),
        ("resnet50", 1000, "imagenet", 25_557_032),
        ("resnet18", 10, "cifar", 11_173_962),
        ("resnet50", 10, "cifar", 23_520_842),
        # He et al.'s 0.27 M with two 1x1 shortcuts and their batch-norms in place of padding.
        ("resnet20", 10, "cifar", 269_722 + (16 * 32 + 64) + (32 * 64 + 128)),
    ],
)
def test_parameter_counts_are_the_known_ones(
    name: str, num_classes: int, stem: str, parameters: int
) -> None:
    assert size(name, num_classes, stem=stem) == parameters


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", RESNETS)
def test_every_resnet_takes_either_stem_and_both_widths(name: str, stem: Any) -> None:
    model = build_model(name, 7, stem=stem, in_channels=1, base_channels=4).eval()
    full, slim = model(torch.zeros(2, 1, 32, 32), (1.0, 0.5))
    assert full.shape == slim.shape == (2, 7)
    assert model.head.weight.shape[0] == model.head.bias.shape[0] == 7
    assert model.widths == (0.5, 1.0)


def test_depth_in_the_name_counts_convolutions_and_the_head() -> None:
    for name in RESNETS:
        with torch.device("meta"):
            plain = ResNet(architecture_of(name, 2))
        weighted = [
            key
            for key in plain.state_dict()
            if key.endswith("conv.weight") and ".shortcut." not in key
        ]
        assert len(weighted) + 1 == int(name.removeprefix("resnet"))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"name: got 'resnet19', want one of resnet8, .*resnet18, .*resnet50, sprint \(did you mean resnet",
    ):
        build_model("resnet19", 10)


def test_an_unknown_stem_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"stem: got 'mnist', want one of cifar, imagenet"):
        build_model("resnet8", 10, stem="mnist")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "value"), [("num_classes", 1), ("in_channels", 0), ("base_channels", 0)]
)
def test_sizes_too_small_are_refused_by_name(argument: str, value: int) -> None:
    options: dict[str, Any] = {"num_classes": 10, argument: value}
    with pytest.raises(ValueError, match=f"{argument}: got {value}, want at least"):
        build_model("resnet8", **options)


def test_bad_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths: got .*, want"):
        build_model("resnet8", 10, widths=(1.0, 0.5))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet8", {"channels": [4, 8]}, r"channels: got \[4, 8\] with resnet8, want it left out"),
        ("resnet8", {"depth": 2}, "depth: got 2 with resnet8, want it left out"),
        ("sprint", {"base_channels": 4}, "base_channels: got 4 with sprint, want it left out"),
        ("sprint", {"stem": "imagenet"}, "stem: got 'imagenet' with sprint, want it left out"),
        ("sprint", {"channels": []}, "channels: got none, want those of each group"),
        ("sprint", {"channels": [4, 0]}, "channels: got 0, want at least 1"),
        ("sprint", {"depth": 4}, "depth: got 4, want at most 3"),
    ],
)
def test_an_option_of_another_network_or_out_of_range_is_refused(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        build_model(name, 10, **options)
    with pytest.raises(ValueError, match=said):
        check_options(name, **options)


def test_sprint_has_no_residuals_to_begin_as_zero() -> None:
    with pytest.raises(ValueError, match="zero_init_residual: got True with sprint"):
        build_model("sprint", 10, zero_init_residual=True)
