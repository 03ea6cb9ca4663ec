"""The report's figures: each function takes records and gives an inline SVG, or None if empty.

Drawn with matplotlib's object API: no pyplot, no global state. The same records give the same
bytes. Epochs are shown counted from 1; values that are not finite leave a gap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dynams.report.records import EpochRecord, RefreshRecord
from dynams.report.style import purpose_colour
from dynams.report.svg import COLOUR, inline_svg, page_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 480, 270  # CSS pixels: one pixel is one SVG point, 1/72 inch for matplotlib
_TEXT_SIZE = 11.5
FEW = 24  # points at most that are marked one by one


@page_style()
def lines(
    name: str,
    epochs: Sequence[int],
    series: Sequence[tuple[str, Sequence[float | None]]],
    *,
    percent: bool = False,
    wide: bool = False,
    description: str,
) -> str | None:
    """One line for each ``(colour name, values)`` over the epochs.

    Args:
        name: unique name of the figure on the page.
        epochs: epochs, from 0.
        series: colour names of the page with one value an epoch. None (not measured) is passed
            over; NaN and infinity leave a gap.
        percent: the values are fractions, to be shown as per cent.
        wide: use a logarithmic axis when the values are positive and span over two decades.
        description: what a reader who cannot see the figure is told.
    """
    drawn = [(colour, _measured(epochs, values)) for colour, values in series]
    drawn = [item for item in drawn if not all(math.isnan(value) for _, value in item[1])]
    present = [value for _, points in drawn for _, value in points if not math.isnan(value)]
    if not present:
        return None
    figure, axes = blank()
    at = [epoch + 1 for epoch in epochs]
    scale = 100.0 if percent else 1.0
    for colour, points in reversed(drawn):
        values = [scale * value for _, value in points]
        axes.plot(
            [epoch + 1 for epoch, _ in points],
            values,
            color=COLOUR[colour],
            linewidth=1.8,
            marker="o" if len(points) <= FEW or _has_islands(values) else "",
            markersize=3.4,
        )
    if wide and min(present) > 0 and max(present) > 100 * min(present):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.tick_params(axis="y", which="minor", labelleft=False)
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    _epoch_axis(axes, at)
    return inline_svg(figure, name, description)


@page_style()
def budget(
    epochs: Sequence[EpochRecord], full: int | None, *, asked: bool = True, description: str
) -> str | None:
    """The budget asked for as a stepped line over the samples used, as shares of the full data.

    Without ``asked`` no budget was; then the samples stand alone.
    """
    if not epochs:
        return None
    figure, axes = blank()
    at = [record.epoch + 1 for record in epochs]
    if full:
        used = [100.0 * record.samples / full for record in epochs]
        axes.bar(at, used, width=1.0 if len(at) > 60 else 0.82, color=COLOUR["full"], alpha=0.35)
        right = axes.twinx()
        right.set_ylim(0, 1.05 * full)
        right.yaxis.set_major_formatter(lambda value, _: _tick(value))
        right.spines["bottom"].set_visible(False)
        _quiet_axis(right)
    if asked:
        shares = [100.0 * value for value in _finite([record.budget for record in epochs])]
        edges = [position - 0.5 for position in at]
        axes.step(
            [*edges, at[-1] + 0.5],
            [*shares, shares[-1]],
            where="post",
            color=COLOUR["full"],
            lw=1.8,
        )
    axes.set_ylim(0, 105)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    _epoch_axis(axes, at)
    return inline_svg(figure, "budget", description)


@page_style()
def seconds_by_epoch(
    epochs: Sequence[EpochRecord], colours: Mapping[str, str], *, description: str
) -> str | None:
    """Seconds of each epoch, stacked by purpose, in the ``colours`` that purposes have beside it."""
    purposes = list(dict.fromkeys(name for record in epochs for name in record.seconds))
    if not purposes or not any(sum(_finite(r.seconds.values(), 0.0)) > 0 for r in epochs):
        return None
    figure, axes = blank()
    at = [record.epoch + 1 for record in epochs]
    below = [0.0] * len(at)
    for position, purpose in enumerate(purposes):
        parts = _finite([record.seconds.get(purpose, 0.0) for record in epochs], 0.0)
        top = [low + max(part, 0.0) for low, part in zip(below, parts, strict=True)]
        colour = COLOUR[colours.get(purpose) or purpose_colour(purpose, position)]
        if len(at) > 60:
            axes.fill_between(at, below, top, step="mid", lw=0, color=colour)
        else:
            axes.bar(
                at,
                [high - low for high, low in zip(top, below, strict=True)],
                bottom=below,
                width=0.82,
                color=colour,
            )
        below = top
    axes.set_ylim(0, max(below) * 1.05)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    _epoch_axis(axes, at)
    return inline_svg(figure, "seconds", description)


@page_style()
def margin_bands(
    refreshes: Sequence[RefreshRecord], *, cut: bool = True, description: str
) -> str | None:
    """Quantiles of all margins over the refreshes as bands, and the selection's threshold with ``cut``.

    None with fewer than two refreshes that have margins: one refresh is no development.
    """
    seen = [record for record in refreshes if _has_quantiles(record)]
    if len(seen) < 2:
        return None
    figure, axes = blank()
    at = [record.epoch + 1 for record in seen]
    quantile = [[record.quantiles[index] for record in seen] for index in range(21)]
    for low, high, alpha in ((1, 19, 0.14), (2, 18, 0.14), (5, 15, 0.24)):
        axes.fill_between(
            at, quantile[low], quantile[high], color=COLOUR["full"], alpha=alpha, lw=0
        )
    axes.plot(at, quantile[10], color=COLOUR["full"], linewidth=1.8)
    threshold = _finite([record.threshold for record in seen]) if cut else []
    if cut:
        axes.plot(
            at,
            threshold,
            color=COLOUR["selection"],
            linewidth=1.8,
            linestyle=(0, (4, 2)),
            marker="o" if len(at) <= FEW else "",
            markersize=3.4,
        )
    bottom = min(0.0, *quantile[1])
    heights = [*quantile[19], *(value for value in threshold if not math.isnan(value))]
    top = max(heights)
    axes.set_ylim(bottom, top + 0.04 * (top - bottom) or 1.0)
    axes.set_ylabel("margin", color=COLOUR["muted"])
    _epoch_axis(axes, at)
    return inline_svg(figure, "bands", description)


@page_style()
def margin_ridges(
    refreshes: Sequence[RefreshRecord], *, most: int = 6, cut: bool = True, description: str
) -> str | None:
    """Histograms of all margins at up to ``most`` refreshes.

    With ``cut``, all samples up to the threshold are the selection: that part is picked out. Each is scaled to its own peak: the shapes are to be compared, not the heights.
    """
    seen = [record for record in refreshes if _has_histogram(record)]
    if not seen:
        return None
    shown = thinned(seen, most)
    figure, axes = blank()
    densities = [_density(record) for record in shown]
    rise = 1.0 if len(shown) == 1 else 1.45
    for row, (record, density) in enumerate(zip(shown, densities, strict=True)):
        base = float(len(shown) - 1 - row)
        peak = max(density)
        heights = [base + rise * value / peak for value in density]
        _ridge(axes, record, heights, base, row, record.threshold if cut else math.nan)
    end = max(_reach(record, record.threshold if cut else math.nan) for record in shown)
    start = min(0.0, *(record.histogram_edges[0] for record in shown))
    axes.set_xlim(start, end)
    axes.set_ylim(-0.04, len(shown) - 1 + rise * 1.04)
    axes.set_yticks(
        [len(shown) - 1 - row for row in range(len(shown))],
        [f"epoch {record.epoch + 1}" for record in shown],
        va="bottom",
    )
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("margin", color=COLOUR["muted"])
    return inline_svg(figure, "ridges", description)


@page_style()
def overlap(
    refreshes: Sequence[RefreshRecord], full: int | None, *, description: str
) -> str | None:
    """Overlap of each selection with the one before, and what two random subsets would share."""
    pairs = list(itertools.pairwise(refreshes))
    values = _finite([later.overlap for _, later in pairs])
    if all(math.isnan(value) for value in values):
        return None
    figure, axes = blank()
    at = [later.epoch + 1 for _, later in pairs]
    if full:
        chance = [100.0 * min(1.0, earlier.selected / full) for earlier, _ in pairs]
        marker = "_" if len(at) == 1 else ""
        axes.plot(
            at, chance, color=COLOUR["muted"], lw=1.3, ls=(0, (3, 3)), marker=marker, markersize=14
        )
    axes.plot(
        at,
        [100.0 * value for value in values],
        color=COLOUR["selection"],
        linewidth=1.8,
        marker="o" if len(at) <= FEW else "",
        markersize=3.4,
    )
    axes.set_ylim(0, 104)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    _epoch_axis(axes, at)
    return inline_svg(figure, "overlap", description)


def thinned(items: Sequence[RefreshRecord], most: int) -> list[RefreshRecord]:
    """At most ``most`` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def blank(height: int = _HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure of a page, ``height`` CSS pixels high, and its axes; inside `page_style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.grid(axis="y", color=COLOUR["grid"], linewidth=1)
    axes.set_axisbelow(True)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLOUR["rule"])
    _quiet_axis(axes)
    axes.xaxis.label.set_fontsize(_TEXT_SIZE)
    return figure, axes


def _quiet_axis(axes: Axes) -> None:
    axes.tick_params(
        which="both", length=0, pad=5, labelsize=_TEXT_SIZE, labelcolor=COLOUR["muted"]
    )
    axes.yaxis.label.set_fontsize(_TEXT_SIZE)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def _tick(value: float) -> str:
    """A count on an axis: "50 k", "1.2 M"."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:g} {unit}"
    return f"{value:g}"


def _epoch_axis(axes: Axes, at: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=COLOUR["muted"])
    if len(at) == 1:
        axes.set_xlim(at[0] - 1, at[0] + 1)
        axes.set_xticks([at[0]])
    else:
        margin = 0.6 if len(at) <= 60 else 0.5
        axes.set_xlim(at[0] - margin, at[-1] + margin)


def _ridge(
    axes: Axes,
    record: RefreshRecord,
    heights: Sequence[float],
    base: float,
    order: int,
    cut: float,
) -> None:
    """One histogram standing on ``base``, coloured up to ``cut`` if that is finite, earlier ones in front."""
    edges = record.histogram_edges
    xs = [edge for edge in edges for _ in (0, 1)]
    ys = [base, *(height for height in heights for _ in (0, 1)), base]
    layer = 2.0 + order
    axes.fill_between(xs, base, ys, color=COLOUR["card"], lw=0, zorder=layer)
    axes.fill_between(xs, base, ys, color=COLOUR["other"], alpha=0.35, lw=0, zorder=layer)
    if math.isfinite(cut):
        inside = [(min(x, cut), y) for x, y in zip(xs, ys, strict=True) if x <= cut]
        if inside and inside[-1][0] < cut and cut < edges[-1]:
            inside.append((cut, inside[-1][1]))
        if inside:
            axes.fill_between(
                [x for x, _ in inside],
                base,
                [y for _, y in inside],
                color=COLOUR["selection"],
                alpha=0.75,
                lw=0,
                zorder=layer,
            )
    axes.plot(xs, ys, color=COLOUR["card"], linewidth=1.0, zorder=layer)


def _density(record: RefreshRecord) -> list[float]:
    edges, counts = record.histogram_edges, record.histogram_counts
    total = sum(counts)
    return [
        n / (total * (high - low)) for n, low, high in zip(counts, edges, edges[1:], strict=False)
    ]


def _reach(record: RefreshRecord, threshold: float) -> float:
    """Where a histogram's long tail may be left off: its 99 % point, or a threshold beyond it."""
    edges, counts = record.histogram_edges, record.histogram_counts
    seen, total = 0, sum(counts)
    reach = edges[-1]
    for n, high in zip(counts, edges[1:], strict=True):
        seen += n
        if seen >= 0.99 * total:
            reach = high
            break
    return max(reach, threshold) if math.isfinite(threshold) else reach


def _has_quantiles(record: RefreshRecord) -> bool:
    return len(record.quantiles) == 21 and all(math.isfinite(q) for q in record.quantiles)


def _has_histogram(record: RefreshRecord) -> bool:
    edges, counts = record.histogram_edges, record.histogram_counts
    return (
        len(counts) > 0
        and len(edges) == len(counts) + 1
        and sum(counts) > 0
        and all(math.isfinite(edge) for edge in edges)
        and all(low < high for low, high in itertools.pairwise(edges))
    )


def _finite(values: Iterable[float | None], missing: float = math.nan) -> list[float]:
    return [
        float(value) if value is not None and math.isfinite(value) else missing for value in values
    ]


def _measured(epochs: Sequence[int], values: Sequence[float | None]) -> list[tuple[int, float]]:
    """The epochs that were measured, with their values; NaN stands for all that is not finite."""
    pairs = [(e, v) for e, v in zip(epochs, values, strict=True) if v is not None]
    return [(e, v if math.isfinite(v) else math.nan) for e, v in pairs]


def _has_islands(values: Sequence[float]) -> bool:
    """Whether a value stands between gaps, where a line alone would not show it."""
    gaps = [True, *(math.isnan(value) for value in values), True]
    return any(
        before and not here and after
        for before, here, after in zip(gaps, gaps[1:], gaps[2:], strict=False)
    )
