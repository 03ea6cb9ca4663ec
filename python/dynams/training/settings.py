"""How a setting is declared: its type, default, bounds and text stand in one place, its field.

A choice is the field's `Literal`. What is checked, what `--help` shows and what the class documents
follow from the field. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from dynams.checks import TYPE_WORDS, number, of_type, one_of, plain, whole
from dynams.paths import told_path
from dynams.suggestions import unknown
from dynams.training.moved_settings import brought_up_to_date, refuse_moved

_Section = TypeVar("_Section")


def setting(
    default: Any,
    text: str,
    *,
    within: str | None = None,
    least: int | None = None,
    known: Iterable[str] | None = None,
    path: bool = False,
) -> Any:
    """Declare a setting of a section: the default of a dataclass' field.

    Args:
        default: its default; of a dictionary or a list, what it holds.
        text: what it means, without the full stop.
        within: the interval of a number, such as "(0, 1]".
        least: the least of a whole number, or of those of a list, which holds text where there is none.
        known: the values that it takes, where no `Literal` can say it.
        path: whether it is a path.
    """
    metadata = {"text": text, "within": within, "least": least, "known": known, "path": path}
    if isinstance(default, (dict, list)):
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


def check(name: str, values: object) -> None:
    """Refuse what is of another type or out of bounds, and keep each value as its type has it.

    NumPy's numbers become Python's, and paths of any kind become text in which `~` is the home directory.

    Args:
        name: of the section, as users write it; empty where there is none.
        values: the section, a frozen dataclass.

    Raises:
        ValueError: naming the setting, what came and what is wanted.
        TypeError: likewise, of a value of another type.
    """
    kind: Any = type(values)
    for each in declared(kind, name):
        value = _fitting(each, _plain(getattr(values, each.key)))
        object.__setattr__(values, each.key, value)


def section_of(kind: Any, name: str, values: Mapping[str, Any] | None) -> Any:
    """Make a section of its settings; of None, the one of defaults.

    Raises:
        ValueError, TypeError: a setting is unknown or refused; names it.
    """
    values = {} if values is None else values
    of_type(name, values, dict)
    known = [each.name for each in declared(kind, name)]
    for key, value in values.items():
        refuse_moved(f"{name}.{key}", value)
        if f"{name}.{key}" not in known:
            raise ValueError(unknown("setting", f"{name}.{key}", known))
    return kind(**brought_up_to_date(name, values))


@dataclass(frozen=True)
class Declared:
    """A setting as it was declared.

    Attributes:
        name: as users write it, such as optim.lr.
        key: its field.
        kind: its type, None apart.
        optional: whether it may be None.
        choices: the values that it takes, if they are named.
        default: its default.
        text: what it means, with its bounds.
        path: whether it is a path.
        within: the interval of a number.
        least: the least of a whole number, or of those of a list.
    """

    name: str
    key: str
    kind: type
    optional: bool
    choices: tuple[str, ...] | None
    default: Any
    text: str
    path: bool
    within: str | None
    least: int | None

    @property
    def wants(self) -> str:
        """What it takes, in words."""
        words = f"one of {', '.join(self.choices)}" if self.choices else TYPE_WORDS[self.kind]
        return f"{words} or null" if self.optional else words


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return plain(value)


@functools.cache
def declared(kind: Any, name: str = "") -> tuple[Declared, ...]:
    """List the settings of a section.

    Args:
        kind: the section's class.
        name: of the section, as users write it; empty where there is none.
    """
    hints = typing.get_type_hints(kind)
    found = []
    for item in dataclasses.fields(kind):
        hint, known, default = hints[item.name], item.metadata["known"], item.default
        if optional := type(None) in typing.get_args(hint):
            (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
        if typing.get_origin(hint) is Literal:
            hint, known = str, typing.get_args(hint)
        if default is dataclasses.MISSING:
            assert item.default_factory is not dataclasses.MISSING
            default = item.default_factory()
        found.append(
            Declared(
                name=f"{name}.{item.name}" if name else item.name,
                key=item.name,
                kind=typing.get_origin(hint) or hint,
                optional=optional,
                choices=None if known is None else tuple(known),
                default=default,
                text=_told(item),
                path=item.metadata["path"],
                within=item.metadata["within"],
                least=item.metadata["least"],
            )
        )
    return tuple(found)


def read(each: Declared, value: Any, where: str) -> Any:
    """Return a value from a file as the setting has it: a whole number, or "1e-3", where a number is wanted.

    Raises:
        TypeError, ValueError: it is of another type; begins with ``where``.
    """
    if value is None and each.optional:
        return None
    if each.kind is dict and (value is None or isinstance(value, Mapping)):
        # Every key, or every key of a part, may be commented out.
        return {key: {} if inner is None else inner for key, inner in (value or {}).items()}
    if value is None:
        raise TypeError(f"{where}: got null, want {each.wants}")
    if each.choices is not None:
        one_of(where, value, each.choices)
        return value
    if each.kind is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if each.kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # written as 1e4
    try:
        of_type(where, value, each.kind)
    except TypeError:
        raise TypeError(f"{where}: got {value!r}, want {each.wants}") from None
    return float(value) if each.kind is float else value


def _fitting(each: Declared, value: Any) -> Any:
    if value is None and each.optional:
        return None
    if each.choices is not None:
        one_of(each.name, value, each.choices)
    elif each.kind is int:
        return whole(each.name, value, each.least)
    elif each.within is not None:
        return number(each.name, value, each.within)
    elif each.kind is list and isinstance(value, (list, tuple)):
        if each.least is not None:
            return [whole(f"{each.name}[{at}]", item, each.least) for at, item in enumerate(value)]
        for at, item in enumerate(value):
            of_type(f"{each.name}[{at}]", item, str)
        return list(value)
    elif each.path and isinstance(value, (os.PathLike, str, bytes)):
        if not (text := os.fsdecode(value)):
            raise ValueError(f"{each.name}: got '', want a path")
        return str(told_path(text)) if text.startswith("~") else text
    else:
        of_type(each.name, value, each.kind)
    return value


def _told(item: dataclasses.Field[Any]) -> str:
    text = str(item.metadata["text"])
    if item.metadata["within"] is not None:
        return f"{text}; in {item.metadata['within']}"
    if item.metadata["least"] is not None:
        return f"{text}; at least {item.metadata['least']}"
    return text
