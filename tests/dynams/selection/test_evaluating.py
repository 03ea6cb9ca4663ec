"""Networks in eval mode for a call: those that a function reaches are found, and others are refused."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from dynams.selection.evaluating import evaluating, networks_of

NETWORK = nn.BatchNorm1d(3)
TABLE = {"inner": [NETWORK]}


def by_global(x: Tensor) -> Any:
    return NETWORK(x)


def by_table(x: Tensor) -> Any:
    return TABLE["inner"][0](x)


def through_another(x: Tensor) -> Any:
    return by_global(x)


class Owner:
    shared: ClassVar[nn.Module] = NETWORK
    __slots__ = ("__dict__", "slot")

    def __init__(self) -> None:
        self.network = NETWORK
        self.slot = NETWORK

    def __call__(self, x: Tensor) -> Any:
        return self.network(x)

    @property
    def hidden(self) -> nn.Module:
        return self.network

    def indirect(self, x: Tensor) -> Any:
        return self(x)

    def by_property(self, x: Tensor) -> Any:
        return self.hidden(x)

    def by_slot(self, x: Tensor) -> Any:
        return self.slot(x)


def functions() -> list[Any]:
    network, owner, holder = NETWORK, Owner(), [NETWORK]

    @torch.no_grad()
    def decorated(x: Tensor) -> Any:
        return network(x)

    def given(x: Tensor, network: nn.Module = NETWORK) -> Any:
        return network(x)

    def named(x: Tensor, *, network: nn.Module = NETWORK) -> Any:
        return network(x)

    def inside(x: Tensor) -> list[Any]:
        return [(lambda: network(part))() for part in (x,)]

    return [
        pytest.param(network, id="itself"),
        pytest.param(network.forward, id="its method"),
        pytest.param(lambda x: network(x), id="closure"),
        pytest.param(lambda x: holder[0](x), id="list"),
        pytest.param(inside, id="inner function"),
        pytest.param(given, id="default"),
        pytest.param(named, id="keyword default"),
        pytest.param(decorated, id="decorated"),
        pytest.param(functools.lru_cache(decorated), id="cached"),
        pytest.param(functools.partial(torch.nn.Module.__call__, network), id="partial"),
        pytest.param(by_global, id="global"),
        pytest.param(by_table, id="table"),
        pytest.param(through_another, id="through another"),
        pytest.param(owner, id="object"),
        pytest.param(owner.indirect, id="method"),
        pytest.param(owner.by_property, id="property"),
        pytest.param(owner.by_slot, id="slot"),
        pytest.param(lambda x: owner.network(x), id="attribute"),
    ]


@pytest.mark.parametrize("function", functions())
def test_a_functions_network_is_found(function: Any) -> None:
    assert networks_of(function) == [NETWORK]


def test_a_function_without_a_network_has_none() -> None:
    unused = NETWORK

    def function(x: Tensor) -> Tensor:
        return torch.softmax(x, 1)

    assert networks_of(function) == networks_of(torch.relu) == networks_of(None) == []
    assert networks_of(lambda x: unused) == [NETWORK]


def hiding(network: nn.Module) -> Callable[[Tensor], Any]:
    """A function whose network no search finds."""
    give = iter(lambda: network, None)
    return lambda x: next(give)(x)


def test_a_network_in_training_mode_that_was_not_found_is_refused_before_it_computes() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    function = hiding(network)
    assert networks_of(function) == []
    state = {name: value.clone() for name, value in network.state_dict().items()}
    refused = pytest.raises(ValueError, match="model: got a function that calls a Sequential in")
    with refused, evaluating([], watch=True):
        function(torch.randn(4, 3))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    network.eval()
    with evaluating([], watch=True):
        function(torch.randn(4, 3))
    network.train()
    function(torch.randn(4, 3))  # nothing is watched any more


def test_what_has_no_state_and_is_made_on_the_spot_is_put_in_eval_mode() -> None:
    dropout = nn.Dropout()
    with evaluating([], watch=True):
        assert hiding(dropout)(torch.ones(50)).eq(1).all()
        assert nn.Softmax(0)(torch.zeros(4)).tolist() == [0.25] * 4
    assert dropout.training


def test_networks_of_other_threads_are_left_alone() -> None:
    network, failed = nn.BatchNorm1d(3), []

    def train() -> None:
        try:
            network(torch.randn(4, 3))
        except ValueError as error:
            failed.append(error)

    with evaluating([], watch=True):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert failed == []
    assert int(network.num_batches_tracked or 0) == 1
