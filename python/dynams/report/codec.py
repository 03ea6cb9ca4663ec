"""Records to and from plain JSON values, every field checked on the way in.

Numbers that are not finite become null, which strict JSON requires; null in the place of a number
reads back as NaN, or as None where the field may be None.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dynams.report.records import EpochRecord, RefreshRecord, Summary

_Record = TypeVar("_Record", EpochRecord, RefreshRecord, Summary)


def to_plain(value: Any) -> Any:
    """``value`` as strict JSON can hold it."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    return str(value)


def from_plain(cls: type[_Record], data: Mapping[str, Any]) -> _Record:
    """Build a record, checking each field; fields that this version does not know are ignored."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.name not in data:
            raise ValueError(f"{field.name} is missing")
        try:
            values[field.name] = _READERS[str(field.type)](data[field.name])
        except ValueError as error:
            raise ValueError(f"{field.name}: {error}") from error
    return cls(**values)


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"wanted a whole number, got {value!r}")
    return value


def _float(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"wanted a number, got {value!r}")
    return float(value)


def _optional_float(value: Any) -> float | None:
    return None if value is None else _float(value)


def _list_of(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError(f"wanted a list, got {value!r}")
        return [read(item) for item in value]

    return read_list


def _seconds(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"wanted an object, got {value!r}")
    return {key: _float(item) for key, item in value.items()}


def _exactly(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"wanted {kind.__name__}, got {value!r}")
        return value

    return read


# Keyed by the annotations in records.py, which `from __future__ import annotations` keeps as text.
_READERS: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "float | None": _optional_float,
    "bool": _exactly(bool),
    "str": _exactly(str),
    "list[int]": _list_of(_int),
    "list[float]": _list_of(_float),
    "dict[str, float]": _seconds,
}
