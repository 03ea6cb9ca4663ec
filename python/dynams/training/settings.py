"""How a setting is declared: its type, default, bounds and text stand in one place, its field.

A choice is the field's `Literal`. What is checked, what `--help` shows and what the class documents
follow from the field. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from dynams.checks import at_least, interval, one_of

_Section = TypeVar("_Section")


def setting(
    default: Any,
    text: str,
    *,
    within: str | None = None,
    least: int | None = None,
    known: Iterable[str] | None = None,
) -> Any:
    """Declare a setting of a section: the default of a dataclass' field.

    Args:
        default: its default; of a dictionary, what it holds.
        text: what it means, without the full stop.
        within: the interval of a number, such as "(0, 1]".
        least: the least of a whole number.
        known: the values that it takes, where no `Literal` can say it.
    """
    metadata = {"text": text, "within": within, "least": least, "known": known}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type[_Section]) -> type[_Section]:
    """Document a frozen dataclass of settings by its fields: for `--help`, and for readers of the class."""
    lines = [
        f"{item.name}: {_told(item)}."
        for item in dataclasses.fields(kind)  # type: ignore[arg-type]
    ]
    kind.__doc__ = "\n".join([f"{kind.__doc__}", "", "Args:", *(f"    {line}" for line in lines)])
    return kind


def check(name: str, values: Any) -> None:
    """Refuse what is out of bounds.

    Args:
        name: of the section, as users write it.
        values: the section.

    Raises:
        ValueError: naming the setting, what came and what is wanted.
        TypeError: likewise, of a value that is no number.
    """
    kind: Any = type(values)
    for item, choices in _fields(kind):
        named, value = f"{name}.{item.name}", getattr(values, item.name)
        if choices is not None:
            one_of(named, value, choices)
        if item.metadata["within"] is not None:
            interval(named, value, item.metadata["within"])
        if item.metadata["least"] is not None:
            at_least(named, value, item.metadata["least"])


@functools.cache
def _fields(kind: Any) -> list[tuple[dataclasses.Field[Any], tuple[str, ...] | None]]:
    hints = typing.get_type_hints(kind)
    found = []
    for item in dataclasses.fields(kind):
        hint, known = hints[item.name], item.metadata["known"]
        if typing.get_origin(hint) is Literal:
            known = typing.get_args(hint)
        found.append((item, None if known is None else tuple(known)))
    return found


def _told(item: dataclasses.Field[Any]) -> str:
    text = str(item.metadata["text"])
    if item.metadata["within"] is not None:
        return f"{text}; in {item.metadata['within']}"
    if item.metadata["least"] is not None:
        return f"{text}; at least {item.metadata['least']}"
    return text
