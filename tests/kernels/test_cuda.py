"""What is promised of a GPU alone: no host synchronisation, capture, streams, labels out of range.

Values on the GPU are tested beside those of the CPU, in the tests that take `device`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

Tensors = dict[str, Tensor]
CALLS: dict[str, Callable[[Tensors], list[Tensor]]] = {
    "margin": lambda t: [dk.margin(t["x"])],
    "margin label": lambda t: [dk.margin(t["x"], kind="label", labels=t["y"])],
    "margin distance": lambda t: [dk.margin(t["x"], kind="distance", class_distances=t["apart"])],
    "scores": lambda t: list(dk.scores(t["x"], oracle.SCORE_KINDS, labels=t["y"]).values()),
    "linear_margin": lambda t: [dk.linear_margin(t["f"], t["w"], kind="distance")],
    "linear_margin slim": lambda t: [dk.linear_margin(t["f"], t["w"], t["x"][0], width=9)],
    "smallest_k": lambda t: list(dk.smallest_k(t["v"], 60_000)),
    "smallest_k by value": lambda t: list(dk.smallest_k(t["v"], 999, order="value")),
    "margin_topk": lambda t: list(dk.margin_topk(t["x"], 300)),
    "linear_margin_topk": lambda t: list(dk.linear_margin_topk(t["f"], t["w"], 300)),
    "class_distances": lambda t: [dk.class_distances(t["w"])],
}


def tensors(device: str = "cuda", seed: int = 0) -> Tensors:
    x, w = random_logits(517, 33, seed=seed), random_logits(33, 20, seed=seed + 1)
    made = {"x": x, "y": labels_for(x), "f": random_logits(517, 20, seed=seed + 2), "w": w}
    made["v"] = random_logits(1, 100_003, seed=seed + 3)[0].round(decimals=2)
    made["apart"] = torch.cdist(w, w)
    return {name: t.to(device) for name, t in made.items()}


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CALLS)
def test_no_call_synchronises_with_the_host(name: str, request: pytest.FixtureRequest) -> None:
    t = tensors()
    CALLS[name](t)
    request.getfixturevalue("no_synchronisation")
    CALLS[name](t)


def test_updating_and_asking_a_selector_does_not_synchronise(
    request: pytest.FixtureRequest,
) -> None:
    selector = dk.MarginSelector(1000, device="cuda")
    indices, margins = torch.arange(1000, device="cuda"), torch.rand(1000, device="cuda")
    selector.update(indices, margins)
    selector.smallest(10)
    request.getfixturevalue("no_synchronisation")
    selector.update(indices, margins)
    selector.smallest(10)


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_captured_and_replayed_on_new_data(name: str) -> None:
    static, fresh = tensors(), tensors(seed=50)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        CALLS[name](static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = CALLS[name](static)
    for key, tensor in static.items():
        tensor.copy_(fresh[key])
    for _ in range(3):
        graph.replay()
    for got, want in zip(out, CALLS[name](fresh), strict=True):
        assert oracle.same_bits(got, want)


@pytest.mark.parametrize("name", CALLS)
def test_work_is_queued_on_the_current_stream(name: str) -> None:
    want = CALLS[name](tensors(seed=7))
    late = tensors(seed=7)
    now = {key: torch.zeros_like(tensor) for key, tensor in late.items()}
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # the data come long after the call was made
        for key, tensor in now.items():
            tensor.copy_(late[key])
        got = CALLS[name](now)
    side.synchronize()
    for left, right in zip(got, want, strict=True):
        assert oracle.same_bits(left, right)


def test_labels_out_of_range_make_only_their_rows_scores_nan() -> None:
    t = tensors()
    bad = torch.tensor([3, 100, 516], device="cuda")
    labels = t["y"].clone()
    labels[bad] = torch.tensor([33, -1, -100], device="cuda")
    wrong = torch.zeros(517, dtype=torch.bool, device="cuda")
    wrong[bad] = True
    got = dk.scores(t["x"], oracle.SCORE_KINDS, labels=labels)
    for kind in oracle.SCORE_KINDS:
        assert torch.equal(got[kind].isnan(), wrong & (kind in oracle.LABEL_KINDS)), kind
    for margins in (
        dk.margin(t["x"], kind="label", labels=labels),
        dk.linear_margin(t["f"], t["w"], kind="label", labels=labels),
    ):
        assert torch.equal(margins.isnan(), wrong)


def test_selections_have_the_cpus_bits() -> None:
    t = tensors()
    here = {key: tensor.cpu() for key, tensor in t.items()}
    for name in ("margin", "margin label", "smallest_k", "smallest_k by value", "margin_topk"):
        for gpu, cpu in zip(CALLS[name](t), CALLS[name](here), strict=True):
            assert oracle.same_bits(gpu, cpu), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", CALLS)
def test_a_tensor_of_another_device_runs_there(name: str) -> None:
    want = CALLS[name](tensors("cuda:0"))
    with torch.cuda.device(0):
        got = CALLS[name](tensors("cuda:1"))
    for left, right in zip(got, want, strict=True):
        assert left.device == torch.device("cuda:1")
        assert oracle.same_bits(left, right)
