"""The public surface: names, signatures, backends(), side effects of import, and purity of calls."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits

REQUIRED = inspect.Parameter.empty
PLAIN, NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY

# (name, kind, default) of every parameter.
_MARGIN = [("kind", NAMED, "gap"), ("labels", NAMED, None), ("class_distances", NAMED, None)]
_SCORES = [*_MARGIN[1:], ("ignore_index", NAMED, -100)]
_ORDER = ("order", NAMED, "index")
SIGNATURES: dict[str, list[tuple[str, Any, Any]]] = {
    "margin": [("logits", PLAIN, REQUIRED), *_MARGIN],
    "scores": [("logits", PLAIN, REQUIRED), ("kinds", PLAIN, REQUIRED), *_SCORES],
    "linear_margin": [
        ("features", PLAIN, REQUIRED),
        ("weight", PLAIN, REQUIRED),
        ("bias", PLAIN, None),
        ("width", NAMED, None),
        *_MARGIN,
    ],
    "linear_scores": [
        ("features", PLAIN, REQUIRED),
        ("weight", PLAIN, REQUIRED),
        ("kinds", PLAIN, REQUIRED),
        ("bias", PLAIN, None),
        ("width", NAMED, None),
        *_SCORES,
    ],
    "smallest_k": [
        ("values", PLAIN, REQUIRED),
        ("k", PLAIN, REQUIRED),
        _ORDER,
        ("out", NAMED, None),
    ],
    "smallest_k_grouped": [
        ("values", PLAIN, REQUIRED),
        ("groups", PLAIN, REQUIRED),
        ("k", PLAIN, REQUIRED),
        _ORDER,
    ],
    "margin_topk": [("logits", PLAIN, REQUIRED), ("k", PLAIN, REQUIRED), *_MARGIN, _ORDER],
    "linear_margin_topk": [
        ("features", PLAIN, REQUIRED),
        ("weight", PLAIN, REQUIRED),
        ("k", PLAIN, REQUIRED),
        ("bias", PLAIN, None),
        ("width", NAMED, None),
        *_MARGIN,
        _ORDER,
    ],
    "class_distances": [("weight", PLAIN, REQUIRED), ("width", NAMED, None)],
    "backends": [],
    "tell_fallback": [("device", PLAIN, "cpu"), ("tell", PLAIN, None)],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_the_contract(name: str) -> None:
    parameters = inspect.signature(getattr(dk, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in parameters] == SIGNATURES[name]


def test_the_selectors_signatures() -> None:
    assert list(inspect.signature(dk.MarginSelector).parameters) == ["num_samples", "device"]
    for name, expected in {
        "update": ["indices", "margins"],
        "smallest": ["k", "out"],
        "state_dict": [],
    }.items():
        parameters = list(inspect.signature(getattr(dk.MarginSelector, name)).parameters)
        assert parameters[0] == "self"
        assert parameters[1:] == expected
    assert dk.MarginSelector(3).smallest(1).values.device == torch.device("cpu")


def test_everything_public_is_listed_typed_and_documented() -> None:
    public = {*SIGNATURES, "MarginSelector", "SmallestK"}
    assert public <= set(dk.__all__)
    for name in public:
        assert inspect.getdoc(getattr(dk, name)), name
        assert getattr(dk, name).__module__.split(".")[0] == "dynams_kernels", name
    for name in SIGNATURES:
        signature = inspect.signature(getattr(dk, name))
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not REQUIRED, (name, parameter.name)


def test_the_types_of_kinds_and_order_list_what_is_taken() -> None:
    assert set(get_args(dk.MarginKind)) == set(oracle.MARGIN_KINDS)
    assert set(get_args(dk.ScoreKind)) == {*oracle.MARGIN_KINDS, *oracle.SCORE_KINDS}
    assert set(get_args(dk.Order)) == {"index", "value"}


def test_backends_says_what_is_compiled_usable_and_why_not() -> None:
    told = dk.backends()
    assert isinstance(told, dict)
    assert told
    statuses = [s for s in told.values() if isinstance(s, dict) and "usable" in s]
    assert statuses
    for status in statuses:
        assert isinstance(status["usable"], bool)
        assert isinstance(status["compiled"], bool)
        assert status["usable"] or status["why_not"], "an unusable backend says why"
    told.clear()
    assert dk.backends(), "the answer is the caller's own"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=os.path.dirname(__file__),  # not the source tree, whose package has no compiled module
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_import_touches_neither_cuda_nor_global_state() -> None:
    code = """
import os, threading, torch

def state():
    return (torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads(),
            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), dict(os.environ))

before = state()
import dynams_kernels as dk
x = torch.arange(12.0).view(3, 4) % 5
dk.margin(x); dk.margin_topk(x, 2); dk.scores(x, ["entropy"]); dk.linear_margin(x, x)
assert state() == before
assert not torch.cuda.is_initialized()
dk.backends()
# To say what a GPU can use is to ask it, and torch notes in the environment that it has set up CUDA.
assert torch.cuda.is_available() or (state() == before and not torch.cuda.is_initialized())
assert threading.active_count() == 1
print("fine")
"""
    done = run_python(code)
    assert done.stdout.strip() == "fine", done.stderr
    assert done.stderr == "", "import is silent"


@pytest.mark.parametrize(
    ("variable", "value"), [("DYNAMS_KERNELS_BACKEND", "fast"), ("DYNAMS_KERNELS_ISA", "mmx")]
)
def test_a_wrong_environment_variable_is_refused_by_name(variable: str, value: str) -> None:
    done = run_python(
        "import dynams_kernels", **{"DYNAMS_KERNELS_BACKEND": "auto", variable: value}
    )
    if (
        variable == "DYNAMS_KERNELS_ISA"
        and "_cpu" not in str(dk.backends())
        and not done.returncode
    ):
        pytest.skip("the instruction set is read only by the native backend")
    assert done.returncode != 0
    assert variable in done.stderr
    assert value in done.stderr


# ------------------------------------------------------------------------------------ purity

X, F, W = random_logits(40, 9), random_logits(40, 6, seed=1), random_logits(9, 6, seed=2)
B, Y = random_logits(1, 9, seed=3)[0], labels_for(random_logits(40, 9))
APART = torch.cdist(W, W)
Call = Callable[[dict[str, Tensor]], Any]
CALLS: dict[str, Call] = {
    "margin": lambda t: dk.margin(t["x"], kind="distance", class_distances=t["apart"]),
    "label margin": lambda t: dk.margin(t["x"], kind="label", labels=t["y"]),
    "scores": lambda t: dk.scores(t["x"], oracle.SCORE_KINDS, labels=t["y"]),
    "linear_margin": lambda t: dk.linear_margin(t["f"], t["w"], t["b"], kind="distance"),
    "slim": lambda t: dk.linear_margin(
        t["f"], t["w"], t["b"], width=3, kind="label", labels=t["y"]
    ),
    "smallest_k": lambda t: dk.smallest_k(t["x"][:, 2], 17),
    "by value": lambda t: dk.smallest_k(t["b"], 5, order="value"),
    "margin_topk": lambda t: dk.margin_topk(t["x"], 17, kind="probability", order="value"),
    "linear_margin_topk": lambda t: dk.linear_margin_topk(t["f"], t["w"], 17, t["b"]),
    "class_distances": lambda t: dk.class_distances(t["w"], width=4),
    "selector": lambda t: dk.MarginSelector(9, t["x"].device).update(t["y"], t["x"][:, 0]),
}


def tensors_on(device: str) -> dict[str, Tensor]:
    """Tensors of the test's own."""
    made = {"x": X, "f": F, "w": W, "b": B, "y": Y, "apart": APART}
    return {key: t.to(device, copy=True) for key, t in made.items()}


@pytest.mark.parametrize("name", CALLS)
def test_inputs_are_never_written_to(name: str, device: str) -> None:
    for requires_grad in (False, True):
        tensors = tensors_on(device)
        if requires_grad:
            for key in ("x", "f", "w", "b"):
                tensors[key].requires_grad_()
        before = {key: t.detach().clone() for key, t in tensors.items()}
        versions = {key: t._version for key, t in tensors.items()}
        result = CALLS[name](tensors)
        if requires_grad and name in ("margin", "label margin", "linear_margin", "slim"):
            result.sum().backward()
        for key, t in tensors.items():
            assert oracle.same_bits(t, before[key]), key
            assert t._version == versions[key], key


@pytest.mark.parametrize("name", CALLS)
def test_results_own_their_memory(name: str, device: str) -> None:
    tensors = tensors_on(device)
    result = CALLS[name](tensors)
    outputs = result.values() if isinstance(result, dict) else result
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs or [])
    taken = {t.untyped_storage().data_ptr() for t in tensors.values()}
    for out in outputs:
        assert out.untyped_storage().data_ptr() not in taken


@pytest.mark.parametrize("name", [n for n in CALLS if n != "selector"])
def test_repeated_calls_give_the_same_bits(name: str, device: str) -> None:
    tensors = tensors_on(device)

    def flat(result: Any) -> list[Tensor]:
        if isinstance(result, Tensor):
            return [result]
        return list(result.values()) if isinstance(result, dict) else list(result)

    first = flat(CALLS[name](tensors))
    for _ in range(20):
        again = flat(CALLS[name]({k: t.clone() for k, t in tensors.items()}))
        assert all(oracle.same_bits(a, b) for a, b in zip(first, again, strict=True))


def test_parameters_and_subclasses_of_tensor_are_tensors(device: str) -> None:
    t = tensors_on(device)
    x, weight, bias = (torch.nn.Parameter(t[key].clone()) for key in "xwb")
    with torch.no_grad():
        got = dk.linear_margin(t["f"], weight, bias)
        assert oracle.same_bits(dk.margin(x), dk.margin(t["x"]))
    assert type(got) is Tensor
    assert oracle.same_bits(got, dk.linear_margin(t["f"], t["w"], t["b"]))


def test_meta_tensors_give_meta_results() -> None:
    x, f, w = (t.to("meta") for t in (X, F, W))
    assert dk.margin(x).shape == (40,)
    assert dk.margin(x).device.type == "meta"
    got = dk.linear_margin_topk(f, w, 7)
    assert got.values.shape == got.indices.shape == (7,)
    assert got.indices.dtype == torch.int64
    assert dk.scores(x, ["entropy"])["entropy"].dtype == torch.float32
