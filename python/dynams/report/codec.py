"""Records to and from plain JSON values, every field checked on the way in.

Numbers that are not finite become null, which strict JSON requires; null in the place of a number
reads back as NaN, or as None where the field may be None.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dynams.checks import of_type
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
    """Build a record, checking each field; fields that this version does not know are ignored.

    Raises:
        TypeError, ValueError: a field is of the wrong type, or is missing and has no default.
    """
    values = {}
    for field in dataclasses.fields(cls):
        if field.name not in data:
            if field.default is not dataclasses.MISSING:
                continue  # younger than the log
            raise ValueError(f"{field.name}: is missing")
        values[field.name] = _READERS[str(field.type)](field.name, data[field.name])
    return cls(**values)


_Reader = Callable[[str, Any], Any]


def _exactly(kind: type) -> _Reader:
    def read(name: str, value: Any) -> Any:
        of_type(name, value, kind)
        return value

    return read


def _float(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    of_type(name, value, float)
    return float(value)


def _optional_float(name: str, value: Any) -> float | None:
    return None if value is None else _float(name, value)


def _optional_str(name: str, value: Any) -> str | None:
    return None if value is None else _READERS["str"](name, value)


def _list_of(read: _Reader) -> _Reader:
    def read_list(name: str, value: Any) -> list[Any]:
        of_type(name, value, list)
        return [read(name, item) for item in value]

    return read_list


def _seconds(name: str, value: Any) -> dict[str, float]:
    of_type(name, value, dict)
    return {key: _float(name, item) for key, item in value.items()}


# Keyed by the annotations in records.py, which `from __future__ import annotations` keeps as text.
_READERS: dict[str, _Reader] = {
    "int": _exactly(int),
    "float": _float,
    "float | None": _optional_float,
    "bool": _exactly(bool),
    "str": _exactly(str),
    "str | None": _optional_str,
    "list[int]": _list_of(_exactly(int)),
    "list[float]": _list_of(_float),
    "dict[str, float]": _seconds,
}
