"""Settings that had another name or place in an earlier version: what is told, and what is read as it was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOVED = {"selection.kind": "selection.options.margin.kind"}


def refuse_moved(name: str, value: object, where: str = "") -> None:
    """Refuse a setting of an earlier version that stands elsewhere now, telling where.

    Args:
        name: of any setting.
        value: what came.
        where: what the message begins with.

    Raises:
        ValueError: ``name`` is such a one.
    """
    if name in _MOVED:
        raise ValueError(f"{where}{name}: got {value!r}, want {_MOVED[name]}")


def brought_up_to_date(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a section of an earlier version's run up to date: what proxy.recipe none was once called."""
    if name == "proxy" and values.get("recipe") == "full":
        return {**values, "recipe": "none"}
    return dict(values)
