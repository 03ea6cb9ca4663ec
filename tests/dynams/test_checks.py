"""Every refusal reads `name: got X, want Y`."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dynams.checks import TYPE_WORDS, of_type, one_of

# Of each type what is of it, and what only looks like it.
FITS: dict[type, list[Any]] = {
    bool: [True, False],
    int: [0, -3],
    float: [0.5, 2],
    str: ["", "x"],
    list: [[], [1]],
    tuple: [(), [1]],
    dict: [{}, {"a": 1}],
}
MISFITS: dict[type, list[Any]] = {
    bool: [0, 1, "true", None],
    int: [True, 1.0, "1", None],
    float: [True, "0.5", None],
    str: [0, b"x", None],
    list: [(), "x", None],
    tuple: ["x", 1, None],
    dict: [[], "a", None],
}


@pytest.mark.parametrize("kind", TYPE_WORDS)
def test_what_is_of_a_type_passes_and_the_rest_is_refused_with_what_came(kind: type) -> None:
    for value in FITS[kind]:
        of_type("x", value, kind)
    for value in MISFITS[kind]:
        told = re.escape(f"x: got {value!r}, want {TYPE_WORDS[kind]}")
        with pytest.raises(TypeError, match=f"^{told}$"):
            of_type("x", value, kind)


def test_a_choice_is_one_of_those_listed_of_whatever_type() -> None:
    one_of("width", 0.5, (0.5, 1.0))
    with pytest.raises(ValueError, match=r"^width: got 0\.25, want one of 0\.5, 1\.0"):
        one_of("width", 0.25, (0.5, 1.0))
    with pytest.raises(ValueError, match=r"^name: got 'fold', want one of folder, digits \(did "):
        one_of("name", "fold", ("folder", "digits"))
    with pytest.raises(ValueError, match=r"^option: got \['x'\], want none$"):
        one_of("option", ["x"], ())
