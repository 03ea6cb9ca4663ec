"""score_batches gives the scores of networks in eval mode and leaves them as they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dynams_kernels as dk
from dynams.models import build_model
from dynams.selection import SubsetSampler, build_strategy, score_batches
from oracle import scores as oracle_scores

N = 23


def gap(logits: Tensor) -> np.ndarray:
    ordered = np.sort(logits.detach().double().numpy(), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def scored(*args: Any, **options: Any) -> Tensor:
    """All scores, their indices checked to be 0 to N - 1 in order."""
    pairs = list(score_batches(*args, **options))
    assert torch.equal(torch.cat([indices for indices, _ in pairs]), torch.arange(N))
    return torch.cat([scores for _, scores in pairs])


@pytest.fixture
def images() -> Tensor:
    return torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, 4, (N,), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def model() -> nn.Module:
    model = build_model("resnet8", 4, base_channels=4, generator=torch.Generator().manual_seed(1))
    model.get_submodule("network.stages.0").eval()  # a user's frozen part, in a network that trains
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_margins_are_the_gaps_of_the_network_in_eval_mode(
    images: Tensor, labels: Tensor, model: nn.Module, workers: int
) -> None:
    loader = DataLoader(TensorDataset(images, labels), batch_size=5, num_workers=workers)
    margins = scored(model, loader)
    assert margins.dtype == torch.float32
    np.testing.assert_allclose(margins.numpy(), gap(model.eval()(images)), rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    """What differs most between the modes: batch-norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Dropout(0.9))
        self.head = nn.Linear(192, 4)
        self.drop = 0.9

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(self.body(images), self.drop, self.training)

    def forward(self, images: Tensor, scale: float = 1.0) -> Tensor:
        logits: Tensor = self.head(self.features(images)) * scale
        return logits


@pytest.mark.parametrize(
    ("function", "forward"),
    [
        (lambda model: model, None),
        (lambda model: lambda x: model(x), None),
        (lambda model: model.forward, None),
        (lambda model: lambda x: model.head(model.features(x)), None),
        (lambda model: model, lambda m, x: m(x, scale=1.0)),
        (lambda model: model, lambda m, x: m.head(m.features(x))),
        (lambda model: lambda x: torch.nn.Identity()(model(x)), None),
    ],
)
def test_every_network_that_is_called_is_in_eval_mode_and_keeps_modes_and_statistics(
    images: Tensor, function: Any, forward: Any
) -> None:
    torch.manual_seed(0)
    model = Net()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    margins = []
    for _, part in score_batches(function(model), images.split(5), forward=forward):
        margins.append(part)
        assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.cat(margins), dk.margin(model.eval()(images)).detach())


def test_a_function_whose_network_is_in_training_mode_and_cannot_be_found_is_refused(
    images: Tensor,
) -> None:
    model = Net()
    give = iter(lambda: model, None)
    with pytest.raises(ValueError, match="calls a Net in training mode which cannot be found"):
        list(score_batches(lambda x: next(give)(x), images.split(5)))
    assert not model.body[1].num_batches_tracked
    model.eval()
    assert len(scored(lambda x: next(give)(x), images.split(5))) == N


class Distilled(Net):
    """Calls a teacher that is not registered in it."""

    def __init__(self, teachers: Any) -> None:
        super().__init__()
        self.teachers = teachers

    def forward(self, images: Tensor, scale: float = 1.0) -> Tensor:
        logits: Tensor = next(self.teachers)(images)
        return super().forward(images, scale) + logits


def test_a_network_that_another_calls_unregistered_is_in_eval_mode_or_refused(
    images: Tensor,
) -> None:
    teacher = Net()
    model = Distilled(iter(lambda: teacher, None))
    with pytest.raises(ValueError, match="calls a Net in training mode which cannot be found"):
        list(score_batches(model, images.split(5)))
    assert not teacher.body[1].num_batches_tracked


def test_a_compiled_function_is_compiled_once_for_all_batches() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout())

    @torch.compile(backend="eager")
    def function(x: Tensor) -> Any:
        return model(x)

    with torch._dynamo.config.patch(error_on_recompile=True):
        pairs = list(score_batches(function, torch.randn(20, 3).split(5)))
    assert len(pairs) == 4


def test_no_mode_leaks_into_the_callers_code(images: Tensor, model: nn.Module) -> None:
    scores = score_batches(model, images.split(5))
    next(scores)
    assert torch.is_grad_enabled()
    assert any(module.training for module in model.modules())
    assert torch.cat([margins for _, margins in scores]).grad_fn is None


def test_a_network_that_fails_keeps_its_modes(images: Tensor, model: nn.Module) -> None:
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match="images: got shape"):
        list(score_batches(model, images[:, :1].split(5)))
    assert [module.training for module in model.modules()] == modes


def test_a_slim_width_scores(images: Tensor, model: nn.Module) -> None:
    slim = scored(model, images.split(5), width=0.5)
    through = scored(model, images.split(5), forward=lambda m, x: m(x, width=0.5))
    assert torch.equal(slim, through)
    np.testing.assert_allclose(slim.numpy(), gap(model.eval()(images, 0.5)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["probability", "label", "loss", "el2n", "entropy", "confidence"])
def test_other_scores_are_the_oracles(
    images: Tensor, labels: Tensor, model: nn.Module, kind: str
) -> None:
    loader = DataLoader(TensorDataset(images, labels), batch_size=5)
    scores = scored(model, loader, kind=kind)
    logits = model.eval()(images).detach().double().numpy()
    expected = oracle_scores(logits, [kind], labels.numpy())[kind]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-5)


class Batch(NamedTuple):
    image: Tensor
    label: Tensor


def test_batches_may_be_inputs_alone_tuples_or_mappings(images: Tensor, labels: Tensor) -> None:
    model = Net()
    expected = dk.margin(model.eval()(images)).detach()
    model.train()
    parts = list(zip(images.split(5), labels.split(5), strict=True))
    assert torch.equal(scored(model, images.split(5)), expected)
    assert torch.equal(scored(model, parts), expected)
    assert torch.equal(scored(model, [Batch(*part) for part in parts]), expected)
    mapped = [{"x": image} for image, _ in parts]
    assert torch.equal(scored(model, mapped, forward=lambda m, batch: m(batch["x"])), expected)


def test_indices_of_the_batch_may_come_in_any_order(images: Tensor, labels: Tensor) -> None:
    model = Net().eval()
    data = TensorDataset(torch.arange(N), images, labels)
    loader = DataLoader(data, batch_size=5, shuffle=True)
    pairs = list(score_batches(model, loader, indices=lambda batch: batch, kind="loss"))
    indices = torch.cat([indices for indices, _ in pairs])
    assert indices.tolist() != list(range(N))
    losses = torch.cat([losses for _, losses in pairs])[indices.argsort()]
    expected = nn.functional.cross_entropy(model(images), labels, reduction="none")
    torch.testing.assert_close(losses, expected.detach())


def test_autocast_computes_in_its_dtype(images: Tensor) -> None:
    model = Net().eval()
    with torch.autocast("cpu", torch.bfloat16):
        expected = dk.margin(model(images).detach())
    assert torch.equal(scored(model, [images], autocast=torch.bfloat16), expected)
    assert not torch.equal(scored(model, [images]), expected)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (Net(), {"kind": "luck"}, ValueError, "kind: got 'luck', want one of gap"),
        (Net(), {"kind": "loss"}, ValueError, "kind: got 'loss', which needs labels, want batches"),
        (
            Net(),
            {"forward": Net.forward, "width": 0.5},
            ValueError,
            "width: got 0.5 beside forward",
        ),
        (3, {}, TypeError, "model: got int, want a network or a function"),
        (lambda x: torch.zeros(2, 4), {}, ValueError, r"logits of shape \(2, 4\), want .*\(5, C\)"),
        (lambda x: torch.zeros(5, 2, 4), {}, ValueError, r"logits of shape \(5, 2, 4\), want"),
        (lambda x: {"logits": x}, {}, TypeError, "model: got dict, want logits"),
        (
            Net(),
            {"indices": lambda x: (torch.arange(2), x)},
            ValueError,
            r"indices: got shape \(2,\)",
        ),
        (Net(), {"indices": lambda x: [x]}, ValueError, "got 1 value, want .indices, inputs"),
        (Net(), {"indices": lambda x: x}, TypeError, "^indices: got a Tensor, want .indices, in"),
        (Net(), {"indices": lambda x: None}, TypeError, "^indices: got a NoneType, want .indices"),
        (
            Net(),
            {"indices": lambda x: (torch.arange(5).int(), x)},
            TypeError,
            "^indices: got torch.int32, want an int64 tensor$",
        ),
        (Net(), {"indices": lambda x: ([0], x)}, TypeError, "^indices: got list, want an int64"),
        (Net(), {"indices": 3}, TypeError, "^indices: got 3, want a function"),
        (Net(), {"forward": "x"}, TypeError, "^forward: got 'x', want a function"),
        (Net(), {"autocast": "bf16"}, TypeError, "^autocast: got 'bf16', want a dtype"),
        (Net(), {"device": "gpu"}, ValueError, "^device: got 'gpu', want a device"),
        (Net(), {"device": 1.5}, ValueError, "^device: got 1.5, want a device"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    images: Tensor, model: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        list(score_batches(model, images[:20].split(5), **options))


def test_nothing_is_read_before_it_is_asked_for(images: Tensor, model: nn.Module) -> None:
    seen: list[int] = []

    def watched() -> Iterator[Tensor]:
        for place, batch in enumerate(images.split(5)):
            seen.append(place)
            yield batch

    scores = score_batches(model, watched())
    assert seen == []
    next(scores)
    assert seen == [0]


def test_three_lines_are_enough_in_a_foreign_loop(images: Tensor, model: nn.Module) -> None:
    sampler = SubsetSampler(N, budget=0.6, score=lambda: score_batches(model, images.split(5)))
    for epoch in range(2):
        sampler.set_epoch(epoch)
        gaps = gap(model.eval()(images))
        model.train()
        chosen = np.zeros(N, dtype=bool)
        chosen[list(sampler)] = True
        assert chosen.sum() == int(0.6 * N + 0.5)
        assert gaps[chosen].max() <= gaps[~chosen].min() + 1e-5
        model(images[sampler.order()]).sum().backward()


@pytest.mark.parametrize(
    ("strategy", "kind", "want"),
    [
        ("loss", "gap", "loss"),
        ("importance", "loss", "el2n"),
        ("margin", "probability", "gap"),
        (build_strategy("margin", kind="label"), "gap", "label"),
    ],
)
def test_a_sampler_refuses_scores_of_another_kind_than_it_ranks_by(
    images: Tensor, labels: Tensor, model: nn.Module, strategy: Any, kind: Any, want: Any
) -> None:
    batches = list(zip(images.split(5), labels.split(5), strict=True))
    sampler = SubsetSampler(N, strategy, budget=0.5)
    message = f'^score: got {kind}, want {want}: score_batches\\(..., kind="{want}"\\)$'
    with pytest.raises(ValueError, match=message):
        sampler.begin_epoch(0, lambda: score_batches(model, batches, kind=kind))
    sampler.begin_epoch(0, lambda: score_batches(model, batches, kind=want))
    # Pairs without a name are taken as what is wanted.
    SubsetSampler(N, strategy).begin_epoch(0, lambda: list(score_batches(model, images.split(5))))


def test_losses_of_a_scoring_pass_stand_for_those_of_training(
    images: Tensor, labels: Tensor, model: nn.Module
) -> None:
    batches = list(zip(images.split(5), labels.split(5), strict=True))
    sampler = SubsetSampler(N, "infobatch")
    sampler.begin_epoch(0, lambda: score_batches(model, batches, kind="loss"))
    with pytest.raises(ValueError, match=r"^score: got gap, want last_loss$"):
        SubsetSampler(N, "infobatch").begin_epoch(0, lambda: score_batches(model, batches))


def test_images_go_to_the_device_of_the_network(images: Tensor, device: str) -> None:
    model = build_model("resnet8", 4, base_channels=4).eval().to(device)
    for scoring in (model, lambda x: model(x)):
        pairs = list(score_batches(scoring, images.split(5)))
        assert {margins.device.type for _, margins in pairs} == {device}
    sampler = SubsetSampler(N, budget=0.5)
    sampler.begin_epoch(0, lambda: pairs)
    assert sampler.indices.device.type == "cpu"
