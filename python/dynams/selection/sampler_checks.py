"""Checks of what a sampler is given by others: a strategy, what that selected, a state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynams.checks import at_least, whole
from dynams.selection.methods.interface import BatchStrategy, Selection, Strategy


def check_strategy_object(strategy: object) -> Strategy:
    """Return a strategy of epochs.

    Raises:
        ValueError: it chooses inside a batch.
        TypeError: it is none at all.
    """
    if isinstance(strategy, type) or not isinstance(strategy, (Strategy, BatchStrategy)):
        raise TypeError(f"strategy: got {strategy!r}, want a name or a strategy object")
    if not isinstance(strategy, Strategy):
        raise ValueError(
            f"strategy: got {strategy_name(strategy)}, which chooses inside a batch; want one that chooses for epochs"
        )
    return strategy


def strategy_name(strategy: object) -> str:
    """Name a strategy: by its settings where it shows them, else by its class; never by an address."""
    kind = type(strategy)
    shown = kind.__qualname__ if kind.__repr__ is object.__repr__ else repr(strategy)
    return re.sub(" at 0x[0-9a-fA-F]+", "", shown)  # of what it wraps: another in each process


def check_bool(name: str, value: object) -> bool:
    """Return what is true or false.

    Raises:
        TypeError: it is something else, which Python would take for either.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, want True or False")
    return value


def check_score(score: object) -> Any:
    """Return a function that gives scores, or None.

    Raises:
        TypeError: it is neither, but what such a function gives, perhaps.
    """
    if score is not None and not callable(score):
        raise TypeError(
            f"score: got {type(score).__name__}, want a function, such as "
            "lambda: score_batches(model, loader)"
        )
    return score


def check_selection(selection: Selection, strategy: Strategy, num_samples: int) -> None:
    """Refuse what no strategy may select; waits for the device.

    Raises:
        ValueError: nothing, samples that are not there, twice the same, in another order, or weights that
            do not fit.
        TypeError: indices or weights of another dtype.
    """
    name = f"selection of {strategy_name(strategy)}"
    _check_indices(name, selection.indices, num_samples)
    _check_weights(name, selection.weights, selection.indices)


def check_state(state: Mapping[str, Any], identity: Mapping[str, object]) -> None:
    """Refuse what is no state of a sampler with this identity; its scores are not looked at.

    Raises:
        ValueError: an entry is missing, of another sampler, or does not fit the others.
        TypeError: it is no mapping, or an entry is of another type.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state: got {state!r}, want what state_dict() gives")
    entries = {"epoch", "selected_at", "consumed", "indices", "weights", "scores"}
    # States from before there was an epoch_length lack it.
    if missing := {*identity, *entries} - {"epoch_length", *state}:
        raise ValueError(f"state: got no {', '.join(sorted(missing))}, want all entries")
    for name, mine in identity.items():
        if (theirs := state.get(name)) != mine:
            raise ValueError(f"state: got {name}={theirs!r}, want {mine!r}, this sampler's")
    for name in ("epoch", "selected_at"):
        at_least(f"state: {name}", state[name], 0)
    num_samples = identity["num_samples"]
    assert isinstance(num_samples, int)
    _check_indices("state", state["indices"], num_samples)
    _check_weights("state", state["weights"], state["indices"])
    size = identity["epoch_length"] or state["indices"].shape[0]
    assert isinstance(size, int)
    if not 0 <= whole("state: consumed", state["consumed"]) <= size:
        raise ValueError(f"state: got consumed={state['consumed']}, want it in [0, {size}]")


def check_int64(name: str, value: object) -> Tensor:
    """Return an int64 tensor.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        came = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: got {came}, want an int64 tensor")
    return value


def _check_indices(name: str, indices: object, num_samples: int) -> None:
    indices = check_int64(f"{name}: indices", indices)
    if indices.dim() != 1 or indices.shape[0] == 0:
        raise ValueError(f"{name}: got indices of shape {tuple(indices.shape)}, want (k,), k >= 1")
    low, high = torch.stack(indices.aminmax()).tolist()
    if low < 0 or high >= num_samples:
        raise ValueError(f"{name}: got indices {low} to {high}, want them in [0, {num_samples})")
    if not bool((indices[1:] > indices[:-1]).all()):
        raise ValueError(f"{name}: got indices in another order or twice, want them ascending")


def _check_weights(name: str, weights: object, indices: Tensor) -> None:
    if weights is None:
        return
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        came = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"{name}: got weights of {came}, want a floating point tensor")
    if weights.shape != indices.shape:
        raise ValueError(
            f"{name}: got weights of shape {tuple(weights.shape)}, want {tuple(indices.shape)}"
        )
