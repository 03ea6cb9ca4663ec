"""Suggestions for unknown words: the same in another spelling, place or program, or nearly the same; never a silly one."""

from __future__ import annotations

import pytest

from dynams.models import MODEL_NAMES
from dynams.selection import STRATEGIES
from dynams.suggestions import did_you_mean, unknown
from dynams.training import TrainConfig


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
        (OPTIONS, ["--foo", "--verbose", "--pretrained", "--patience", "--x", "-v", ""]),
        (MODEL_NAMES, ["vgg16", "vit"]),
        (STRATEGIES, ["adam", "uniform"]),
        (COMMANDS, ["test", "eval", "plot", "help"]),
        (DATA, ["mnist", "imagenet", "svhn"]),
        (DEVICES, ["hip"]),
        (PRECISIONS, ["fp16", "64"]),
    ],
)  # fmt: skip
def test_a_word_that_is_none_gets_no_silly_answer(known, words) -> None:
    assert {word: did_you_mean(word, known) for word in words} == dict.fromkeys(words, "")
