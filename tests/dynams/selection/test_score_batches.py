"""score_batches gives the margins of a network in eval mode and leaves the network as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynams.models import build_model
from dynams.selection import SubsetSampler, score_batches

N = 23


def batches(images: Tensor, size: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    for indices in torch.arange(len(images)).split(size):
        yield indices, images[indices]


def gap(logits: Tensor) -> np.ndarray:
    ordered = np.sort(logits.detach().double().numpy(), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


@pytest.fixture
def images() -> Tensor:
    return torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    model = build_model("resnet8", 4, base_channels=4, generator=torch.Generator().manual_seed(1))
    model.get_submodule("stages.0").eval()  # a user's frozen part, in a network that trains
    return model


def test_margins_are_the_gaps_of_the_network_in_eval_mode(images: Tensor, model: nn.Module) -> None:
    pairs = list(score_batches(model, batches(images)))
    expected = gap(model.eval()(images))
    assert torch.equal(torch.cat([indices for indices, _ in pairs]), torch.arange(N))
    margins = torch.cat([margins for _, margins in pairs])
    assert margins.dtype == torch.float32
    np.testing.assert_allclose(margins.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_network_keeps_its_modes_and_statistics(images: Tensor, model: nn.Module) -> None:
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in score_batches(model, batches(images)):
        assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_no_mode_leaks_into_the_callers_code(images: Tensor, model: nn.Module) -> None:
    scores = score_batches(model, batches(images))
    next(scores)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert any(module.training for module in model.modules())


def test_a_network_that_fails_keeps_its_modes(images: Tensor, model: nn.Module) -> None:
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match="images must have shape"):
        list(score_batches(model, batches(images[:, :1])))
    assert [module.training for module in model.modules()] == modes


def test_a_function_around_a_slim_width_will_do(images: Tensor, model: nn.Module) -> None:
    model.eval()
    pairs = score_batches(lambda batch: model(batch, 0.5), batches(images))
    margins = torch.cat([margins for _, margins in pairs])
    np.testing.assert_allclose(margins.numpy(), gap(model(images, 0.5)), rtol=1e-4, atol=1e-5)


def test_other_kinds_are_handed_on(images: Tensor, model: nn.Module) -> None:
    model.eval()
    pairs = score_batches(model, batches(images), kind="probability")
    margins = torch.cat([margins for _, margins in pairs])
    ordered = model(images).detach().double().softmax(1).sort(dim=1).values.numpy()
    np.testing.assert_allclose(
        margins.numpy(), ordered[:, -1] - ordered[:, -2], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="kind"):
        list(score_batches(model, batches(images), kind="luck"))


def test_another_number_of_rows_than_indices_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="model_fn must give one row of logits for each"):
        list(score_batches(lambda batch: torch.zeros(2, 4), batches(images)))


def test_nothing_is_read_before_it_is_asked_for(images: Tensor, model: nn.Module) -> None:
    seen: list[int] = []

    def watched() -> Iterator[tuple[Tensor, Tensor]]:
        for indices, batch in batches(images):
            seen.append(int(indices[0]))
            yield indices, batch

    scores = score_batches(model, watched())
    assert seen == []
    next(scores)
    assert seen == [0]


def test_three_lines_are_enough_in_a_foreign_loop(images: Tensor, model: nn.Module) -> None:
    sampler = SubsetSampler(N, budget=0.6)
    for epoch in range(2):
        refresh = sampler.begin_epoch(epoch, lambda: score_batches(model, batches(images)))
        assert refresh is not None
        gaps = gap(model.eval()(images))
        model.train()
        k = int(0.6 * N + 0.5)
        assert len(refresh.indices) == k
        chosen = np.zeros(N, dtype=bool)
        chosen[refresh.indices.numpy()] = True
        assert gaps[chosen].max() <= gaps[~chosen].min() + 1e-5
        for index in sampler:
            assert chosen[index]
        model.requires_grad_(True)
        model(images[sampler.order()]).sum().backward()


def test_images_go_to_the_device_of_the_network(images: Tensor, device: str) -> None:
    model = build_model("resnet8", 4, base_channels=4).eval().to(device)
    pairs = list(score_batches(model, batches(images), device=device))
    assert {margins.device.type for _, margins in pairs} == {device}
    sampler = SubsetSampler(N, budget=0.5)
    sampler.begin_epoch(0, lambda: pairs)
    assert sampler.indices.device.type == "cpu"
