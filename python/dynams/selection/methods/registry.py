"""The strategies by name. Knowing the names imports nothing; a class is imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dynams.checks import of_type, one_of, plain

if TYPE_CHECKING:
    from dynams.selection.methods.interface import BatchStrategy, Strategy

# Name to class. Those of batches decide inside a training step.
_CLASSES: dict[str, str] = {
    "full": "Full",
    "random": "Random",
    "static-random": "StaticRandom",
    "margin": "Margin",
    "static-margin": "StaticMargin",
    "loss": "Loss",
    "importance": "Importance",
    "el2n": "EL2N",
    "grand": "GraNd",
    "forgetting": "Forgetting",
    "confidence": "Confidence",
    "entropy": "Entropy",
    "memorisation": "Memorisation",
    "craig": "Craig",
    "gradmatch": "GradMatch",
    "gradmatch-batches": "BatchGradMatch",
    "glister": "Glister",
    "rho-loss": "RhoLoss",
    "infobatch": "InfoBatch",
    "repb": "RePB",
    "orderdp": "OrderDP",
    "alignprune": "AlignPrune",
    "seta": "SeTa",
    "batch-loss": "BatchLoss",
    "batch-margin": "BatchMargin",
    "batch-importance": "BatchImportance",
    "batch-rho-loss": "BatchRhoLoss",
    "selective-backprop": "SelectiveBackprop",
    "filter": "Filter",
}


class _Registry(Mapping[str, "Callable[..., Strategy | BatchStrategy]"]):
    """Name to class, read-only."""

    def __getitem__(self, name: str) -> Callable[..., Strategy | BatchStrategy]:
        attribute, package = _CLASSES[name], importlib.import_module("dynams.selection.methods")
        maker: Callable[..., Strategy | BatchStrategy] = getattr(package, attribute)
        return maker

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)

    def __repr__(self) -> str:
        return f"STRATEGIES({', '.join(_CLASSES)})"


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
    options = {option: plain(value) for option, value in options.items()}
    for option, value in options.items():
        one_of(name, option, known)
        # Every option has a default of its type.
        of_type(f"{name}.{option}", value, type(known[option].default))
    try:
        return STRATEGIES[name](**options)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
