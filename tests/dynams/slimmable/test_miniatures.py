"""The styles of network that people bring: a slim width is the same class with smaller sizes, parameters picked by hand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from foreign_networks import images, stir
from miniature import CLASSES, WORDS, Miniature
from miniature_networks import MINIATURES
from torch import Tensor, nn

import dynams_kernels as dk
from dynams import slimmable

WIDTH = 0.4
WIDTHS = (WIDTH, 1.0)
SLIM, FULL = "width_0_4", "width_1_0"

every_miniature = pytest.mark.parametrize("name", MINIATURES)
either_mode = pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])


def made(name: str) -> nn.Module:
    """In double precision, with norms that are not at their initial values."""
    miniature = MINIATURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = miniature.make(**miniature.at(1.0).sizes).double()
        stir(model)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@cache
def converted(name: str) -> slimmable.SlimmableNetwork:
    """Converted, with norms of every width different. Only its mode and statistics may change."""
    network = slimmable.convert(made(name), WIDTHS, example=batch(name))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        stir(network)
    return network.train()


def batch(name: str) -> Tensor:
    if MINIATURES[name].tokens:
        return torch.randint(WORDS, (4, 7), generator=torch.Generator().manual_seed(0))
    return images()


def run(model: nn.Module, *args: object) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and gradients by parameter, under the same random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(3)  # for dropout
        logits = model(*args)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(logits.sin().sum(), list(parameters.values()), allow_unused=True)
    return logits, dict(zip(parameters, found, strict=True))


def slim_reference(miniature: Miniature, network: slimmable.SlimmableNetwork) -> nn.Module:
    """The miniature with smaller sizes and what the table picks; norms are those of the width."""
    model = miniature.make(**miniature.at(WIDTH).sizes).double()
    state, own = network.state_dict(), {}
    for name in model.state_dict():
        module, _, entry = name.rpartition(".")
        norm = f"network.{module}.{SLIM}.{entry}"
        full = state.get(f"network.{name}")
        own[name] = state[norm] if full is None else full[miniature.picked(name, full, WIDTH)]
    model.load_state_dict(own)
    return model.train(network.training)


@either_mode
@every_miniature
def test_a_slim_width_is_the_network_written_with_fewer_channels(name: str, training: bool) -> None:
    miniature, network = MINIATURES[name], converted(name).train(training)
    reference = slim_reference(miniature, network)
    logits, gradients = run(network, batch(name), WIDTH)
    plain = network.plain(WIDTH)
    wanted, wanted_gradients = run(reference, batch(name))
    torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)
    for key, value in wanted_gradients.items():
        full = gradients.get(f"network.{key}")
        if full is None:
            module, _, entry = key.rpartition(".")
            found = gradients[f"network.{module}.{SLIM}.{entry}"]
        else:
            index = miniature.picked(key, full, WIDTH)
            found = full[index]
            rest = full.clone()
            rest[index] = 0
            assert not rest.any(), key
        torch.testing.assert_close(found, value, rtol=1e-8, atol=1e-8)
    slim, _ = run(plain, batch(name))
    torch.testing.assert_close(slim, wanted, rtol=1e-9, atol=1e-9)


@every_miniature
def test_a_plain_slim_network_has_the_parameters_that_the_table_picks(name: str) -> None:
    network = converted(name)
    state = network.plain(WIDTH).network.state_dict()
    reference = slim_reference(MINIATURES[name], network).state_dict()
    assert list(state) == list(reference)
    assert all(torch.equal(state[key], value) for key, value in reference.items())


@every_miniature
def test_full_width_is_the_network_itself_bit_for_bit(name: str) -> None:
    model = made(name)
    network = slimmable.convert(model, WIDTHS, example=batch(name))
    for training in (False, True):
        wanted, wanted_gradients = run(model.train(training), batch(name))
        logits, gradients = run(network.train(training), batch(name))
        assert torch.equal(logits, wanted)
        for key, value in gradients.items():
            if SLIM not in key:
                theirs = wanted_gradients[key.replace(f".{FULL}", "").removeprefix("network.")]
                assert torch.equal(value, theirs), key
    state = network.plain(1.0).network.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@every_miniature
def test_other_batch_sizes_and_lengths_than_the_examples_run(name: str) -> None:
    miniature, network = MINIATURES[name], converted(name).eval()
    other = batch(name)[:3, :5] if miniature.tokens else images(seed=1, count=3)
    reference = slim_reference(miniature, network)
    torch.testing.assert_close(network(other, WIDTH), reference(other), rtol=1e-9, atol=1e-9)


@every_miniature
def test_the_head_scores_slim_features_of_images_and_of_tokens(name: str) -> None:
    network, kinds = converted(name).eval(), ("gap", "entropy")
    with torch.no_grad():
        features = network.features(batch(name), WIDTH)
        wanted = dk.scores(network(batch(name), WIDTH), kinds)
        plain = network.plain(WIDTH)
        direct = dk.linear_scores(features, plain.head.weight, kinds, plain.head.bias)
    for kind in kinds:
        assert direct[kind].shape == batch(name).shape[: 2 if MINIATURES[name].tokens else 1]
        torch.testing.assert_close(direct[kind], wanted[kind], check_dtype=False)


@pytest.mark.parametrize("name", ["gpt", "llama", "vit"])
def test_the_leading_columns_of_the_head_score_slim_features(name: str) -> None:
    network, kinds = converted(name).eval(), ("gap", "entropy")
    with torch.no_grad():
        features = network.features(batch(name), WIDTH)
        wanted = dk.scores(network(batch(name), WIDTH), kinds)
        head, width = network.head, features.shape[-1]
        assert width == 4
        found = dk.linear_scores(features, head.weight, kinds, head.bias, width=width)
    for kind in kinds:
        torch.testing.assert_close(found[kind], wanted[kind])


def test_modules_may_have_names_that_are_no_identifiers_or_differ_in_dots_alone() -> None:
    layers = {"0-a": nn.Conv2d(3, 4, 1), "0_b": nn.Sequential(nn.Conv2d(4, 4, 1))}
    inner = nn.Sequential()
    inner.add_module("b_0", nn.Conv2d(4, 4, 1))
    model = nn.Sequential()
    for name, layer in {**layers, "0": inner, "pool": nn.AdaptiveAvgPool2d(1)}.items():
        model.add_module(name, layer)
    model.append(nn.Flatten()).append(nn.Linear(4, CLASSES)).double()
    network = slimmable.convert(model, example=images())
    assert torch.equal(network(images()), model(images()))
    assert network.plain(0.5)(images()).shape == (4, CLASSES)
