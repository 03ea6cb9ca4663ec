"""The strategies by name. Knowing the names imports nothing; a class is imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dynams.checks import one_of

if TYPE_CHECKING:
    from dynams.selection.methods.interface import BatchStrategy, Strategy

# Name to module and class. Those of batches decide inside a training step.
_HOMES: dict[str, tuple[str, str]] = {
    "full": ("uniform", "Full"),
    "random": ("uniform", "Random"),
    "static-random": ("uniform", "StaticRandom"),
    "margin": ("margin", "Margin"),
    "static-margin": ("margin", "StaticMargin"),
    "loss": ("difficulty", "Loss"),
    "importance": ("importance", "Importance"),
    "el2n": ("difficulty", "EL2N"),
    "grand": ("difficulty", "GraNd"),
    "forgetting": ("forgetting", "Forgetting"),
    "confidence": ("uncertainty", "Confidence"),
    "entropy": ("uncertainty", "Entropy"),
    "memorisation": ("memorisation", "Memorisation"),
    "craig": ("craig", "Craig"),
    "gradmatch": ("gradmatch", "GradMatch"),
    "gradmatch-batches": ("gradmatch", "BatchGradMatch"),
    "glister": ("glister", "Glister"),
    "rho-loss": ("reducible", "RhoLoss"),
    "infobatch": ("infobatch", "InfoBatch"),
    "batch-importance": ("importance", "BatchImportance"),
    "batch-rho-loss": ("reducible", "BatchRhoLoss"),
    "selective-backprop": ("selective_backprop", "SelectiveBackprop"),
}


class _Registry(Mapping[str, "Callable[..., Strategy | BatchStrategy]"]):
    """Name to class, read-only."""

    def __getitem__(self, name: str) -> Callable[..., Strategy | BatchStrategy]:
        module, attribute = _HOMES[name]
        found = importlib.import_module(f"dynams.selection.methods.{module}")
        maker: Callable[..., Strategy | BatchStrategy] = getattr(found, attribute)
        return maker

    def __contains__(self, name: object) -> bool:
        return name in _HOMES

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)

    def __repr__(self) -> str:
        return f"STRATEGIES({', '.join(_HOMES)})"


STRATEGIES: Mapping[str, Callable[..., Strategy | BatchStrategy]] = _Registry()


def strategy_options(name: str) -> tuple[str, ...]:
    """Return the names of a strategy's options.

    Raises:
        ValueError: there is no such strategy; the message lists the known ones and the nearest.
    """
    one_of("strategy", name, STRATEGIES)
    return tuple(inspect.signature(STRATEGIES[name]).parameters)


def build_strategy(name: str, **options: Any) -> Strategy | BatchStrategy:
    """Make a strategy from its name and options, which are the attributes of its class.

    Raises:
        ValueError: the name, or an option, is unknown (the message lists the known ones), or a value is
            out of range.
        TypeError: a value is of the wrong type.
    """
    one_of("strategy", name, STRATEGIES)
    known = inspect.signature(STRATEGIES[name]).parameters
    for option, value in options.items():
        one_of(f"option of {name}", option, known)
        # Every option has a default of its type; a whole number is a fraction too.
        wanted = type(known[option].default)
        if type(value) is not wanted and (wanted, type(value)) != (float, int):
            raise TypeError(f"{name}.{option}: got {value!r}, want {wanted.__name__}")
    try:
        return STRATEGIES[name](**options)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
