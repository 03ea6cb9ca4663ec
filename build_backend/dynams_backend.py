"""The build backend: setuptools', which asks for the headers of the Hopper kernels where those are compiled.

A backend of the tree's own is how setuptools has build requirements that depend on the machine; pyproject.toml names it.
"""

from __future__ import annotations

from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that are as setuptools has them

from cuda_requirements import build_requirements

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *build_requirements()]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *build_requirements()]
