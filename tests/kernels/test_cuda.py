"""What is promised of a GPU alone: no host synchronisation, capture, streams, memory never read before it is written.

Values on the GPU are tested beside those of the CPU in the tests that take `device`, and on every kernel's own paths in
test_cuda_values.py and test_cuda_linear.py; selections whose grids fill the GPU in test_cuda_selection.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from cuda_calls import captured, same, spoil, words
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
    "margin tiny rows": lambda t: [dk.margin(t["x"][:, :3].contiguous())],
    "margin of split rows": lambda t: [dk.margin(t["long"]), dk.margin(t["long"].bfloat16())],
    "scores": lambda t: list(dk.scores(t["x"], oracle.SCORE_KINDS, labels=t["y"]).values()),
    "scores of split rows": lambda t: list(dk.scores(t["long"], ["entropy", "gap"]).values()),
    "linear_margin": lambda t: [dk.linear_margin(t["f"], t["w"], kind="distance")],
    "linear_margin slim": lambda t: [dk.linear_margin(t["f"], t["w"], t["x"][0], width=9)],
    "linear_margin bfloat16": lambda t: [dk.linear_margin(t["f"].bfloat16(), t["w"].bfloat16())],
    "linear_margin split": lambda t: [dk.linear_margin(t["f"][:3], t["tall"], kind="probability")],
    "linear_margin widths": lambda t: [dk.linear_margin(t["f"], t["w"], width=[4, 9, 20])],
    "smallest_k": lambda t: list(dk.smallest_k(t["v"], 60_000)),
    "smallest_k half": lambda t: list(dk.smallest_k(t["v"].half(), 60_000)),
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
    made["long"] = random_logits(3, 70_001, seed=seed + 4)
    made["tall"] = random_logits(20_011, 20, seed=seed + 5)
    return {name: t.to(device) for name, t in made.items()}


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_the_backend_asked_for_is_the_one_that_serves() -> None:
    asked = os.environ.get("DYNAMS_KERNELS_BACKEND", "auto")
    serves = dk.backends()["serves"]["cuda"]
    rows = {"native": "native_cuda", "triton": "triton", "eager": "eager"}
    if asked in rows:
        assert serves["row_scores"] == serves["smallest_k"] == rows[asked]
    by_shape = asked == "native" and dk.backends()["native_cuda"]["linear_scores"] == "usable"
    if asked in ("native", "triton"):
        assert serves["linear_scores"] == ("native_cuda, triton" if by_shape else "triton")


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
    graph, out = captured(lambda: CALLS[name](static))
    for key, tensor in static.items():
        tensor.copy_(fresh[key])
    graph.replay()
    assert same(out, CALLS[name](fresh))


@pytest.mark.parametrize("name", CALLS)
def test_a_hundred_replays_give_the_same_bits(name: str) -> None:
    static = tensors()
    want = CALLS[name](static)
    graph, out = captured(lambda: CALLS[name](static))
    differing = torch.zeros((), dtype=torch.int64, device="cuda")
    for replay in range(100):
        spoil(out, replay)
        graph.replay()
        for got, right in zip(out, want, strict=True):
            differing += (words(got) != words(right)).sum()
    assert differing.item() == 0


@pytest.mark.parametrize("name", CALLS)
def test_a_hundred_runs_give_the_same_bits(name: str) -> None:
    t = tensors()
    want = CALLS[name](t)
    differing = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(100):
        for got, right in zip(CALLS[name](t), want, strict=True):
            differing += (words(got) != words(right)).sum()
    assert differing.item() == 0


def poison(byte: int) -> None:
    """Leaves blocks of every size in torch's cache, full of `byte`: what a call allocates next is one of them."""
    blocks = [
        torch.full((size,), byte, dtype=torch.uint8, device="cuda")
        for size in (512, 4096, 70_000, 900_000, 1 << 20, 3 << 20, 12 << 20)
        for _ in range(12)
    ]
    del blocks


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0xFF])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_read_from_memory_that_was_not_written(name: str, byte: int) -> None:
    t = tensors()
    want = CALLS[name](t)
    torch.cuda.empty_cache()
    poison(byte)
    assert same(CALLS[name](t), want)


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
    assert same(got, want)


@pytest.mark.parametrize("name", CALLS)
def test_calls_on_several_streams_share_nothing(name: str) -> None:
    inputs = [tensors(seed=10 * place) for place in range(4)]
    want = [CALLS[name](t) for t in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    got: list[list[Tensor]] = []
    for _ in range(5):  # so that calls of different streams are under way at once
        got = []
        for t, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                got.append(CALLS[name](t))
    torch.cuda.synchronize()
    for left, right in zip(got, want, strict=True):
        assert same(left, right)


def test_calls_from_several_threads_share_nothing() -> None:
    inputs = [tensors(seed=10 * place) for place in range(4)]
    names = ("margin of split rows", "smallest_k", "linear_margin split", "margin_topk")
    want = [[CALLS[name](t) for name in names] for t in inputs]
    wrong: list[str] = []

    def work(t: Tensors, right: list[list[Tensor]]) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(10):
                for name, expected in zip(names, right, strict=True):
                    if not same(CALLS[name](t), expected):
                        wrong.append(name)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, want, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


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
        *dk.linear_margin(t["f"], t["w"], kind="label", labels=labels, width=[9, 20]),
    ):
        assert torch.equal(margins.isnan(), wrong)


@pytest.mark.parametrize("label", [2**31, 2**32, 2**32 + 1, -(2**31), 2**62, -(2**62)])
def test_labels_are_never_taken_for_shorter_numbers(label: int) -> None:
    t = tensors()
    labels = torch.full_like(t["y"], label)
    assert dk.margin(t["x"], kind="label", labels=labels).isnan().all()
    assert dk.linear_margin(t["f"], t["w"], kind="label", labels=labels).isnan().all()


def test_selections_have_the_cpus_bits() -> None:
    t = tensors()
    here = {key: tensor.cpu() for key, tensor in t.items()}
    for name in ("margin", "margin label", "smallest_k", "smallest_k by value", "margin_topk"):
        assert same(CALLS[name](t), CALLS[name](here)), name


# ------------------------------------------------------------------------------------ torch.compile


@pytest.mark.parametrize("name", CALLS)
def test_every_function_compiles_to_one_graph_on_the_gpu(name: str) -> None:
    t = tensors()
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    assert same(compiled(t), CALLS[name](t))


def test_inductor_fuses_around_the_operators() -> None:
    def chosen(x: Tensor, f: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        margins = dk.margin(x * 2) + dk.linear_margin(f, w).exp()
        return margins, dk.smallest_k(margins, 300).indices

    t = tensors()
    margins, indices = torch.compile(chosen, fullgraph=True)(t["x"], t["f"], t["w"])
    torch.testing.assert_close(margins, chosen(t["x"], t["f"], t["w"])[0])
    assert torch.equal(indices, dk.smallest_k(margins, 300).indices)


# ------------------------------------------------------------------------------------ several devices


two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@two_devices
@pytest.mark.parametrize("name", CALLS)
def test_a_tensor_of_another_device_runs_there(name: str) -> None:
    want = CALLS[name](tensors("cuda:0"))
    with torch.cuda.device(0):
        got = CALLS[name](tensors("cuda:1"))
    for tensor in got:
        assert tensor.device == torch.device("cuda:1")
    assert same(got, want)


# Torch's word for the current device and the driver's: modules may each have a runtime of their own.
FIRST_CALL_ELSEWHERE = """
import ctypes, json, sys, torch
import dynams_kernels as dk

driver = ctypes.CDLL("libcuda.so.1")

def current():
    device = ctypes.c_int(-1)
    assert driver.cuCtxGetDevice(ctypes.byref(device)) == 0
    return [torch.cuda.current_device(), device.value]

here = torch.ones(1, device="cuda:0")
x, w = torch.randn(600, 40, device="cuda:1"), torch.randn(10, 40, device="cuda:1")
calls = {
    "margin": lambda: dk.margin(x),
    "smallest_k": lambda: dk.smallest_k(x[:, 0], 100),
    "linear_margin": lambda: dk.linear_margin(x, w),
    "backends": lambda: dk.backends(),
}
here.add_(1)
told = [current()]
for _ in range(2):
    calls[sys.argv[1]]()
    told.append(current())
told.append([torch.ones(1, device="cuda").device.index] * 2)
print(json.dumps(told))
"""


@two_devices
@pytest.mark.parametrize("name", ["margin", "smallest_k", "linear_margin", "backends"])
def test_a_first_call_leaves_the_current_device_the_callers(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL_ELSEWHERE, name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == [[0, 0]] * 4
