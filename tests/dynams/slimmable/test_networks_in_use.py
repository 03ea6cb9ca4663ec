"""Converted networks are moved, saved, wrapped and converted again by torch as any module is."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from foreign_networks import Net, doing
from torch import Tensor, distributed, nn
from torch.func import functional_call

from dynams import slimmable


def pictures(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(count))


def model() -> Net:
    torch.manual_seed(0)
    middle = doing(
        lambda self, x: self.norm(x) * self.gain + torch.linspace(0, 1, x.shape[-1]).to(x),
        norm=nn.BatchNorm2d(8),
    )
    middle.register_buffer("gain", torch.rand(8, 1, 1))
    return Net(middle).eval()


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=0, world_size=1
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def test_other_dtypes_and_devices() -> None:
    network = slimmable.convert(model())
    double = copy.deepcopy(network).double()
    torch.testing.assert_close(double(pictures().double(), 0.5).float(), network(pictures(), 0.5))
    assert double.plain(0.5)(pictures().double()).dtype == torch.float64
    assert copy.deepcopy(network).to("meta")(pictures().to("meta"), 0.5).shape == (2, 3)
    half = slimmable.convert(model().bfloat16())
    assert torch.equal(half(pictures().bfloat16()), model().bfloat16()(pictures().bfloat16()))


def test_synchronised_batch_norms_of_every_width() -> None:
    network = slimmable.convert(model())
    converted = cast(Any, nn.SyncBatchNorm).convert_sync_batchnorm(copy.deepcopy(network))
    norms = [each for each in converted.modules() if isinstance(each, nn.SyncBatchNorm)]
    assert [each.num_features for each in norms] == [4, 8]
    for each in (converted, converted.plain(0.5)):
        given = (pictures(),) if isinstance(each, slimmable.PlainNetwork) else (pictures(), 0.5)
        assert torch.equal(each(*given), network(pictures(), 0.5))
    synced = cast(Any, nn.SyncBatchNorm).convert_sync_batchnorm(model())
    assert torch.equal(slimmable.convert(synced)(pictures()), network(pictures()))


def test_gradients_are_those_under_distributed_training(tmp_path: Path) -> None:
    network = slimmable.convert(model()).train()
    alone = copy.deepcopy(network)
    with process_group(tmp_path):
        wrapped = nn.parallel.DistributedDataParallel(network)
        for each in (wrapped, alone):
            torch.stack(each(pictures(), (1.0, 0.5))).square().sum().backward()
        for one, other in zip(network.parameters(), alone.parameters(), strict=True):
            assert torch.equal(cast(Tensor, one.grad), cast(Tensor, other.grad))


def test_parameters_given_for_a_call() -> None:
    network = slimmable.convert(model())
    weights = {key: 2 * value for key, value in network.named_parameters()}
    doubled = copy.deepcopy(network)
    with torch.no_grad():
        for each in doubled.parameters():
            each.mul_(2)
    given = functional_call(network, weights, (pictures(), 0.5))
    assert torch.equal(given, doubled(pictures(), 0.5))


def test_a_state_without_the_networks_prefix_loads() -> None:
    network, other = slimmable.convert(model()), slimmable.convert(model())
    with torch.no_grad():
        network.get_parameter("network.fc.bias").add_(1)
    old = {key.removeprefix("network."): value for key, value in network.state_dict().items()}
    other.load_state_dict(old)
    assert torch.equal(other(pictures(), 0.5), network(pictures(), 0.5))
    with pytest.raises(RuntimeError, match=r"Missing key.*network\.fc\.bias"):
        other.load_state_dict({key: value for key, value in old.items() if key != "fc.bias"})


def test_plain_networks_are_stored_and_exported() -> None:
    plain = slimmable.convert(model()).plain(0.5)
    file = io.BytesIO()
    torch.save(plain.state_dict(), file)
    file.seek(0)
    again = slimmable.convert(model()).plain(0.5)
    again.load_state_dict(torch.load(file))
    assert torch.equal(again(pictures(5)), plain(pictures(5)))
    traced = torch.jit.trace(plain, pictures())
    assert torch.equal(cast(Any, traced)(pictures(5)), plain(pictures(5)))


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    "make", [Output, lambda *values: dict(zip("logits hidden".split(), values, strict=True))]
)
def test_logits_in_an_object(make: Any) -> None:
    class Giving(Net):
        def forward(self, x: Tensor) -> Any:
            return make(super().forward(x), x)

    own = Giving().eval()
    given = own(pictures())
    logits = given["logits"] if isinstance(given, dict) else given.logits
    assert torch.equal(slimmable.convert(own)(pictures()), logits)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_what_was_converted_without_gradients_trains(mode: Any) -> None:
    own, before = model(), torch.get_rng_state()
    with mode():
        network = slimmable.convert(own).train()
    network(pictures(), 0.5).sum().backward()
    assert network.get_parameter("network.stem.weight").grad is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_in_eval_mode_inside_a_network_that_trains_stays_so() -> None:
    class Frozen(Net):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.middle.eval()
            return self

    own = Frozen(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout())).train()
    network = slimmable.convert(own)
    before = copy.deepcopy(network.state_dict())
    for each in (network, network.eval().train()):
        assert torch.equal(each(pictures()), own(pictures()))
        each(pictures(), 0.5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("nested", [False, True])
def test_a_batch_norm_in_eval_mode_stays_so_at_every_width(nested: bool) -> None:
    own = Net(nn.BatchNorm2d(8)).train()
    own.middle.eval()
    network = slimmable.convert(own, nested=nested)
    before = copy.deepcopy(network.state_dict())
    network.eval().train()(pictures(), (1.0, 0.5))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for width in network.widths:
        plain = network.plain(width).eval()
        expected = network.eval()(pictures(), width)
        torch.testing.assert_close(plain(pictures()), expected)
        torch.testing.assert_close(plain.train()(pictures()), expected)
        assert plain.eval().fold_batch_norms()


def test_a_batch_norm_used_twice_is_one() -> None:
    norm = nn.BatchNorm2d(8)
    own = Net(nn.Sequential(norm, nn.Conv2d(8, 8, 1), norm)).train()
    network = slimmable.convert(own).train()
    assert torch.equal(network(pictures()), own(pictures()))
    assert list(network.plain(1.0).network.state_dict()) == list(own.state_dict())
    assert (
        int(cast(Tensor, network.network.get_buffer("middle.2.width_1_0.num_batches_tracked"))) == 2
    )
