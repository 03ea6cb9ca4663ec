"""The comparison as one HTML file and as Markdown, from the cells there are.

The page is self-contained, in the style of a run's report; the same cells give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dynams.compare import figures, tables
from dynams.compare.cells import CellKey, cell_keys
from dynams.compare.groups import Group, group_cells, machines
from dynams.compare.plan import Plan
from dynams.compare.results import Cell
from dynams.compare.tables import Table
from dynams.files import replace_file
from dynams.report import markup
from dynams.report.document import document
from dynams.report.markup import text

HTML_NAME = "compare.html"
MARKDOWN_NAME = "compare.md"

# Sections of the page that its links lead to, by anchor.
_LINKS = {
    "verdict": "Verdict",
    "results": "Results",
    "epochs": "Equal epochs",
    "time": "Equal time",
    "curves": "Curves",
    "cost": "Cost",
    "overlap": "Selection",
    "settings": "Settings",
}


def write_comparison(
    folder: str | Path, plan: Plan, cells: Mapping[CellKey, Cell]
) -> tuple[Path, Path]:
    """Write compare.html and compare.md, each replaced atomically.

    Args:
        folder: where to.
        plan: what is compared.
        cells: the plan's finished cells.

    Returns:
        The paths of both.

    Raises:
        ImportError: matplotlib is missing.
    """
    html = Path(folder) / HTML_NAME
    markdown = Path(folder) / MARKDOWN_NAME
    Path(folder).mkdir(parents=True, exist_ok=True)
    replace_file(markdown, markup.legal(as_markdown(plan, cells)).encode("utf-8"))
    replace_file(html, as_html(plan, cells).encode("utf-8"))
    return html, markdown


def as_html(plan: Plan, cells: Mapping[CellKey, Cell]) -> str:
    """Return the page."""
    groups = group_cells(plan, cells)
    body = {table.name: _section(table) for table in all_tables(plan, groups)}
    sections = [("verdict", _verdict(plan, groups)), *body.items()]
    # The curves stand between the verdict and its details.
    place = next((i for i, (name, _) in enumerate(sections) if name.startswith("pairs")), None)
    sections.insert(len(sections) if place is None else place, ("curves", _curves(groups)))
    sections.append(("settings", _settings(plan)))
    done, planned = _progress(plan, cells)
    parts = [str(plan.base.get(key)) for key in ("data.name", "model.name") if key in plan.base]
    parts.append(f"{len(plan.seeds)} {'seed' if len(plan.seeds) == 1 else 'seeds'}")
    return document(
        "DynaMS comparison",
        plan.name,
        state=(f"{done} of {planned} cells", done == planned),
        what=parts,
        sections_html=dict(sections),
        links=_LINKS,
        foot="Written by dynams compare from the finished cells. Accuracies are on the test set; "
        "differences are in percentage points.",
    )


def as_markdown(plan: Plan, cells: Mapping[CellKey, Cell]) -> str:
    """Return the tables as Markdown."""
    done, planned = _progress(plan, cells)
    lines = [f"# {plan.name}", "", f"{done} of {planned} cells."]
    groups = group_cells(plan, cells)
    sentences = _sentences(plan, groups)
    if sentences:
        lines += ["", "## At equal wall-clock time, in words", ""]
        lines += [f"- {_cell(sentence)}" for sentence in sentences]
    for table in all_tables(plan, groups):
        if not table.rows:
            continue
        lines += ["", f"## {table.title}", ""]
        if table.lede:
            lines += [_cell(table.lede), ""]
        lines += markdown_rows(table)
        for remark in table.notes:
            lines += ["", remark]
    lines += ["", "## Recipes", ""]
    for recipe in plan.recipes.values():
        lines.append(
            f"- **{_cell(recipe.title)}** (`{recipe.name}`): {_cell(_options(plan, recipe.name))}"
        )
    return "\n".join(lines) + "\n"


def markdown_rows(table: Table) -> list[str]:
    """Return the lines of a Markdown table, without its title, lede and notes."""
    head = [_cell(name) for name in table.head]
    rule = ["---", *("--:" for _ in head[1:])]
    rows = [head, rule, *([_cell(value) for value in row] for row in table.rows)]
    return [f"| {' | '.join(row)} |" for row in rows]


def all_tables(plan: Plan, groups: Sequence[Group]) -> list[Table]:
    """Make the tables in the order of the report; some may have no rows."""
    where = machines(groups)
    first = next(iter(where), None)
    several = len(where) > 1
    numbers = {machine: number if several else None for number, machine in enumerate(where, 1)}
    moved = sum(cell.machine is None for group in groups for cell in group.cells.values())
    budgets: Sequence[float | None] = sorted(plan.budgets) or [None]
    return [
        tables.results(groups, first),
        tables.equal_epochs(plan, groups),
        *(tables.equal_time(plan, groups, machine, i) for machine, i in numbers.items()),
        *(tables.pairs(groups, budget) for budget in budgets),
        *(tables.cost(groups, machine, i) for machine, i in numbers.items()),
        tables.handled(groups),
        tables.overlaps(groups),
        tables.environments(where, moved),
    ]


def _sentences(plan: Plan, groups: Sequence[Group]) -> list[str]:
    """The verdict of the environment with most cells."""
    first = next(iter(machines(groups)), None)
    return [] if first is None else tables.verdict(plan, groups, first)


def _verdict(plan: Plan, groups: Sequence[Group]) -> str:
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in _sentences(plan, groups))
    return markup.section(
        "verdict", "At equal wall-clock time, in words", "", f"<ul>{items}</ul>" if items else ""
    )


def _section(table: Table) -> str:
    if not table.rows:
        return ""
    listing = markup.table(table.head, table.rows, caption=table.title)
    return markup.section(
        table.name, table.title, table.lede, listing, *map(markup.note, table.notes)
    )


def _curves(groups: Sequence[Group]) -> str:
    """Figures: a budget's curves over samples and seconds, and where every recipe ends."""
    found = machines(groups)
    first = next(iter(found), None)
    here = [group.on(first) for group in groups] if first else []
    where = tables.in_environment(1 if len(found) > 1 else None)
    styles = figures.looks(groups)
    parts = []
    ends = figures.final(here, styles[: len(here)])
    drawing = figures.draw(
        "final", ends, "seconds", "Accuracy at the end of training over its seconds, by recipe."
    )
    parts.append(
        markup.figure(
            drawing, f"Where every recipe ends{where}", [one.key for one in ends], _reading(ends)
        )
    )
    budgets: Sequence[float | None] = sorted({g.budget for g in groups if g.budget}) or [None]
    for budget in budgets:
        chosen = [i for i, g in enumerate(groups) if g.budget == budget or g.budget is None]
        looks = [styles[i] for i in chosen]
        of = "" if budget is None else f", budget {budget:g}"
        name = "" if budget is None else f"-{budget:g}".replace(".", "-")
        for along, series in (
            ("samples", figures.by_samples([groups[i] for i in chosen], looks)),
            ("seconds", figures.by_seconds([here[i] for i in chosen], looks) if here else []),
        ):
            spoken = f"Test accuracy over {along}{of}, mean over seeds, by recipe."
            parts.append(
                markup.figure(
                    figures.draw(f"{along}{name}", series, along, spoken),
                    f"Accuracy over {along}{of}{where if along == 'seconds' else ''}",
                    [one.key for one in series],
                )
            )
    return markup.section("curves", "Curves", "", markup.figures(*parts))


def _reading(ends: Sequence[figures.Series]) -> str:
    """How the figure of the recipes' ends is to be read."""
    line = bool(ends) and ends[0].is_reference and len(ends[0].xs) > 1
    words = (
        "Above the reference\N{RIGHT SINGLE QUOTATION MARK}s line is better at equal time."
        if line
        else "Higher is better, and so is further to the left."
    )
    several = any(len(one.xs) > 1 for one in ends if not one.is_reference)
    return words + (" Points of one recipe are its budgets." if several else "")


def _settings(plan: Plan) -> str:
    base = plan.to_dict()["base"]  # without the paths of one machine
    groups = {"base": markup.dotted(base)} if base else {}
    titles = ["base", *(recipe.title for recipe in plan.recipes.values())]
    for recipe in plan.recipes.values():
        own = dict(recipe.options)
        if recipe.match is not None:
            own[f"as many {recipe.match.by} as"] = recipe.match.recipe
        alone = titles.count(recipe.title) == 1
        title = recipe.title if alone else f"{recipe.title} ({recipe.name})"
        groups[title] = markup.dotted(own) or {"options": "the base's"}
    return markup.section("settings", "Recipes", "", markup.settings(groups))


def _options(plan: Plan, name: str) -> str:
    recipe = plan.recipes[name]
    parts = [f"{key} {value}" for key, value in markup.dotted(recipe.options).items()]
    if recipe.match is not None:
        parts.append(f"as many {recipe.match.by} as {recipe.match.recipe}")
    return ", ".join(parts) or "the base's options"


def _progress(plan: Plan, cells: Mapping[CellKey, Cell]) -> tuple[int, int]:
    keys = cell_keys(plan)
    return sum(key in cells for key in keys), len(keys)


def _cell(value: str) -> str:
    """A table cell or a list's line, which a bar or a line's end would break."""
    return value.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
