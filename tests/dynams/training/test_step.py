"""One optimisation step: the loss it descends, and what it counts as the proxy's cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch.nn.functional import cross_entropy

from dynams.models import SlimmableResNet, build_model
from dynams.training.cost import Cost
from dynams.training.step import Step, Sums, proxy_flop_share


class Recorder(Cost):
    """A cost that also notes each boundary, and looks at the network there."""

    def __init__(self) -> None:
        super().__init__()
        self.boundaries: list[str] = []
        self.look: Callable[[], Any] = lambda: None
        self.seen: list[Any] = []

    def switch(self, purpose: str) -> None:
        super().switch(purpose)
        self.boundaries.append(purpose)
        self.seen.append(self.look())


def network() -> SlimmableResNet:
    random = torch.Generator().manual_seed(0)
    return build_model("resnet8", 3, in_channels=1, base_channels=4, generator=random)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(6, 1, 8, 8, generator=random), torch.tensor([0, 1, 2, 0, 1, 2])


def make(cost: Cost, **settings: Any) -> tuple[Step, SlimmableResNet, torch.optim.SGD]:
    """A step that keeps the weights (learning rate 0) and the gradients."""
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    fabric = Fabric(accelerator="cpu")
    model, wrapped = fabric.setup(module, optimizer)
    wrapped.zero_grad = lambda: None
    return Step(fabric, model, module, wrapped, cost, **settings), module, optimizer


@pytest.mark.parametrize("proxy", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_gradient_is_that_of_both_losses(proxy, scale):
    settings = {"proxy_width": 0.5, "proxy_weight": 0.3, "label_smoothing": 0.1}
    step, module, _ = make(Cost(), **settings)
    images, labels = batch()
    loss, proxy_loss = step(images, labels, proxy=proxy, scale=scale)

    plain = network()
    full, slim = (
        cross_entropy(plain(images, width), labels, label_smoothing=0.1) for width in (1.0, 0.5)
    )
    (scale * (full + 0.3 * slim if proxy else full)).backward()
    assert loss.item() == pytest.approx(full.item(), rel=1e-5)
    assert (proxy_loss is not None) == proxy
    if proxy_loss is not None:
        assert proxy_loss.item() == pytest.approx(slim.item(), rel=1e-5)
    wanted = dict(plain.named_parameters())
    for name, parameter in module.named_parameters():
        if wanted[name].grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-6)


def test_the_proxys_forward_and_backward_count_as_proxy_loss():
    cost = Recorder()
    step, module, _ = make(cost, proxy_width=0.5)

    def gradients(width: str) -> set[bool]:
        norms = (p for name, p in module.named_parameters() if width in name)
        return {parameter.grad is not None for parameter in norms}

    cost.look = lambda: (gradients("width_0_5"), gradients("width_1_0"))
    step(*batch(), proxy=True)
    assert cost.boundaries == ["proxy loss", "training", "proxy loss", "training"]
    assert cost.seen[2] == ({False}, {False})  # the backward pass begins
    assert cost.seen[3] == ({True}, {False})  # done with the proxy, not yet with the rest
    assert gradients("width_1_0") == {True}
    assert cost.samples["training"] == cost.samples["proxy loss"] == 6
    assert all(cost.seconds()[purpose] > 0 for purpose in ("training", "proxy loss"))


def test_a_step_without_the_proxy_counts_as_training_alone():
    cost = Recorder()
    step, _, _ = make(cost, proxy_width=0.5)
    step(*batch(), proxy=False)
    assert cost.boundaries == []
    assert cost.seconds()["proxy loss"] == 0.0
    assert cost.samples["proxy loss"] == 0


def test_where_it_cannot_be_measured_the_proxy_bears_its_share_of_the_flops():
    cost = Recorder()
    step, module, _ = make(cost, proxy_width=0.5, proxy_share=0.25)
    step(*batch(), proxy=True)
    seconds = cost.seconds()
    assert cost.boundaries == []
    assert seconds["proxy loss"] == pytest.approx(seconds["training"] / 3)
    assert cost.samples["proxy loss"] == 6
    module.train()
    share = proxy_flop_share(module, batch()[0], 0.5)
    assert module.training
    # Half the channels on both sides of a convolution: a quarter of the work, but the stem and the
    # head have one full side.
    assert 0.2 < share < 0.25


def test_training_a_proxy_that_is_not_there_is_refused():
    step, _, _ = make(Cost())
    with pytest.raises(ValueError, match="no proxy to train"):
        step(*batch(), proxy=True)


def test_sums_are_means_over_samples_not_over_steps():
    sums = Sums(torch.device("cpu"))
    sums.add(torch.tensor(1.0), None, 10)
    sums.add(torch.tensor(4.0), torch.tensor(7.0), 5)
    assert sums.means() == (2.0, 7.0)
    again = Sums(torch.device("cpu"))
    again.load_state_dict(sums.state_dict())
    again.add(torch.tensor(2.0), torch.tensor(1.0), 15)
    assert again.means() == (2.0, 2.5)
    again.clear()
    assert again.means() == (0.0, None)
