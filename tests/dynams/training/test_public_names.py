"""`dynams.training` gives its names whatever was imported before."""

from __future__ import annotations

import importlib

import pytest

import dynams.training

# A submodule of a public name's name would hide it as soon as anything imports the submodule.
importlib.import_module("dynams.training.loop")


@pytest.mark.parametrize("name", dynams.training.__all__)
def test_a_public_name_is_never_a_module(name: str) -> None:
    assert not hasattr(getattr(dynams.training, name), "__path__")
    assert type(getattr(dynams.training, name)).__name__ != "module"
