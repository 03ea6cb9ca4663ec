"""The trainer's modules: imports go one way, down from the command line, and a class' name is one module's."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import dynams

ROOT = Path(dynams.__file__).parent
# These import no other part.
BASIC = {"checks", "files", "packages", "paths", "suggestions", "yaml_file", "_lazy"}
# What each part may import of the others, beside those.
BELOW = {
    "cli": {"compare", "bench", "training", "report"},
    "compare": {"training", "report", "selection", "data"},
    "bench": {"training"},
    "integrations": {"selection"},
    "training": {"report", "cost", "selection", "data", "slimmable", "models"},
    "report": {"cost", "selection"},
    "cost": {"selection"},
    "selection": set(),
    "data": set(),
    "slimmable": set(),
    "models": {"slimmable"},
    **{name: set() for name in BASIC},
}


def trees() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


TREES = trees()


def imported(module: str) -> set[str]:
    """Modules of ours that a module imports anywhere, for type checkers alone too."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in TREES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & TREES.keys()) - {module}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_parts_import_those_below_only() -> None:
    assert {part(module) for module in TREES} == {"", *BELOW}
    for module in TREES:
        others = {part(each) for each in imported(module)} - {part(module), ""}
        if part(module):
            assert others <= BELOW[part(module)] | BASIC, module
        else:
            assert not others, module


def test_no_modules_import_each_other_in_a_circle() -> None:
    waiting = {module: imported(module) for module in TREES}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting, f"of or above a circle: {sorted(waiting)}"


def test_a_class_name_is_one_modules() -> None:
    names = Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert len(names) > 100  # the tree was read
    assert [name for name, count in names.items() if count > 1] == []
