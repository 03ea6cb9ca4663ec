"""A graph as it is pickled: the list of its nodes.

torch.fx would store the code, and trace it anew when it is loaded. That fails where the graph compares
sizes, and in older versions where it reshapes to some.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import fx

from dynams.slimmable.record import Ref, mapped


class Address(NamedTuple):
    """Where a function is found.

    Attributes:
        module: name of the module.
        name: in the module.
    """

    module: str
    name: str


def address(function: Any) -> Any:
    """Return where a function is found by name, as pickle cannot find some of torch's; else itself."""
    module, name = getattr(function, "__module__", None), getattr(function, "__name__", "")
    found = getattr(sys.modules.get(str(module)), name, None)
    return Address(str(module), name) if found is function else function


def addressed(function: Any) -> Any:
    """Return the function that an address leads to."""
    if isinstance(function, Address):
        __import__(function.module)
        return getattr(sys.modules[function.module], function.name)
    return function


def stored(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """Return what `loaded` makes the graph of again, all of which can be pickled."""
    numbers = {node: Ref(at) for at, node in enumerate(graph.nodes)}

    def numbered(value: Any) -> Any:
        return numbers[value] if isinstance(value, fx.Node) else value

    return [
        (
            node.op,
            address(node.target),
            mapped(tuple(node.args), numbered),
            mapped(dict(node.kwargs), numbered),
            node.name,
        )
        for node in graph.nodes
    ]


def loaded(nodes: Sequence[tuple[Any, ...]]) -> fx.Graph:
    """Make a graph of what `stored` returned."""
    graph = fx.Graph()
    made: list[fx.Node] = []
    for op, target, args, kwargs, name in nodes:
        args, kwargs = mapped(
            (args, kwargs), lambda each: made[each.number] if isinstance(each, Ref) else each
        )
        made.append(graph.create_node(op, addressed(target), args, kwargs, name))
    return graph
