"""Lets the GPU benchmarks run on a machine without a GPU, with small inputs and without meaning in their times.

A pytest plugin for a process of its own (`-p cpu_for_gpu`), and a function for scripts: what asks for "cuda" gets the CPU, the
GPU's backends are those of the CPU, and device times are the host's. What is left to be checked is everything else: shapes,
arguments, peers, bytes and flops, the ledger, the report.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from dynams_kernels._backends import eager, registry
from gpu import backends, candidate_table, ceilings, timing

CEILINGS = {
    "copy": 1e10,
    "bf16 matmul": 1e11,
    "tf32 matmul": 1e11,
    "fp32 matmul": 1e11,
    "launch": 1e-6,
}
SMALL_HEADS = {
    "65536x1024-1000": (32, 1024, 50),
    "65536x1024-10": (40, 24, 10),
    "65536x1024-100": (40, 24, 100),
    "8192x4096-128256": (20, 24, 300),
    "256x2048-1000": (7, 24, 100),
    "64x4096-1000000": (3, 16, 5000),
    "4096x1024-1000": (30, 24, 50),
}


class OnTheCpu(TorchFunctionMode):
    """Tensors asked for on the GPU are made on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


class Candidates:
    """registry.gpu for linear heads: plain torch by several names. $FAULTY says which are off, raise or end
    their process."""

    names = ("hopper 128x256", "hopper 128x144", "hopper 128x192", "triton pointers", "eager")

    def serves(self, device: int) -> Candidates:
        return self

    def linear_choice(self, features: Any, weight: Any, *about: Any) -> str:
        return self.linear_candidates(features, weight)[0]

    def why_not_native_linear(self, device: int) -> str:
        return "not built"

    def linear_candidates(self, features: Any, weight: Any, *about: Any) -> tuple[str, ...]:
        return self.names if weight.shape[0] >= 50 else self.names[3:]

    def linear_scores(self, *operands: Any, by: str) -> Any:
        scores, pairs = eager.linear_scores(*operands)
        fault = json.loads(os.environ.get("FAULTY", "{}")).get(by)
        if fault == "off":
            scores[:, :, -1] += 0.5
        elif fault == "raises":
            raise RuntimeError("no such launch")
        elif fault == "dies":
            os._exit(70)
        return scores, pairs


class HostTimed:
    """timing.Timed by the host's clock."""

    how = "graph"

    def __init__(self, calls: Sequence[timing.Call], own_clock: float = 0.0) -> None:
        self._calls = calls
        self.seconds()

    def seconds(self) -> float:
        begin = time.perf_counter()
        for call in self._calls:
            call()
        return (time.perf_counter() - begin) / len(self._calls)


def replace_gpu() -> None:
    """For the rest of this process."""
    torch.cuda.is_available = lambda: True
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *_: None
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(L2_cache_size=1 << 14)
    backends.gpu_backends = lambda: {"native": registry.cpu, "triton": eager}
    registry.gpu = Candidates()  # type: ignore[assignment]
    ceilings.measure = lambda: dict(CEILINGS)
    timing.Timed = HostTimed  # type: ignore[assignment, misc]
    timing.ROUNDS = 3
    timing.launches = lambda _: 1
    timing.peak_extra_bytes = lambda _: 0
    # Inputs so small gain nothing by threads, which beside another process wait for each other.
    torch.set_num_threads(1)
    OnTheCpu().__enter__()


def pytest_configure(config: pytest.Config) -> None:
    replace_gpu()


def pytest_collection_finish(session: pytest.Session) -> None:
    for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
        small = {
            "LOGITS": 1_000_000,
            "HEADS": SMALL_HEADS,
            "IMAGENET": SMALL_HEADS["65536x1024-1000"],
            "FLOAT32": (32, 24, 50),
            "BATCH": (500, 30),
            "CALLS": 2,
            "IMAGES": 2,
            "NETWORKS": {"ResNet-18": "resnet8", "ViT-small": (16, 1, 2)},
            "WORK": {
                name: (kinds, (21, 24, min(shape[2], 100)))
                for name, (kinds, shape) in candidate_table.WORK.items()
            },
        }
        for name, value in small.items():
            if hasattr(module, name):
                setattr(module, name, value)
        if hasattr(module, "SIZES"):
            module.SIZES = {key: (3000, values) for key, (_, values) in module.SIZES.items()}
