"""A plain call goes straight to the backend; whoever listens or takes part in torch's dispatch meets the operator, as ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import dynams_kernels as dk
import oracle
from dynams_kernels import _plain
from dynams_kernels._ops import linear, rows, selection
from dynams_kernels.distributed.shards import Shard
from kernel_inputs import labels_for, random_logits

X, F, W = random_logits(12, 7), random_logits(12, 5, seed=1), random_logits(7, 5, seed=2)
Y = labels_for(X)
OPERATORS = {"row_scores": rows, "linear_scores": linear, "smallest_k": selection}

Call = Callable[[Tensor, Tensor, Tensor], Any]
# Each primitive through the public functions, and the operator that it is.
CALLS: dict[str, tuple[Call, str]] = {
    "margin": (lambda x, f, w: dk.margin(x), "row_scores"),
    "label margin": (
        lambda x, f, w: dk.margin(x, kind="label", labels=Y.to(x.device)),
        "row_scores",
    ),
    "scores": (lambda x, f, w: dk.scores(x, ["entropy", "gap"]), "row_scores"),
    "linear_margin": (lambda x, f, w: dk.linear_margin(f, w), "linear_scores"),
    "widths": (lambda x, f, w: dk.linear_margin(f, w, width=[5, 2]), "linear_scores"),
    "smallest_k": (lambda x, f, w: dk.smallest_k(x[:, 0], 4), "smallest_k"),
}
every_call = pytest.mark.parametrize("name", CALLS)


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return list(result.values()) if isinstance(result, dict) else list(result)


def same(left: Any, right: Any) -> bool:
    return all(oracle.same_bits(a, b) for a, b in zip(flat(left), flat(right), strict=True))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators called, by name."""
    called: list[str] = []
    for name, module in OPERATORS.items():
        operator = getattr(module, f"_{name}")

        def noted(*args: Any, _name: str = name, _operator: Any = operator) -> Any:
            called.append(_name)
            return _operator(*args)

        monkeypatch.setattr(module, f"_{name}", noted)
    return called


def tensors_on(device: str) -> tuple[Tensor, Tensor, Tensor]:
    return X.to(device), F.to(device), W.to(device)


# ------------------------------------------------------------------------------------ plain


@every_call
def test_a_plain_call_passes_by_the_dispatcher(name: str, device: str, called: list[str]) -> None:
    call, _ = CALLS[name]
    call(*tensors_on(device))
    with torch.no_grad():
        call(*(torch.nn.Parameter(t) for t in tensors_on(device)))
    with torch.inference_mode():
        call(*(t.clone() for t in tensors_on(device)))
    assert called == []


@every_call
def test_it_is_the_operators_answer(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = CALLS[name]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensors = [t.to(dtype) for t in tensors_on(device)]
        straight = call(*tensors)
        with monkeypatch.context() as patch:
            for module in OPERATORS.values():
                patch.setattr(module, "is_plain", lambda *_: False)
            through = call(*tensors)
        assert same(straight, through)
        for a, b in zip(flat(straight), flat(through), strict=True):
            assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())


def test_tensors_made_in_inference_mode_are_served_outside(device: str, called: list[str]) -> None:
    with torch.inference_mode():
        x = X.to(device).clone()
        assert dk.margin(x).is_inference()
    assert not dk.margin(x).is_inference()
    assert called == []


def test_where_torch_cannot_be_asked_no_call_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _plain.is_plain(X)
    for name in ("_function_modes", "_tracing_state", "_is_profiled", "_is_wrapped"):
        with monkeypatch.context() as patch:
            patch.setattr(_plain, name, _plain._asked_of(torch._C, "nothing of this name"))
            assert not _plain.is_plain(X), name
    with monkeypatch.context() as patch:
        patch.setattr(_plain, "_forward", {})
        assert not _plain.is_plain(X)


# ------------------------------------------------------------------------------------ listeners


@every_call
def test_a_dispatch_mode_sees_the_operator(name: str, device: str) -> None:
    seen = []

    class Listener(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    call, operator = CALLS[name]
    tensors = tensors_on(device)
    want = call(*tensors)
    with Listener():
        got = call(*tensors)
    assert f"dynams_kernels::{operator}" in seen
    assert same(got, want)


@every_call
def test_a_function_mode_sees_the_operator(name: str, device: str) -> None:
    seen = []

    class Listener(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    call, operator = CALLS[name]
    tensors = tensors_on(device)
    with Listener():
        call(*tensors)
    assert f"dynams_kernels.{operator}.default" in seen


def test_a_subclass_sees_the_operator_and_keeps_its_type(device: str) -> None:
    class Named(Tensor):
        seen: list[str] = []  # noqa: RUF012

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            cls.seen.append(str(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    got = dk.margin(X.to(device).as_subclass(Named))
    assert type(got) is Named
    assert "dynams_kernels.row_scores.default" in Named.seen


@every_call
def test_a_profile_names_the_operator(name: str, device: str) -> None:
    call, operator = CALLS[name]
    tensors = tensors_on(device)
    with torch.autograd.profiler.profile() as profile:
        call(*tensors)
    assert f"dynams_kernels::{operator}" in {event.key for event in profile.key_averages()}


def test_a_default_device_does_not_move_results(device: str) -> None:
    tensors = tensors_on(device)
    for call, _ in CALLS.values():
        want = call(*tensors)
        with torch.device("meta"):
            got = call(*tensors)
        assert all(t.device.type == device for t in flat(got))
        assert same(got, want)


# ------------------------------------------------------------------------------------ tracers


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("tracing_mode", ["real", "symbolic"])
@pytest.mark.parametrize("name", [name for name in CALLS if name != "label margin"])
def test_a_traced_graph_has_the_operator(
    name: str, tracing_mode: str, pre_dispatch: bool, device: str
) -> None:
    call, operator = CALLS[name]
    tensors = tensors_on(device)
    graph = make_fx(
        lambda x, f, w: flat(call(x, f, w)), tracing_mode=tracing_mode, pre_dispatch=pre_dispatch
    )(*tensors)
    assert f"dynams_kernels.{operator}.default" in {str(node.target) for node in graph.graph.nodes}
    assert same(graph(*tensors), call(*tensors))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_scripted_trace_has_the_operator(device: str) -> None:
    traced = torch.jit.trace(dk.margin, X.to(device))
    assert "dynams_kernels::row_scores" in {node.kind() for node in traced.graph.nodes()}
    other = random_logits(12, 7, seed=9).to(device)
    assert oracle.same_bits(traced(other), dk.margin(other))


def test_an_exported_program_has_the_operator(device: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return dk.margin(x), dk.smallest_k(x[:, 0], 4).indices

    x = X.to(device)
    program = torch.export.export(Model(), (x,), strict=False)
    targets = {str(node.target) for node in program.graph.nodes}
    assert {f"dynams_kernels.{op}.default" for op in ("row_scores", "smallest_k")} <= targets
    assert same(program.module()(x), Model()(x))


def test_fake_tensors_stay_fake(device: str) -> None:
    x = X.to(device)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        inside = dk.margin(fake)
    for got in (inside, dk.margin(fake)):
        assert type(got) is type(fake)
        assert got.shape == (12,)


# ------------------------------------------------------------------------------------ transforms


@pytest.mark.filterwarnings("ignore:.*batching rule.*")
def test_vmap_maps(device: str) -> None:
    stacked = torch.stack([random_logits(6, 5, seed=seed) for seed in range(3)]).to(device)
    assert oracle.same_bits(
        torch.vmap(dk.margin)(stacked), torch.stack([dk.margin(x) for x in stacked])
    )
    picked = torch.vmap(lambda x: tuple(dk.smallest_k(x[:, 1], 2)))(stacked)
    for place, x in enumerate(stacked):
        assert same([part[place] for part in picked], dk.smallest_k(x[:, 1], 2))
    # A tensor that is not mapped over is as it is.
    x = X.to(device)
    want = torch.stack([dk.margin(x) + each.sum() for each in stacked])
    got = torch.vmap(lambda each: dk.margin(x) + each.sum())(stacked)
    torch.testing.assert_close(got, want)


def test_functionalisation_goes_through(device: str) -> None:
    x = X.to(device)
    assert oracle.same_bits(torch.func.functionalize(dk.margin)(x), dk.margin(x))


FORWARD = {
    "margin": (dk.margin, "logits"),
    "scores": (lambda x: dk.scores(x, ["gap", "entropy"])["entropy"], "logits"),
    "linear_margin": (lambda f: dk.linear_margin(f, W.to(f.device)), "features"),
    "widths": (lambda f: dk.linear_margin(f, W.to(f.device), width=[5, 2]), "features"),
    "weight": (lambda w: dk.linear_margin(F.to(w.device), w), "weight"),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward_derivatives_are_refused_not_dropped(name: str, device: str) -> None:
    call, argument = FORWARD[name]
    x = {"logits": X, "features": F, "weight": W}[argument].to(device)
    told = pytest.raises(NotImplementedError, match=f"{argument}: got .* want reverse mode")
    with forward_ad.dual_level(), told:
        call(forward_ad.make_dual(x, x))
    with told:
        torch.func.jvp(call, (x,), (x,))


def test_a_shard_of_a_head_refuses_forward_derivatives() -> None:
    told = pytest.raises(NotImplementedError, match=r"weight: got .* want reverse mode")
    with forward_ad.dual_level(), told:
        Shard(F, forward_ad.make_dual(W, W), None, None, ("gap",), None, -100)


def test_beside_forward_derivatives_the_operator_is_met(device: str, called: list[str]) -> None:
    x = X.to(device)
    want = dk.margin(x)
    with forward_ad.dual_level():
        for without in (x, forward_ad.make_dual(x, x).detach()):
            called.clear()
            primal, tangent = forward_ad.unpack_dual(dk.margin(without))
            assert called == ["row_scores"]
            assert tangent is None
            assert oracle.same_bits(primal, want)


@pytest.mark.parametrize("name", ["margin", "label margin", "linear_margin", "scores"])
def test_gradients_are_wanted_or_not(name: str, device: str, called: list[str]) -> None:
    call, operator = CALLS[name]
    for place in (0,) if operator == "row_scores" else (1, 2):
        tensors = [t.clone() for t in tensors_on(device)]
        tensors[place].requires_grad_()
        called.clear()
        assert all(t.requires_grad for t in flat(call(*tensors)))
        assert called == [operator]
        with torch.no_grad():
            assert not any(t.requires_grad for t in flat(call(*tensors)))
        assert called == [operator]


def test_a_selection_of_what_has_a_gradient_still_refuses_one(device: str) -> None:
    values = X[:, 0].to(device).clone().requires_grad_()
    with pytest.raises(RuntimeError, match="not differentiable"):
        dk.smallest_k(values, 3).values.sum().backward()


# ------------------------------------------------------------------------------------ values not as stored


def test_tensors_that_stand_for_other_values_are_read_as_what_they_stand_for(device: str) -> None:
    x = X.to(device)
    negated = torch.complex(x, x).conj().imag
    assert negated.is_neg()
    assert oracle.same_bits(dk.margin(negated), dk.margin(-x))
    assert same(dk.smallest_k(negated[:, 0], 4), dk.smallest_k(-x[:, 0], 4))
    assert oracle.same_bits(
        dk.linear_margin(negated, W.new_ones(3, 7).to(device)),
        dk.linear_margin(-x, W.new_ones(3, 7).to(device)),
    )
    zeros = torch._efficientzerotensor((4, 3), device=device)
    assert dk.margin(zeros).tolist() == [0.0] * 4


def test_autocast_is_for_products_alone(device: str) -> None:
    x, f, w = tensors_on(device)
    want = dk.linear_margin(f.bfloat16(), w.bfloat16())
    margins = dk.margin(x)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert oracle.same_bits(dk.linear_margin(f, w), want)
        assert oracle.same_bits(dk.margin(x), margins)
