"""The comparison's figures: lines and points over samples or seconds, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dynams.compare.groups import Group
from dynams.compare.statistics import spread
from dynams.report.figures import FEW, blank
from dynams.report.markup import Key
from dynams.report.svg import COLOUR, inline_svg, page_style
from dynams.report.text import short_count

_HEIGHT = 300  # CSS pixels
_REFERENCE = "ink"
_COLOURS = (
    "selection", "full", "proxy", "scoring", "data", "evaluation", "good", "under", "warn", "other",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One recipe's line: a colour of the page, a dash where colours repeat, and its points."""

    label: str
    colour: str
    dashed: bool
    xs: Sequence[float]
    ys: Sequence[float]

    @property
    def is_reference(self) -> bool:
        """Whether it is the reference's; see `looks`."""
        return self.colour == _REFERENCE

    @property
    def key(self) -> Key:
        """Its entry in the legend."""
        return Key(self.colour, self.label, "dash" if self.dashed else "line")


def looks(groups: Sequence[Group]) -> list[tuple[str, bool]]:
    """Give each recipe a colour and a dash; the reference has the colour of the text."""
    names = list(dict.fromkeys(g.recipe.name for g in groups))
    found = {}
    for place, name in enumerate(names):
        turn, colour = divmod(place - 1, len(_COLOURS))
        found[name] = (_REFERENCE, False) if place == 0 else (_COLOURS[colour], turn % 2 == 1)
    return [found[group.recipe.name] for group in groups]


def by_samples(groups: Sequence[Group], styles: Sequence[tuple[str, bool]]) -> list[Series]:
    """Accuracy over samples trained on, mean over the seeds evaluated at that epoch."""
    return _curves(groups, styles, "samples")


def by_seconds(groups: Sequence[Group], styles: Sequence[tuple[str, bool]]) -> list[Series]:
    """Accuracy over seconds, mean over seeds; the groups are of one environment."""
    return _curves(groups, styles, "seconds")


def final(groups: Sequence[Group], styles: Sequence[tuple[str, bool]]) -> list[Series]:
    """Accuracy at the end over seconds: a line through the reference's runs, a point a recipe."""
    references = [group for group in groups if group.is_reference and group.cells]
    ends = sorted((g.seconds().mean, spread(g.accuracy.values()).mean) for g in references)
    series = []
    if ends:
        series.append(
            Series(
                "the reference's whole runs", _REFERENCE, False, *map(list, zip(*ends, strict=True))
            )
        )
    others: dict[str, list[tuple[Group, tuple[str, bool]]]] = {}
    for group, style in zip(groups, styles, strict=True):
        if group.cells and not group.is_reference:
            others.setdefault(group.recipe.name, []).append((group, style))
    for members in others.values():
        points = sorted((g.seconds().mean, spread(g.accuracy.values()).mean) for g, _ in members)
        colour, dashed = members[0][1]
        title = members[0][0].recipe.title
        series.append(Series(title, colour, dashed, [x for x, _ in points], [y for _, y in points]))
    return series


@page_style()
def draw(name: str, series: Sequence[Series], xlabel: str, description: str) -> str | None:
    """Draw the series as lines with their points marked; None if there is nothing finite."""
    drawn = [
        (one, [(x, y) for x, y in zip(one.xs, one.ys, strict=True) if _finite(x, y)])
        for one in series
    ]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return None
    figure, axes = blank(_HEIGHT)
    for one, points in reversed(drawn):
        axes.plot(
            [x for x, _ in points],
            [100.0 * y for _, y in points],
            color=COLOUR[one.colour],
            linewidth=1.8,
            linestyle=(0, (4, 2)) if one.dashed else "solid",
            marker="o" if len(points) <= FEW else "",
            markersize=3.8,
        )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value:g}" if abs(value) < 1000 else short_count(value)
    )
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(xlabel, color=COLOUR["muted"])
    return inline_svg(figure, name, description)


def _curves(
    groups: Sequence[Group], styles: Sequence[tuple[str, bool]], along: str
) -> list[Series]:
    series = []
    for group, (colour, dashed) in zip(groups, styles, strict=True):
        at: dict[int, list[tuple[float, float]]] = {}
        for cell in group.cells.values():
            for point in cell.curve:
                at.setdefault(point.epochs, []).append((getattr(point, along), point.accuracy))
        whole = [points for _, points in sorted(at.items()) if len(points) == len(group.cells)]
        if whole:
            xs = [spread(x for x, _ in points).mean for points in whole]
            ys = [spread(y for _, y in points).mean for points in whole]
            series.append(Series(group.title, colour, dashed, xs, ys))
    return series


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
