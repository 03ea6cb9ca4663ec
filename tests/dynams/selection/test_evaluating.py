"""Networks in eval mode for a call: those that a function reaches are found, and others are refused."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from dynams.selection.evaluating import evaluating, reached_by

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


class Heir(Owner):
    def indirect(self, x: Tensor) -> Any:
        return super().indirect(x)

    @functools.cached_property
    def made(self) -> Any:
        return self.network


class Student(nn.Module):
    """Calls a network that is not registered in it."""

    def __init__(self) -> None:
        super().__init__()
        self.teachers = [NETWORK]

    def forward(self, x: Tensor) -> Any:
        return self.teach(x)

    def teach(self, x: Tensor) -> Any:
        return self.teachers[0](x)


def functions() -> list[Any]:
    network, owner, heir, holder = NETWORK, Owner(), Heir(), [NETWORK]
    deep: list[Any] = [NETWORK]
    for _ in range(3000):
        deep = [deep]

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
        pytest.param(torch.no_grad()(network.forward), id="decorated method"),
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
        pytest.param(lambda x: Owner.shared(x), id="class attribute"),
        pytest.param(lambda x: owner.shared(x), id="class attribute of an object"),
        pytest.param(Heir().indirect, id="overridden method"),
        pytest.param(lambda x: heir.made(x), id="cached property"),
        pytest.param(lambda x: deep[0](x), id="nested lists"),
    ]


@pytest.mark.parametrize("function", functions())
def test_a_functions_network_is_found(function: Any) -> None:
    assert reached_by(function).networks == [NETWORK]


def test_a_network_that_another_calls_without_registering_it_is_found() -> None:
    student = Student()
    for holder in (student, nn.Sequential(student)):
        assert set(reached_by(holder).networks) == {holder, NETWORK}


class Unread(Mapping[int, nn.Module]):
    """Items that take long to read."""

    def __getitem__(self, key: int) -> nn.Module:
        raise AssertionError

    def __iter__(self) -> Iterator[int]:
        raise AssertionError

    def __len__(self) -> int:
        return 10**9


def test_data_is_not_searched() -> None:
    numbers, rows, lazy = list(range(200_000)), [("a", 1)] * 100_000, Unread()
    steps = 0

    def count(frame: Any, event: str, argument: object) -> None:
        nonlocal steps
        steps += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        reached = reached_by(lambda x: (numbers[0], rows[0], lazy[x]))
    finally:
        sys.setprofile(before)
    assert reached == ([], False)
    # None of its own for a number; for a row, one look at its items.
    assert steps < 2 * (len(numbers) + len(rows))


def test_what_torch_compiled_is_known_wherever_it_is() -> None:
    make = functools.partial(torch.compile, backend="eager")
    function = make(lambda x: x)

    class Compiled(nn.Module):
        forward = make(lambda self, x: x)

    class Calling(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    own = nn.Linear(2, 2)
    own.forward = make(own.forward)  # type: ignore[method-assign]
    inside = nn.Linear(2, 2)
    inside.compile(backend="eager")
    for each in (
        function,
        lambda x: function(x),
        Compiled(),
        Calling(),
        own,
        nn.Sequential(inside),
        make(NETWORK),
    ):
        assert reached_by(each).compiled
    left_alone = torch.compiler.disable(lambda x: NETWORK(x))
    assert reached_by(left_alone) == ([NETWORK], False)


def test_a_function_without_a_network_has_none() -> None:
    unused = NETWORK

    def function(x: Tensor) -> Tensor:
        return torch.softmax(x, 1)

    assert reached_by(function, torch.relu, None) == ([], False)
    assert reached_by(lambda x: unused).networks == [NETWORK]


def hiding(network: nn.Module) -> Callable[[Tensor], Any]:
    """A function whose network no search finds."""
    give = iter(lambda: network, None)
    return lambda x: next(give)(x)


def test_a_network_in_training_mode_that_was_not_found_is_refused_before_it_computes() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    function = hiding(network)
    assert reached_by(function).networks == []
    state = {name: value.clone() for name, value in network.state_dict().items()}
    refused = pytest.raises(ValueError, match="model: got one that calls a Sequential in")
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
