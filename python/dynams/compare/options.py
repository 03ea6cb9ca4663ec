"""Sets of train options by dotted name: read from a plan, checked, made a `TrainConfig`.

Nothing here knows what an option means; what `TrainConfig` accepts, a plan may hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from dynams.checks import TYPE_WORDS, of_type, one_of, unknown
from dynams.report.codec import to_plain
from dynams.training.changed_settings import MAY_CHANGE_ON_RESUME
from dynams.training.config import TrainConfig
from dynams.training.moved_settings import refuse_moved

Options = dict[str, Any]


def option_types() -> dict[str, Any]:
    """Every train option by its dotted name, with its type."""
    found = {}
    for section in dataclasses.fields(TrainConfig):
        kind: Any = section.default_factory
        for name, hint in typing.get_type_hints(kind).items():
            found[f"{section.name}.{name}"] = hint
    return found


def read_options(values: Mapping[Any, Any], where: str, beside: Iterable[str] = ()) -> Options:
    """Read options given as sections with keys, as dotted names, or mixed.

    Args:
        values: the options.
        where: what the message of an error begins with.
        beside: other keys that may stand beside them, and may have been meant.

    Raises:
        ValueError: an option is unknown or is given twice.
        TypeError, ValueError: its value is refused.
    """
    of_type(where, values, dict)
    known = option_types()
    sections = {name.partition(".")[0] for name in known}
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if key in sections:
            of_type(f"{where}: {key}", value, dict)
            pairs += [(f"{key}.{name}", item) for name, item in value.items()]
        else:
            pairs.append((str(key), value))
    flat: Options = {}
    for name, value in pairs:
        refuse_moved(name, value, f"{where}: ")
        if name not in known:
            names = [*known, *sections, *beside]
            raise ValueError(f"{where}: {unknown('option', name, names)}")
        if name in flat:
            raise ValueError(f"{where}: {name} is given twice")
        flat[name] = _converted(known[name], value, f"{where}: {name}")
    return flat


def build(options: Mapping[str, Any]) -> TrainConfig:
    """Make the configuration; options left out take their defaults.

    Raises:
        ValueError, TypeError: an option is unknown or its value is refused.
    """
    sections: dict[str, Options] = {}
    for name, value in options.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return TrainConfig.from_dict(sections)


def essential(config: TrainConfig) -> Options:
    """List the options that a result depends on: not where files are, nor what is shown."""
    return {
        f"{section}.{key}": to_plain(value)
        for section, values in config.to_dict().items()
        for key, value in values.items()
        if f"{section}.{key}" not in MAY_CHANGE_ON_RESUME
    }


def digest(options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the options, in whatever order they come."""
    text = json.dumps(to_plain(options), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _converted(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the type asks for it; YAML reads 5e-4 as text and 1 as a whole number."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        one_of(where, value, choices)
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        (kind, *others) = [choice for choice in choices if choice is not type(None)]
        return value if others else _converted(kind, value, where)
    if hint is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    kind = origin or hint
    if kind in TYPE_WORDS:
        of_type(where, value, kind)
    return float(value) if hint is float else value
