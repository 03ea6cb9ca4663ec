"""One optimisation step: the loss it descends, and what it counts as the proxy's cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch.nn.functional import cross_entropy

from dynams.cost.clock import Clock
from dynams.models import build_model
from dynams.selection import BatchSelection
from dynams.slimmable import SlimmableNetwork
from dynams.training.step import TrainingStep
from dynams.training.step_clock import StepClock, proxy_flop_share
from dynams.training.sums import Sums


class Recorder(Clock):
    """A clock that also notes each boundary, and looks at the network there."""

    def __init__(self) -> None:
        super().__init__()
        self.boundaries: list[str] = []
        self.look: Callable[[], Any] = lambda: None
        self.seen: list[Any] = []

    def switch(self, purpose: str) -> None:
        super().switch(purpose)
        self.boundaries.append(purpose)
        self.seen.append(self.look())


def network() -> SlimmableNetwork:
    random = torch.Generator().manual_seed(0)
    return build_model("resnet8", 3, in_channels=1, base_channels=4, generator=random)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(6, 1, 8, 8, generator=random), torch.tensor([0, 1, 2, 0, 1, 2])


def make(
    clock: Clock, *, share: float | None = None, **settings: Any
) -> tuple[TrainingStep, SlimmableNetwork, torch.optim.SGD]:
    """A step that keeps the weights (learning rate 0) and the gradients."""
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    fabric = Fabric(accelerator="cpu")
    model, wrapped = fabric.setup(module, optimizer)
    wrapped.zero_grad = lambda: None
    timed = StepClock(clock, module if "proxy_width" in settings else None, share=share)
    return TrainingStep(fabric, model, module, wrapped, timed, **settings), module, optimizer


@pytest.mark.parametrize("proxy", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_gradient_is_that_of_both_losses(proxy, scale):
    settings = {"proxy_width": 0.5, "proxy_weight": 0.3, "label_smoothing": 0.1}
    step, module, _ = make(Clock(), **settings)
    images, labels = batch()
    output = step(images, labels, proxy=proxy, scale=scale)
    loss, proxy_loss = output.loss, output.proxy_loss

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
    clock = Recorder()
    step, module, _ = make(clock, proxy_width=0.5)

    def gradients(width: str) -> set[bool]:
        norms = (p for name, p in module.named_parameters() if width in name)
        return {parameter.grad is not None for parameter in norms}

    clock.look = lambda: (gradients("width_0_5"), gradients("width_1_0"))
    step(*batch(), proxy=True)
    assert clock.boundaries == ["proxy loss", "training", "proxy loss", "training"]
    assert clock.seen[2] == ({False}, {False})  # the backward pass begins
    assert clock.seen[3] == ({True}, {False})  # done with the proxy, not yet with the rest
    assert gradients("width_1_0") == {True}
    assert clock.samples["training"] == clock.samples["proxy loss"] == 6
    assert all(clock.seconds()[purpose] > 0 for purpose in ("training", "proxy loss"))


def test_a_step_without_the_proxy_counts_as_training_alone():
    clock = Recorder()
    step, _, _ = make(clock, proxy_width=0.5)
    step(*batch(), proxy=False)
    assert clock.boundaries == []
    assert clock.seconds()["proxy loss"] == 0.0
    assert clock.samples["proxy loss"] == 0


def test_where_it_cannot_be_measured_the_proxy_bears_its_share_of_the_flops():
    clock = Recorder()
    step, module, _ = make(clock, proxy_width=0.5, share=0.25)
    step(*batch(), proxy=True)
    seconds = clock.seconds()
    assert clock.boundaries == []
    assert seconds["proxy loss"] == pytest.approx(seconds["training"] / 3)
    assert clock.samples["proxy loss"] == 6
    module.train()
    share = proxy_flop_share(module, batch()[0], 0.5)
    assert module.training
    # Half the channels on both sides of a convolution: a quarter of the work, but the stem and the
    # head have one full side.
    assert 0.2 < share < 0.25


def test_training_a_proxy_that_is_not_there_is_refused():
    step, _, _ = make(Clock())
    with pytest.raises(ValueError, match="there is no proxy to train"):
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


def gradients_of(module: SlimmableNetwork) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_gradients(module: SlimmableNetwork, plain: SlimmableNetwork) -> None:
    wanted = gradients_of(plain)
    for name, gradient in gradients_of(module).items():
        expected = wanted[name]
        assert (gradient is None) == (expected is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_weights_multiply_each_samples_loss_at_both_widths():
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 1.0])
    step, module, _ = make(Clock(), proxy_width=0.5, proxy_weight=0.3, label_smoothing=0.1)
    images, labels = batch()
    output = step(images, labels, proxy=True, weights=weights)
    plain = network()
    full, slim = (
        (weights * cross_entropy(z, labels, label_smoothing=0.1, reduction="none")).sum() / 6
        for z in plain(images, (1.0, 0.5))
    )
    (full + 0.3 * slim).backward()
    assert output.loss.item() == pytest.approx(full.item(), rel=1e-5)
    assert_gradients(module, plain)


def test_a_distilled_proxy_learns_the_full_widths_outputs_and_does_not_pull_them():
    step, module, _ = make(Clock(), proxy_width=0.5, distill=True)
    images, labels = batch()
    output = step(images, labels, proxy=True)
    plain = network()
    logits, slim = plain(images, (1.0, 0.5))
    targets = logits.detach().softmax(1)
    proxy_loss = -(targets * slim.log_softmax(1)).sum(1).mean()
    (cross_entropy(logits, labels) + proxy_loss).backward()
    assert output.proxy_loss is not None
    assert output.proxy_loss.item() == pytest.approx(proxy_loss.item(), rel=1e-5)
    assert_gradients(module, plain)


def test_a_part_of_the_batch_trains_the_proxy_and_is_what_it_counts():
    clock = Recorder()
    step, module, _ = make(clock, proxy_width=0.5, proxy_part=0.5)
    images, labels = batch()
    output = step(images, labels, proxy=True)
    plain = network()
    (
        cross_entropy(plain(images), labels) + cross_entropy(plain(images[:3], 0.5), labels[:3])
    ).backward()
    assert_gradients(module, plain)
    assert (output.samples, output.proxy_samples) == (6, 3)
    assert (clock.samples["training"], clock.samples["proxy loss"]) == (6, 3)
    assert clock.boundaries == ["proxy loss", "training", "proxy loss", "training"]


def test_a_choice_inside_the_step_trains_on_the_kept_alone_with_their_weights():
    clock = Recorder()
    step, module, _ = make(clock)
    images, labels = batch()
    mask = torch.tensor([True, False, True, True, False, False])
    weights = torch.tensor([2.0, 0.0, 0.5, 1.0, 0.0, 0.0])
    seen: list[torch.Tensor] = []

    def choose(given: torch.Tensor) -> BatchSelection:
        seen.append(given)
        return BatchSelection(mask, weights)

    output = step(images, labels, proxy=False, choose=choose)
    plain = network()
    assert torch.equal(seen[0], images)
    logits = plain(images[mask])
    each = cross_entropy(logits, labels[mask], reduction="none")
    ((weights[mask] * each).sum() / 3).backward()
    assert_gradients(module, plain)
    assert output.samples == 3
    assert clock.samples["training"] == 3
    assert clock.seconds()["scoring"] > 0
