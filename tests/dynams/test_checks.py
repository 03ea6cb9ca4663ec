"""Every refusal reads `name: got X, want Y`, and a mistyped word is told what it may have meant."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dynams.checks import TYPE_WORDS, did_you_mean, of_type, one_of, unknown
from dynams.models.build import MODEL_NAMES
from dynams.selection import STRATEGIES
from dynams.training.config import TrainConfig

# Of each type what is of it, and what only looks like it.
FITS: dict[type, list[Any]] = {
    bool: [True, False],
    int: [0, -3],
    float: [0.5, 2],
    str: ["", "x"],
    list: [[], [1]],
    dict: [{}, {"a": 1}],
}
MISFITS: dict[type, list[Any]] = {
    bool: [0, 1, "true", None],
    int: [True, 1.0, "1", None],
    float: [True, "0.5", None],
    str: [0, b"x", None],
    list: [(), "x", None],
    dict: [[], "a", None],
}


@pytest.mark.parametrize("kind", TYPE_WORDS)
def test_what_is_of_a_type_passes_and_the_rest_is_refused_with_what_came(kind: type) -> None:
    for value in FITS[kind]:
        of_type("x", value, kind)
    for value in MISFITS[kind]:
        told = re.escape(f"x: got {value!r}, want {TYPE_WORDS[kind]}")
        with pytest.raises(TypeError, match=f"^{told}$"):
            of_type("x", value, kind)


def test_an_unknown_word_is_told_the_nearest_one_if_any_is_near() -> None:
    assert did_you_mean("trian", ("train", "info")) == " (did you mean train?)"
    assert did_you_mean("xyz", ("train", "info")) == ""
    assert did_you_mean(0.5, (0.6,)) == ""
    assert unknown("key", "lrr", ["lr", "epochs"]) == "unknown key lrr (did you mean lr?)"


OPTIONS = [
    f"--{section}.{key}" for section, keys in TrainConfig().to_dict().items() for key in keys
]
COMMANDS = ["train", "compare", "bench", "info"]
DATA = ["digits", "cifar10", "folder"]
DEVICES = ["auto", "cpu", "cuda", "mps"]
PRECISIONS = ["32-true", "bf16-mixed"]


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("--lr", OPTIONS, "--optim.lr"),  # the section is left out
        ("--epochs", OPTIONS, "--optim.epochs"),
        ("--budget", OPTIONS, "--selection.budget"),
        ("--batch-size", OPTIONS, "--selection.batch_size or --optim.batch_size"),
        ("--model.lr", OPTIONS, "--optim.lr"),  # another section
        ("--optimizer.lr", OPTIONS, "--optim.lr"),
        ("--learning-rate", OPTIONS, "--optim.lr"),  # another program's word
        ("--optim.learning_rate", OPTIONS, "--optim.lr"),
        ("--gpus", OPTIONS, "--run.devices"),
        ("--output-dir", OPTIONS, "--run.dir"),
        ("--data.dir", OPTIONS, "--data.path"),
        ("--checkpoint", ["--resume", "--rates"], "--resume"),
        ("--optim.batch-size", OPTIONS, "--optim.batch_size"),  # written otherwise
        ("--Optim.LR", OPTIONS, "--optim.lr"),
        ("--data_path", OPTIONS, "--data.path"),
        ("ResNet-18", MODEL_NAMES, "resnet18"),
        ("static_margin", STRATEGIES, "static-margin"),
        ("--optim.lr0", OPTIONS, "--optim.lr"),  # mistyped
        ("--bugdet", OPTIONS, "--selection.budget"),
        ("resnet19", MODEL_NAMES, "resnet18"),
        ("margn", STRATEGIES, "margin"),
        ("trian", COMMANDS, "train"),
        ("static", STRATEGIES, "static-random or static-margin"),  # begun
        ("benchmark", COMMANDS, "bench"),
        ("cifar", DATA, "cifar10"),
        ("gpu", DEVICES, "cuda"),
    ],
)
def test_a_word_that_nearly_is_one_is_told_which(word, known, meant) -> None:
    assert did_you_mean(word, known) == f" (did you mean {meant}?)"


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (OPTIONS, ["--foo", "--verbose", "--pretrained", "--patience", "--optimizer", "--scheduler",
                   "--optim.name", "--x", "-v", ""]),
        (MODEL_NAMES, ["resnet101", "resnet180", "resnet9000", "resnet", "vgg16", "vit"]),
        (STRATEGIES, ["adam", "uniform", "least-confidence"]),
        (COMMANDS, ["test", "eval", "plot", "help"]),
        (DATA, ["mnist", "cifar100", "imagenet", "svhn"]),
        (DEVICES, ["tpu", "xpu", "hip"]),
        (PRECISIONS, ["fp16", "64"]),
    ],
)  # fmt: skip
def test_a_word_that_is_none_gets_no_silly_answer(known, words) -> None:
    assert {word: did_you_mean(word, known) for word in words} == dict.fromkeys(words, "")


def test_a_choice_is_one_of_those_listed_of_whatever_type() -> None:
    one_of("width", 0.5, (0.5, 1.0))
    with pytest.raises(ValueError, match=r"^width: got 0\.25, want one of 0\.5, 1\.0"):
        one_of("width", 0.25, (0.5, 1.0))
    with pytest.raises(ValueError, match=r"^name: got 'fold', want one of folder, digits \(did "):
        one_of("name", "fold", ("folder", "digits"))
    with pytest.raises(ValueError, match=r"^option: got \['x'\], want none$"):
        one_of("option", ["x"], ())
