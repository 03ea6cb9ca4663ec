"""Sets of train options by dotted name: read from files and command lines, checked, made a `TrainConfig`.

Nothing here knows what an option means; what `TrainConfig` accepts, a file may hold.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

from dynams.checks import of_type
from dynams.suggestions import unknown
from dynams.training.config import TrainConfig
from dynams.training.moved_settings import refuse_moved
from dynams.training.settings import Declared, declared, read

Options = dict[str, Any]


def train_options() -> dict[str, Declared]:
    """Every train option by its dotted name."""
    return {
        each.name: each
        for section in dataclasses.fields(TrainConfig)
        for each in declared(section.default_factory, section.name)  # type: ignore[arg-type]
    }


def text_names(options: Mapping[str, Declared]) -> list[str]:
    """List the options that hold text: their plain words stay as a file writes them."""
    return [name for name, each in options.items() if each.kind is str]


def read_options(
    values: Any,
    where: str,
    beside: Collection[str] = (),
    *,
    known: Mapping[str, Declared] | None = None,
) -> Options:
    """Read options given as sections with keys, as dotted names, or mixed.

    Args:
        values: the options; None is none.
        where: what the message of an error begins with.
        beside: other keys that may stand beside them, and may have been meant.
        known: which options there are; None: those of `TrainConfig`.

    Raises:
        ValueError: an option is unknown or is given twice.
        TypeError, ValueError: its value is refused.
    """
    known = train_options() if known is None else known
    parts = [name.partition(".") for name in known]
    sections = list(dict.fromkeys(section for section, dot, _ in parts if dot))
    of_type(where, {} if values is None else values, dict)
    flat: Options = {}
    for name, value in _flat(values or {}, where, sections, known):
        refuse_moved(name, value, f"{where}: ")
        if name not in known:
            names = [*known, *sections, *beside]
            raise ValueError(f"{where}: {unknown('key', name, names)}")
        if name in flat:
            raise ValueError(f"{where}: {name} is given twice")
        flat[name] = read(known[name], value, f"{where}: {name}")
    return flat


def _flat(
    values: Mapping[Any, Any], where: str, sections: Collection[str], known: Collection[str]
) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if key in sections:
            inner = {} if value is None else value  # every key of it may be commented out
            of_type(f"{where}: {key}", inner, dict)
            pairs += [(f"{key}.{name}", item) for name, item in inner.items()]
        elif sections and key not in known and isinstance(value, Mapping) and value:
            pairs += [(f"{key}.{name}", item) for name, item in value.items()]
        else:
            pairs.append((str(key), value))
    return pairs


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


def with_absolute_paths(config: TrainConfig, *, apart: Collection[str] = ()) -> TrainConfig:
    """Make paths mean the same in every working directory.

    Args:
        config: the configuration.
        apart: paths that stay as they are.
    """
    paths = [name for name, each in train_options().items() if each.path and name not in apart]
    values = config.to_dict()
    for name in paths:
        section, _, key = name.partition(".")
        if values[section][key] is not None:
            values[section][key] = os.path.abspath(values[section][key])
    return TrainConfig.from_dict(values)
