"""What time is spent on: the one table of purposes, which clock, forecasts and reports go by."""

from __future__ import annotations

from typing import NamedTuple


class Purpose(NamedTuple):
    """One purpose of cost.

    Attributes:
        colour: its name among the colours of reports.
        rate: the field of `Rates` that says what a unit of its work takes.
        unit: the field of `Work` that counts its work.
        overhead: selecting has it, training on everything has not.
    """

    colour: str
    rate: str
    unit: str
    overhead: bool = False


# In the order in which they are shown. "holdout model": a network trained on held-out samples first,
# for the irreducible losses.
TABLE: dict[str, Purpose] = {
    "training": Purpose("full", "training", "trained"),
    "proxy loss": Purpose("proxy", "proxy_loss", "proxy_trained", overhead=True),
    "scoring": Purpose("scoring", "scoring", "scored", overhead=True),
    "selection": Purpose("selection", "selection", "selections", overhead=True),
    "data": Purpose("data", "data", "trained"),
    "evaluation": Purpose("evaluation", "evaluation", "evaluations"),
    "holdout model": Purpose("under", "holdout", "holdouts", overhead=True),
}
PURPOSES: tuple[str, ...] = tuple(TABLE)
# The purposes that training on everything does not have.
OVERHEADS: tuple[str, ...] = tuple(name for name, each in TABLE.items() if each.overhead)
# What no purpose explains: loading, building, writing.
OTHER = "other"
