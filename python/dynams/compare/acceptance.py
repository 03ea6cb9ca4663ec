"""Which finished cells are a plan's: of its options, and of the images that the others were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynams.compare.cells import CellKey, Length, cell_config
from dynams.compare.plan import Plan
from dynams.compare.results import Cell, differences


class DifferingCellsError(ValueError):
    """Finished cells do not belong to the plan."""


def differing(plan: Plan, cells: Mapping[CellKey, Cell], key: CellKey) -> list[str]:
    """Say in which options a cell differs from the plan's, or in its length from other seeds' cells; empty when in none.

    Args:
        plan: the plan.
        cells: finished cells, this one among them.
        key: the cell.
    """
    cell, recipe = cells[key], plan.recipes[key.recipe]
    epochs = cell.options.get("optim.epochs")
    length = Length()
    if recipe.match is not None and recipe.match.by == "seconds" and key.seed not in plan.pilots:
        # Its length was measured: what there is says how long it is, if all seeds agree.
        lengths = {
            int(other.options.get("optim.epochs", 0))
            for at, other in cells.items()
            if (at.recipe, at.budget) == (key.recipe, key.budget) and at.seed not in plan.pilots
        }
        if len(lengths) > 1:
            return [f"its seeds have {', '.join(map(str, sorted(lengths)))} epochs"]
        length = Length(epochs)
    config = cell_config(plan, key, lambda *_: length)
    assert config is not None
    return differences(cell, config)


def check_same_images(cells: Mapping[CellKey, Cell]) -> None:
    """Check that cells that name the same data have seen the same images.

    Raises:
        DifferingCellsError: two of them have not.
    """
    seen: dict[str, Cell] = {}
    for cell in cells.values():
        first = seen.setdefault(data_named(cell.options), cell)
        if first.data and cell.data and first.data != cell.data:
            raise DifferingCellsError(
                f"{first.key} and {cell.key} were trained on different images"
            )


def data_named(options: Mapping[str, Any]) -> str:
    """Return what options say of the data's content; where they are, they do not say."""
    keys = ("name", "classes", "limit", "image_size", "image_column", "label_column")
    return str([options.get(f"data.{key}") for key in keys])
