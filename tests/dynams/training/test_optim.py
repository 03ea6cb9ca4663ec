"""Learning rate, parameter groups and loss against plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dynams.training.config import OptimConfig
from dynams.training.optim import (
    build_optimizer,
    learning_rate,
    loss_function,
    parameter_groups,
    set_learning_rate,
)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_the_rate_rises_linearly_then_follows_half_a_cosine():
    config = OptimConfig(lr=0.4, warmup=0.25, final_lr=0.1)
    assert learning_rate(config, 0.0) == 0.0
    assert learning_rate(config, 0.125) == pytest.approx(0.2)
    assert learning_rate(config, 0.25) == pytest.approx(0.4)
    middle = 0.04 + 0.5 * (0.4 - 0.04)
    assert learning_rate(config, 0.625) == pytest.approx(middle)
    assert learning_rate(config, 1.0) == pytest.approx(0.04)


def test_without_warmup_the_first_rate_is_the_largest():
    assert learning_rate(OptimConfig(lr=0.3, warmup=0.0), 0.0) == pytest.approx(0.3)


@given(
    progress=st.floats(0, 1),
    warmup=st.floats(0, 0.99),
    final=st.floats(0, 1),
)
def test_the_rate_stays_between_zero_and_the_largest(progress, warmup, final):
    rate = learning_rate(OptimConfig(lr=0.1, warmup=warmup, final_lr=final), progress)
    assert 0.0 <= rate <= 0.1 * (1 + 1e-12)
    assert math.isfinite(rate)


def test_norms_and_biases_do_not_decay_unless_asked():
    model = network()
    decayed, kept = parameter_groups(model, 0.01)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert decayed["weight_decay"] == 0.01
    assert {p.ndim for p in kept["params"]} == {1}
    assert kept["weight_decay"] == 0.0
    (every,) = parameter_groups(model, 0.01, decay_norm_bias=True)
    assert len(every["params"]) == len(list(model.parameters()))


def test_each_trainable_parameter_is_in_one_group():
    model = network()
    model[0].weight.requires_grad_(False)
    groups = parameter_groups(model, 0.01)
    ours = [id(p) for group in groups for p in group["params"]]
    assert sorted(ours) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_step_is_nesterov_sgd_with_decay():
    model = nn.Linear(3, 2).double()
    config = OptimConfig(lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = build_optimizer(model, config)
    weight = model.weight.detach().numpy().copy()
    velocity = np.zeros_like(weight)
    random = np.random.default_rng(0)
    for _ in range(3):
        gradient = random.normal(size=weight.shape)
        model.weight.grad = torch.from_numpy(gradient)
        model.bias.grad = torch.zeros(2, dtype=torch.float64)
        set_learning_rate(optimizer, 0.05)
        optimizer.step()
        decayed = gradient + 0.01 * weight
        velocity = 0.9 * velocity + decayed
        weight = weight - 0.05 * (decayed + 0.9 * velocity)
    np.testing.assert_allclose(model.weight.detach().numpy(), weight, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_smoothed_cross_entropy_in_float32(smoothing):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 6, 3, 3, 2])
    wide = logits.double().numpy()
    log_softmax = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    target = np.full((5, 7), smoothing / 7)
    target[np.arange(5), labels.numpy()] += 1 - smoothing
    expected = -(target * log_softmax).sum(1).mean()
    loss = loss_function(logits, labels, smoothing)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert loss_function(logits.bfloat16(), labels, smoothing).dtype == torch.float32
