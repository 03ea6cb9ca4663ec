"""torch.compile(fullgraph=True), fake tensors, dynamic shapes and torch.library.opcheck."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits

Tensors = tuple[Tensor, ...]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


SIZE = 8


def inputs(
    rows: int, device: str = "cpu", *, classes: int = 9, size: int = SIZE
) -> dict[str, Tensor]:
    x = random_logits(rows, classes, seed=rows)
    weight = random_logits(classes, size, seed=2, scale=0.4)
    made = {
        "x": x,
        "y": labels_for(x),
        "f": random_logits(rows, size, seed=rows + 1, scale=1),
        "w": weight,
        "b": random_logits(1, classes, seed=3)[0],
        "apart": torch.cdist(weight, weight).contiguous(),
    }
    return {name: t.to(device) for name, t in made.items()}


def as_dtype(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Logits, features and head in `dtype`; class distances stay float32, as the API gives them."""
    return {k: t.to(dtype) if k in "xfwb" else t for k, t in tensors.items()}


Call = Callable[[dict[str, Tensor]], Any]
CALLS: dict[str, Call] = {
    "margin": lambda t: dk.margin(t["x"] * 2),
    "margin probability": lambda t: dk.margin(t["x"], kind="probability") + 1,
    "margin of leading dimensions": lambda t: dk.margin(t["x"].view(-1, 1, t["x"].shape[1])),
    "margin label": lambda t: dk.margin(t["x"], kind="label", labels=t["y"]),
    "margin distance": lambda t: dk.margin(t["x"], kind="distance", class_distances=t["apart"]),
    "scores": lambda t: dk.scores(t["x"], ["loss", "gap", "el2n", "entropy"], labels=t["y"]),
    "linear_margin": lambda t: dk.linear_margin(t["f"], t["w"], t["b"]),
    "linear_margin slim": lambda t: dk.linear_margin(t["f"], t["w"], t["b"], width=0.5),
    "linear_margin distance": lambda t: dk.linear_margin(t["f"], t["w"], kind="distance", width=5),
    "linear_margin label": lambda t: dk.linear_margin(t["f"], t["w"], kind="label", labels=t["y"]),
    "linear_scores": lambda t: dk.linear_scores(
        t["f"], t["w"], ["loss", "entropy", "distance"], t["b"], labels=t["y"]
    ),
    "linear_scores widths": lambda t: dk.linear_scores(
        t["f"], t["w"], ["label", "el2n"], width=[0.5, 3], labels=t["y"], ignore_index=1
    ),
    "smallest_k": lambda t: dk.smallest_k(t["x"][:, 0], 3),
    "smallest_k by value": lambda t: dk.smallest_k(t["x"].sum(1), 2, order="value"),
    "smallest_k of a fraction": lambda t: dk.smallest_k(t["x"][:, 0], 0.3),
    "smallest_k_grouped": lambda t: dk.smallest_k_grouped(t["x"][:, 0], t["y"] % 1, [4]),
    "margin_topk": lambda t: dk.margin_topk(t["x"], 3),
    "linear_margin_topk": lambda t: dk.linear_margin_topk(t["f"], t["w"], 3, t["b"], order="value"),
    "class_distances": lambda t: dk.class_distances(t["w"], width=3),
}


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return list(result.values()) if isinstance(result, dict) else list(result)


def same(left: Any, right: Any, *, exactly: bool = True) -> None:
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
    for a, b in zip(flat(left), flat(right), strict=True):
        assert a.dtype == b.dtype
        if exactly:
            assert oracle.same_bits(a, b)
        else:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", CALLS)
def test_every_function_compiles_to_one_graph(name: str, backend: str, device: str) -> None:
    compiled = torch.compile(CALLS[name], fullgraph=True, backend=backend)
    tensors = inputs(12, device)
    same(compiled(tensors), CALLS[name](tensors))


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_serves_every_batch_size(name: str, device: str) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(CALLS[name], fullgraph=True, backend=count, dynamic=True)
    for rows in (12, 5, 31, 64):
        tensors = inputs(rows, device)
        same(compiled(tensors), CALLS[name](tensors))
    assert len(graphs) == 1


def test_k_may_follow_from_the_batch(device: str) -> None:
    def half(x: Tensor) -> tuple[Tensor, ...]:
        got = dk.margin_topk(x, x.shape[0] // 2)
        rest = dk.smallest_k(x[:, 0], x.shape[0] - 1)
        return got.values, got.indices, x[got.indices], rest.indices

    compiled = torch.compile(half, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (12, 7, 30):
        x = inputs(rows, device)["x"]
        for left, right in zip(compiled(x), half(x), strict=True):
            assert oracle.same_bits(left, right)


@pytest.mark.parametrize("widths", [(2, 3, 4), (0.25, 0.5, 0.75)])
def test_widths_and_counts_that_change_make_no_graph_break(
    widths: tuple[float, ...], device: str
) -> None:
    features, weight = torch.rand(20, 8, device=device), torch.rand(6, 8, device=device)

    def selected(width: float) -> Tensor:
        margins = dk.linear_margin(features, weight, width=width)
        return dk.smallest_k(margins, width).indices

    compiled = torch.compile(selected, fullgraph=True, backend="eager")
    for width in widths:  # from the second on the number is a symbol
        assert torch.equal(compiled(width), selected(width))


def test_a_fraction_of_every_group_has_a_size_of_its_own(device: str) -> None:
    def thirds(x: Tensor, y: Tensor) -> Tensor:
        chosen: Tensor = x[dk.smallest_k_grouped(x[:, 0], y, 0.3).indices]
        return chosen

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(thirds, fullgraph=True, backend="aot_eager", dynamic=True)
        for rows in (12, 31):
            tensors = inputs(rows, device)
            x, y = tensors["x"], tensors["y"]
            assert torch.equal(compiled(x, y), thirds(x, y))


def test_the_fields_of_a_selection_are_reached_inside_a_graph(device: str) -> None:
    def chosen(x: Tensor) -> Tensor:
        picked: Tensor = x[dk.margin_topk(x, k=2, order="value").indices].sum()
        return picked

    x = inputs(12, device)["x"]
    assert torch.equal(torch.compile(chosen, fullgraph=True, backend="aot_eager")(x), chosen(x))


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_compiled_gradients_are_the_eager_ones(kind: str, device: str) -> None:
    tensors = inputs(12, device)
    labels = {"labels": tensors["y"]} if kind == "label" else {}
    apart = {"class_distances": tensors["apart"]} if kind == "distance" else {}

    def total(x: Tensor, f: Tensor, w: Tensor, b: Tensor) -> Tensor:
        plain = dk.margin(x, kind=kind, **labels, **apart)
        linear = dk.linear_margin(f, w, b, kind=kind, width=5, **labels)
        result: Tensor = (plain + 2 * linear).sum()
        return result

    def gradients(call: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [tensors[n].clone().requires_grad_() for n in ("x", "f", "w", "b")]
        return list(torch.autograd.grad(call(*leaves), leaves))

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for left, right in zip(gradients(compiled), gradients(total), strict=True):
        torch.testing.assert_close(left, right)


def test_autocast_inside_a_graph(device: str) -> None:
    tensors = inputs(12, device)

    def call(t: dict[str, Tensor]) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            out: Tensor = dk.linear_margin(t["f"], t["w"], t["b"])
        return out

    same(torch.compile(call, fullgraph=True, backend="aot_eager")(tensors), call(tensors))


def test_refusals_survive_compilation(device: str) -> None:
    x = inputs(12, device)["x"]
    for wrong in (
        lambda z: dk.margin(z, kind="nearest"),
        lambda z: dk.margin_topk(z, 99),
        lambda z: dk.margin(z, kind="label"),
        lambda z: dk.smallest_k(z, 1),
    ):
        torch._dynamo.reset()
        with pytest.raises(Exception) as error:  # noqa: PT011
            torch.compile(wrong, backend="eager")(x)
        assert any(word in str(error.value) for word in ("kind", "k:", "labels", "values"))


def test_a_bad_label_is_refused_inside_a_graph() -> None:
    tensors = inputs(12)
    compiled = torch.compile(CALLS["margin label"], fullgraph=True, backend="aot_eager")
    compiled(tensors)
    with pytest.raises(ValueError, match="labels"):
        compiled({**tensors, "y": tensors["y"] + 9})


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="inductor needs a C++ compiler"
)
def test_inductor() -> None:
    # One generated kernel, to keep the C++ compiler's time short.
    def step(t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        x = t["x"].sin()
        got = dk.margin_topk(x, 5)
        linear = dk.linear_margin(t["f"], t["w"], t["b"], width=4)
        return *got, linear, *dk.scores(x, ["entropy", "gap"]).values()

    tensors = inputs(12)
    compiled = torch.compile(step, fullgraph=True, backend="inductor")
    for left, right in zip(compiled(tensors), step(tensors), strict=True):
        torch.testing.assert_close(left, right)


# ------------------------------------------------------------------------------------ fake tensors


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_fake_tensors_tell_the_true_shapes_dtypes_and_strides(
    name: str, dtype: torch.dtype, device: str
) -> None:
    real = as_dtype(inputs(12, device), dtype)
    want = flat(CALLS[name](real))
    with FakeTensorMode() as mode:
        fakes = {k: mode.from_tensor(t) for k, t in real.items()}
        got = flat(CALLS[name](fakes))
    for fake, true in zip(got, want, strict=True):
        assert fake.shape == true.shape
        assert fake.dtype == true.dtype
        assert fake.device == true.device
        assert fake.stride() == true.stride()


# ------------------------------------------------------------------------------------ opcheck

OPS = torch.ops.dynams_kernels
GAP, PROBABILITY, DISTANCE, LABEL, LOSS, LOGSUMEXP = 1, 2, 4, 8, 16, 256  # the bits of a request
EVERY_SCORE = 255
OpCase = tuple[Any, tuple[Any, ...]]


@cache
def op_cases(device: str) -> dict[str, OpCase]:
    return {name: (op, arguments) for name, op, arguments in every_op_case(device)}


def every_op_case(device: str) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        name = str(dtype).removeprefix("torch.")
        t = as_dtype(inputs(6, device), dtype)
        grad = {k: v.clone().requires_grad_(k in "xfwb") for k, v in t.items()}
        x, y, apart = t["x"], t["y"], t["apart"]
        rows, linear, smallest = (
            getattr(OPS, op).default for op in ("row_scores", "linear_scores", "smallest_k")
        )
        yield f"rows {name}", rows, (x, None, None, GAP, -100)
        yield f"rows {name} columns", rows, (x.t().contiguous().t(), None, None, PROBABILITY, -100)
        yield f"rows {name} every score", rows, (x, y, apart, EVERY_SCORE, -100)
        for kind in (GAP, PROBABILITY, LABEL, DISTANCE):
            more = (y if kind == LABEL else None, apart if kind == DISTANCE else None)
            yield f"rows {name} {kind} grad", rows, (grad["x"], *more, kind, -100)
            yield (
                f"linear {name} {kind} grad",
                linear,
                (grad["f"], grad["w"], grad["b"], *more, [SIZE], kind, -100, kind != PROBABILITY),
            )
        head = (t["f"], t["w"], t["b"], y, apart)
        yield f"linear {name} pairs", linear, (*head, [SIZE], GAP, -100, True)
        yield f"linear {name} every score", linear, (*head, [SIZE], EVERY_SCORE, -100, False)
        widths = (t["f"], t["w"], None, y, None, [2, SIZE], GAP + LABEL, -100, False)
        yield f"linear {name} widths", linear, widths
        losses = (grad["f"], grad["w"], grad["b"], y, None, [SIZE], LOSS + LOGSUMEXP, -100, False)
        yield f"linear {name} loss grad", linear, losses
        for by_value in (False, True):
            yield f"smallest {name} {by_value}", smallest, (t["b"], 4, by_value)
        yield f"smallest {name} step", smallest, (x[:, 1], 4, False)
        groups = torch.tensor([0, 1, 1, 0, 1, 2, 2, 2, 0], device=device)
        grouped = OPS.smallest_k_grouped.default
        quotas = torch.tensor([1, 2, 0], device=device)
        yield f"grouped {name}", grouped, (t["b"], groups, quotas, 0.0, 3, False)
        yield f"grouped {name} of unknown size", grouped, (t["b"], groups, None, 0.5, -1, True)


@pytest.mark.parametrize("case", op_cases("cpu"))
def test_opcheck(case: str, device: str) -> None:
    op, arguments = op_cases(device)[case]
    torch.library.opcheck(op, arguments)
