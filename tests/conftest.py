"""Shared by every test: hypothesis profiles, the --run-big option, thread and device fixtures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci",
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=_SLOW_IS_FINE,
)
settings.register_profile(
    "nightly", max_examples=10_000, deadline=None, suppress_health_check=_SLOW_IS_FINE
)
# A GPU's time is lent by the minute.
settings.register_profile(
    "gpu", max_examples=8, derandomize=True, deadline=None, suppress_health_check=_SLOW_IS_FINE
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

BIG_GIB = 12


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run-big",
        action="store_true",
        default=False,
        help=f"run the tests of tensors over 2 GiB (they need {BIG_GIB} GiB of free memory)",
    )


def _free_gib() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 0)
    return kib / 2**20


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = None
    if not config.getoption("--run-big"):
        reason = "needs --run-big"
    elif _free_gib() < BIG_GIB:
        reason = f"needs {BIG_GIB} GiB of free memory"
    if reason is None:
        return
    for item in items:
        if "big" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


def _devices() -> list[Any]:
    cuda = pytest.param("cuda", marks=pytest.mark.gpu)
    return ["cpu", cuda] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="session", params=_devices())
def device(request: pytest.FixtureRequest) -> str:
    """Every device that torch can use here; `-m gpu` selects the halves of tests that run on a GPU."""
    return str(request.param)


@pytest.fixture
def far_storage(device: str) -> Iterator[Callable[[torch.dtype], torch.Tensor]]:
    """Makes storage of more than 2^31 elements; on the CPU only what is touched becomes real memory."""

    def make(dtype: torch.dtype) -> torch.Tensor:
        size = 2**31 + 5000
        if device == "cuda" and torch.cuda.mem_get_info()[0] < 2 * size * dtype.itemsize:
            pytest.skip("needs more free GPU memory")
        try:
            return torch.empty(size, dtype=dtype, device=device)
        except RuntimeError as error:
            pytest.skip(f"no address space: {error}")

    yield make
    if device == "cuda":
        torch.cuda.empty_cache()  # other tests, maybe of other processes, need the room


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests share cores with other work: one thread, also in fixtures of any scope, unless a test asks for more."""
    torch.set_num_threads(1)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's thread count for the rest of the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)
