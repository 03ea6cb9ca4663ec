"""Shared by the tests of compiled Triton kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import aot


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> Iterator[aot.Compilations]:
    """Every `job` that the tests about to run ask for, compiled side by side, each once."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    jobs = [call.params["job"] for call in calls if call is not None and "job" in call.params]
    compilations = aot.Compilations(aot.compile_job, jobs)
    yield compilations
    compilations.close()
