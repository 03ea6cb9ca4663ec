"""Shared by the tests of kernels: what is compiled, and ranks that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import aot
from live_ranks import LiveRanks


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> Iterator[aot.Compilations]:
    """Every `job` that the tests about to run ask for, compiled side by side, each once."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    jobs = [call.params["job"] for call in calls if call is not None and "job" in call.params]
    compilations = aot.Compilations(aot.compile_job, jobs)
    yield compilations
    compilations.close()


@pytest.fixture(scope="module")
def ranks_of() -> Iterator[Callable[[int], LiveRanks]]:
    """The group of so many ranks, started when it is first asked for."""
    groups: dict[int, LiveRanks] = {}

    def of(size: int) -> LiveRanks:
        if size not in groups:
            groups[size] = LiveRanks(size)
        return groups[size]

    yield of
    for group in groups.values():
        group.close()
