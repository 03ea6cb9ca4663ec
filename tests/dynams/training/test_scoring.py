"""Scores and accuracies against a plain float64 reading of the same network."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from training_runs import made_up_images

import oracle
from dynams.data import Augmentation
from dynams.models import build_model
from dynams.slimmable import SlimmableNetwork
from dynams.training.batches import ImageBatches
from dynams.training.evaluation import evaluate, viewed
from dynams.training.network import frozen
from dynams.training.scoring import head_scores, score_signals

FABRIC = Fabric(accelerator="cpu")
IMAGES = made_up_images(50, seed=4)
BATCHES = ImageBatches(
    IMAGES, torch.device("cpu"), (0.4,), (0.3,), Augmentation(crop_padding=2, flip=True)
)


@pytest.fixture(scope="module")
def network() -> SlimmableNetwork:
    """A network whose batch-norms have seen something, in training mode."""
    made = build_model(
        "resnet8",
        3,
        in_channels=1,
        base_channels=6,
        generator=torch.Generator().manual_seed(3),
    )
    optimizer = torch.optim.SGD(made.parameters(), lr=0.05)
    for batch, labels in replace(BATCHES, images=made_up_images(60, seed=5)).plain(0, 60, 20):
        losses = [torch.nn.functional.cross_entropy(z, labels) for z in made(batch, (1.0, 0.5))]
        sum(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
    return made


@cache  # no test changes the network: one sees to that
def logits(network: SlimmableNetwork, width: float) -> np.ndarray:
    """Float64 logits of all images at once, in evaluation mode."""
    wide = frozen_never(network)
    images = (IMAGES.images.double() / 255 - 0.4) / 0.3
    with torch.no_grad():
        out = wide(images, width)
    assert isinstance(out, torch.Tensor)
    return out.numpy()


def frozen_never(network: SlimmableNetwork) -> SlimmableNetwork:
    copy = build_model("resnet8", 3, in_channels=1, base_channels=6)
    copy.load_state_dict(network.state_dict())
    return copy.double().eval()


def margins(network: SlimmableNetwork, width: float, kind: str) -> np.ndarray:
    head = oracle.array(frozen(network, width).head.weight)
    distances = oracle.class_distances(head)
    return oracle.margin(logits(network, width), kind, IMAGES.labels.numpy(), distances)


def scored_margins(*parts: Any, kind: str = "gap", **options: Any) -> torch.Tensor | None:
    known = score_signals(*parts, {kind}, **options)
    return None if known is None else known.score(kind)


@pytest.mark.parametrize("kind", ["gap", "probability", "distance", "label"])
@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("batch_size", [7, 64])
def test_scores_are_the_margins_of_the_evaluating_network(network, kind, width, batch_size):
    scored = scored_margins(FABRIC, network, BATCHES, width=width, kind=kind, batch_size=batch_size)
    assert scored.dtype == torch.float32
    np.testing.assert_allclose(scored.numpy(), margins(network, width, kind), rtol=1e-3, atol=1e-4)


def test_scoring_and_evaluating_leave_the_network_as_it_was(network):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scored_margins(FABRIC, network, BATCHES, width=0.5)
    evaluate(FABRIC, network, BATCHES, proxy_width=0.5)
    assert network.training
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_scoring_stops_when_asked_and_tells_how_far_it_is(network):
    answers = iter([False, True])
    seen: list[int] = []
    scored = scored_margins(
        FABRIC,
        network,
        BATCHES,
        batch_size=16,
        stop=lambda: next(answers),
        advance=seen.append,
    )
    assert scored is None
    assert seen == [16, 16]


@pytest.mark.parametrize("batch_size", [7, 50])
def test_the_accuracy_counts_each_image_once(network, batch_size):
    result = evaluate(FABRIC, network, BATCHES, proxy_width=0.5, batch_size=batch_size)
    labels = IMAGES.labels.numpy()
    correct = {
        width: int((logits(network, width).argmax(1) == labels).sum()) for width in (1.0, 0.5)
    }
    assert result.samples == 50
    assert result.correct == correct[1.0]
    assert result.full == correct[1.0] / 50
    assert result.proxy == correct[0.5] / 50
    assert evaluate(FABRIC, network, BATCHES).proxy is None


def views_of(images: np.ndarray, views: int) -> list[tuple[float, np.ndarray]]:
    """Weights, and the views of images (B, C, H, W) that they are of."""
    weight = {1: 1.0, 2: 1 / 2, 6: 1 / 4}[views]
    weighed = [(weight, images)]
    if views == 6:
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        weighed += [(weight / 2, padded[:, :, :-2, :-2]), (weight / 2, padded[:, :, 2:, 2:])]
    if views > 1:
        weighed += [(weight, each[:, :, :, ::-1]) for weight, each in weighed]
    assert len(weighed) == views
    assert sum(weight for weight, _ in weighed) == 1.0
    return weighed


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("views", [1, 2, 6])
def test_views_are_averaged(views, memory_format):
    draw = np.random.default_rng(views)
    images, weight = draw.normal(size=(5, 3, 6, 4)), draw.normal(size=(7, 3 * 6 * 4))
    wanted = sum(
        share * (each.reshape(5, -1) @ weight.T) for share, each in views_of(images, views)
    )
    layouts = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        layouts.append(batch.is_contiguous(memory_format=memory_format))
        return batch.flatten(1) @ torch.from_numpy(weight).float().T

    given = torch.from_numpy(images).float().contiguous(memory_format=memory_format)
    before = given.clone()
    found = viewed(network, given, views)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert layouts == [True] * views
    assert torch.equal(given, before)


def test_views_of_half_precision_are_averaged_in_float32():
    images = torch.randn(3, 1, 4, 4)
    found = viewed(lambda batch: batch.flatten(1).bfloat16(), images, 2)
    wanted = (images.bfloat16().float() + images.flip(3).bfloat16().float()) / 2
    assert torch.equal(found, wanted.flatten(1))
    with pytest.raises(ValueError, match="views: got 3, want 1, 2 or 6"):
        viewed(lambda batch: batch, images, 3)


@pytest.mark.parametrize("views", [2, 6])
def test_the_accuracy_is_that_of_the_views(network, views):
    # No class is preferred, so that views differ in what they are taken for.
    even = build_model("resnet8", 3, in_channels=1, base_channels=6)
    even.load_state_dict(network.state_dict())
    with torch.no_grad():
        even.head.bias.sub_(torch.from_numpy(logits(network, 1.0).mean(0)))
    labels, wide = IMAGES.labels.numpy(), frozen_never(even)
    pixels = (IMAGES.images.double().numpy() / 255 - 0.4) / 0.3
    with torch.no_grad():
        correct = {
            (width, count): int(
                np.sum(
                    sum(
                        share * wide(torch.from_numpy(each.copy()), width).numpy()
                        for share, each in views_of(pixels, count)
                    ).argmax(1)
                    == labels
                )
            )
            for width in (1.0, 0.5)
            for count in (1, views)
        }
    found = evaluate(FABRIC, even, BATCHES, proxy_width=0.5, batch_size=20, views=views)
    assert found.correct == correct[1.0, views]
    assert found.proxy == correct[0.5, views] / 50
    assert correct[1.0, views] != correct[1.0, 1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_frozen_network_calls_no_norms_and_has_the_same_outputs(network, width, memory_format):
    made = frozen(network, width, memory_format)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(torch.nan)
    assert not any(parameter.requires_grad for parameter in made.parameters())
    images = (IMAGES.images.float() / 255 - 0.4) / 0.3
    np.testing.assert_allclose(made(images).numpy(), logits(network, width), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_weights_cast_once_give_the_bits_of_autocast(network, width):
    cast, every_time = (frozen(network, width, autocast=dtype) for dtype in (torch.bfloat16, None))
    assert cast.head.weight.dtype == torch.float32
    images = (IMAGES.images.float() / 255 - 0.4) / 0.3
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cast.features(images), every_time.features(images))
        assert torch.equal(cast(images), every_time(images))


def test_bfloat16_scores_are_close_and_float32(network):
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    scored = scored_margins(fabric, network, BATCHES, width=0.5)
    assert scored.dtype == torch.float32
    exact = margins(network, 0.5, "gap")
    assert np.abs(scored.numpy() - exact).max() < 0.1 * np.abs(exact).max()


def test_half_precision_does_not_put_crowds_at_one_margin(network):
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    images = made_up_images(600, seed=6)
    margins = scored_margins(
        fabric, network, replace(BATCHES, images=images), width=0.5, batch_size=200
    )
    # A bfloat16 head would leave some 256 values an octave, and many samples at exactly 0.
    assert len(margins.unique()) > 0.9 * len(images)


SCORES = ("loss", "el2n", "entropy", "confidence")
SIGNALS = (*oracle.MARGIN_KINDS, *SCORES, "grand", "features", "labels", "residuals")


@cache
def expected(network: SlimmableNetwork, width: float) -> dict[str, np.ndarray]:
    """All signals from float64 features and logits."""
    known = {kind: margins(network, width, kind) for kind in oracle.MARGIN_KINDS}
    z, labels = logits(network, width), IMAGES.labels.numpy()
    known |= oracle.scores(z, SCORES, labels)
    images = (IMAGES.images.double() / 255 - 0.4) / 0.3
    with torch.no_grad():
        h = frozen_never(network).features(images, width).numpy()
    return known | {
        "grand": known["el2n"] * np.sqrt((h**2).sum(1) + 1),
        "features": h,
        "residuals": oracle.softmax(z) - np.eye(3)[labels],
        "labels": labels,
    }


@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("needs", [*((name,) for name in SIGNALS), SIGNALS, SIGNALS[:-1]])
def test_signals_are_those_of_the_evaluating_network_alone_or_together(network, needs, width):
    some = torch.tensor([7, 3, 44, 0, 12])
    wanted = expected(network, width)
    for indices, rows in ((None, slice(None)), (some, some.numpy())):
        known = score_signals(
            FABRIC, network, BATCHES, needs, width=width, batch_size=8, indices=indices
        )
        assert known is not None
        assert known.count == (50 if indices is None else 5)
        assert known.missing(needs) == []
        assert set(known.scores) == set(needs) - {"features", "residuals", "labels"}
        for name in needs:
            found = known.score(name) if name in known.scores else known.tensor(name)
            np.testing.assert_allclose(found.numpy(), wanted[name][rows], rtol=1e-3, atol=1e-4)


def test_what_no_network_gives_is_refused(network):
    with pytest.raises(ValueError, match=r"^needs: got forgetting, want what a network gives$"):
        score_signals(FABRIC, network, BATCHES, {"gap", "forgetting"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_scores_of_a_head_are_those_of_its_float32_logits_and_have_no_gradient(dtype, bias):
    torch.manual_seed(8)
    head, labels = nn.Linear(20, 7, bias), torch.randint(7, (30,))
    features = torch.randn(30, 20).to(dtype)
    z = oracle.linear(*map(oracle.array, (features, *head.parameters())))
    kinds = ("gap", "label", *SCORES)
    found = head_scores(head, features, labels, kinds)
    for kind, wanted in oracle.scores(z, kinds, labels.numpy()).items():
        np.testing.assert_allclose(found[kind].numpy(), wanted, rtol=1e-4, atol=1e-5)
        assert not found[kind].requires_grad
    with pytest.raises(ValueError, match="kind: got 'luck'"):
        head_scores(head, features, labels, {"luck"})
