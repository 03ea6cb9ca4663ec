"""Sets of train options by dotted name: read from a plan, checked, made a `TrainConfig`.

Nothing here knows what an option means; what `TrainConfig` accepts, a plan may hold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from dynams.cli.suggest import suggestion
from dynams.report.codec import to_plain
from dynams.training.config import MAY_CHANGE_ON_RESUME, TrainConfig

Options = dict[str, Any]


def option_types() -> dict[str, Any]:
    """Every train option by its dotted name, with its type."""
    found = {}
    for section in dataclasses.fields(TrainConfig):
        kind: Any = section.default_factory
        for name, hint in typing.get_type_hints(kind).items():
            found[f"{section.name}.{name}"] = hint
    return found


def flatten(values: Mapping[Any, Any], where: str) -> Options:
    """Read options given as sections with keys, as dotted names, or mixed.

    Args:
        values: the options.
        where: what the message of an error begins with.

    Raises:
        ValueError: an option is unknown, is given twice, or its value has the wrong type.
    """
    known = option_types()
    sections = {name.partition(".")[0] for name in known}
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if key in sections:
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {key}: wanted keys with values, got {value!r}")
            pairs += [(f"{key}.{name}", item) for name, item in value.items()]
        else:
            pairs.append((str(key), value))
    flat: Options = {}
    for name, value in pairs:
        if name not in known:
            near = suggestion(name, [*known, *sections])
            raise ValueError(f"{where}: unknown option {name}{near}")
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
        if value not in choices:
            wanted = ", ".join(map(str, choices))
            raise ValueError(f"{where}: wanted one of {wanted}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        (kind, *others) = [choice for choice in choices if choice is not type(None)]
        return value if others else _converted(kind, value, where)
    if origin is dict and not isinstance(value, Mapping):
        raise ValueError(f"{where}: wanted keys with values, got {value!r}")
    if hint is float:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        raise ValueError(f"{where}: wanted a number, got {value!r}")
    names = {bool: "true or false", int: "a whole number", str: "text"}
    if hint in names and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ValueError(f"{where}: wanted {names[hint]}, got {value!r}")
    return value
