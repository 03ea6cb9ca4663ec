"""The sections on the selection: margins, subsets, class shares, samples.

Each function gives one section's HTML, or "" when there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynams.report import figures, markup
from dynams.report.facts import described
from dynams.report.markup import Key, text
from dynams.report.pictures import png_data_uris
from dynams.report.records import RefreshRecord, Run, SamplePictures
from dynams.report.selecting import KINDS, Selecting
from dynams.report.text import MISSING, count, number, percent

if TYPE_CHECKING:
    from torch import Tensor

_MOST_CLASSES = 24
_EXTREMES = 10
_MOST_COLUMNS = 10
_MOST_ROWS = 16


def margins(run: Run, how: Selecting) -> str:
    """The distribution of the margins over the refreshes, with the selection's threshold if it has one."""
    refreshes = _selections(run, how)
    cut = how.by_margin
    keys = [Key("full", "median"), Key("full", "middle 50, 80 and 90 %", "faint")]
    bands = None
    if how.dynamic:  # else they are of one scoring, which is no development
        bands = figures.margin_bands(
            refreshes,
            cut=cut,
            description="Quantile bands of all margins over the epochs"
            + (", with the threshold." if cut else "."),
        )
    ridges = figures.margin_ridges(
        refreshes,
        cut=cut,
        description="Histograms of all margins at several selections"
        + (", the selected part marked." if cut else "."),
    )
    scale = "Each histogram is scaled to its own peak; long tails are left off."
    body = markup.figures(
        markup.figure(
            bands,
            "Margins of all samples over time",
            [*keys, Key("selection", "selection threshold", "dash")] if cut else keys,
        ),
        markup.figure(
            ridges,
            "What was selected" if cut else "Margins of all samples",
            [Key("selection", "selected", "fill"), Key("other", "left out", "faint")]
            if cut
            else [],
            scale,
        ),
    )
    lede = ""
    if how.margin is not None:
        lede = f"A margin here is {KINDS[how.margin]}."
    return markup.section("margins", "Margins", lede, body)


def subsets(
    run: Run,
    how: Selecting,
    size: int | None,
    classes: Sequence[str],
    class_totals: Sequence[int] | None,
) -> str:
    """How the run selects; how much selections share with those before, and which classes they hold.

    Args:
        run: the run.
        how: how it selects.
        size: samples in the training set; None: not known.
        classes: names of the classes.
        class_totals: training samples of each class.
    """
    refreshes = _selections(run, how)
    if not refreshes:
        nothing = "No selection was made in the epochs that were trained."
        body = markup.note(nothing) if how.known and how.selects else ""
        return markup.section("subsets", "Selection", "", markup.opened(how.words), body)
    keys = [Key("selection", "shared with the selection before")]
    if size:
        keys.append(Key("muted", "two random subsets", "dash"))
    drawing = markup.figure(
        figures.overlap(
            refreshes,
            size,
            description=described(
                "Overlap with the selection before",
                [(r.epoch, r.overlap) for r in refreshes],
                percent,
            ),
        ),
        "Overlap of consecutive selections",
        keys,
    )
    shown = figures.thinned(refreshes, _MOST_ROWS)
    columns = {
        "Selected": [count(r.selected) for r in shown],
        "Threshold" if how.by_margin else "Largest margin": [number(r.threshold) for r in shown],
        "Overlap": [percent(r.overlap) for r in shown],
    }
    columns = {k: cells for k, cells in columns.items() if any(c != MISSING for c in cells)}
    listing = markup.table(
        ("Epoch", *columns),
        list(zip([str(r.epoch + 1) for r in shown], *columns.values(), strict=True)),
        caption="Selections",
    )
    left_out = len(refreshes) - len(shown)
    remark = f"{len(shown)} of {len(refreshes)} selections." if left_out else ""
    listing = f"<div><h3>Selections</h3>{listing}{markup.note(remark)}</div>"
    return markup.section(
        "subsets",
        "Selection",
        how.words,
        f'<div class="side">\n{drawing}\n{listing}\n</div>',
        _class_table(refreshes, classes, class_totals),
    )


def samples(pictures: SamplePictures | None) -> str:
    """The samples of the smallest and of the largest margins."""
    if pictures is None:
        return ""
    smallest = _strip(
        pictures.closest, pictures.closest_margins, pictures.closest_labels, pictures.classes
    )
    largest = _strip(
        pictures.farthest, pictures.farthest_margins, pictures.farthest_labels, pictures.classes
    )
    return markup.section(
        "samples",
        "Samples at the two ends",
        "Training samples with their classes and their margins as last known.",
        f"<h3>Smallest margins</h3>\n{smallest}" if smallest else "",
        f"<h3>Largest margins</h3>\n{largest}" if largest else "",
    )


def _selections(run: Run, how: Selecting) -> list[RefreshRecord]:
    """The refreshes, without the one that ends selecting: from there on everything is trained on."""
    return [r for r in run.refreshes if how.tail is None or r.epoch < how.tail]


def _class_table(
    refreshes: Sequence[RefreshRecord], classes: Sequence[str], class_totals: Sequence[int] | None
) -> str:
    """Class shares at up to ten refreshes, tinted by how far they are from the class's due."""
    counted = [record for record in refreshes if sum(record.class_counts) > 0]
    if not counted:
        return ""
    shown = figures.thinned(counted, _MOST_COLUMNS)
    number_of = max(len(record.class_counts) for record in counted)
    due = _due_shares(number_of, class_totals)
    shares = [[_share(record, c) for c in range(number_of)] for record in shown]
    ratio = [_ratio(shares[-1][c], due[c]) for c in range(number_of)]
    order = sorted(range(number_of), key=lambda c: (-ratio[c], c))
    digits = 1 if number_of <= _MOST_CLASSES else 2
    with_due = class_totals is not None and len(class_totals) == number_of

    def row(c: int) -> str:
        name = classes[c] if c < len(classes) else f"class {c}"
        cells = "".join(_heat_cell(column[c], due[c], digits) for column in shares)
        data = f'<td class="n">{text(percent(due[c], digits))}</td>' if with_due else ""
        return f'<tr><th scope="row" title="{text(name)}">{text(name)}</th>{data}{cells}</tr>'

    if number_of > _MOST_CLASSES:
        skipped = number_of - 2 * _EXTREMES
        columns = 1 + len(shown) + int(with_due)
        gap = f'<tr class="gap"><td colspan="{columns}">{skipped:,} classes between</td></tr>'
        body = [*map(row, order[:_EXTREMES]), gap, *map(row, order[-_EXTREMES:])]
        extent = f"The {_EXTREMES} most and {_EXTREMES} least favoured of {number_of:,} classes"
    else:
        body = [row(c) for c in order]
        extent = "Classes"
    against = (
        "their share of the data"
        if with_due
        else f"an even share, {percent(1 / number_of, digits)}"
    )
    remark = (
        f"{extent}, most favoured by the last selection first. Tints compare with {against}: "
        "magenta for more, blue for less."
    )
    head = '<th scope="col">Class</th>' + (
        '<th scope="col" class="n">data</th>' if with_due else ""
    )
    head += "".join(
        f'<th scope="col" class="n">{"epoch " if i == 0 else ""}{r.epoch + 1}</th>'
        for i, r in enumerate(shown)
    )
    return (
        '<h3 class="apart">Class share of the selection</h3>\n'
        f"{markup.note(remark)}\n"
        + markup.scrolling(
            "Class share of the selection",
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody>\n",
            style="heat",
        )
    )


def _due_shares(number_of: int, class_totals: Sequence[int] | None) -> list[float]:
    if class_totals is not None and len(class_totals) == number_of and sum(class_totals) > 0:
        return [n / sum(class_totals) for n in class_totals]
    return [1.0 / number_of] * number_of


def _share(record: RefreshRecord, c: int) -> float:
    counts = record.class_counts
    return counts[c] / sum(counts) if c < len(counts) else 0.0


def _ratio(share: float, due: float) -> float:
    return share / due if due > 0 else 1.0


def _heat_cell(share: float, due: float, digits: int) -> str:
    """A share, tinted: full strength at twice or half of what is due."""
    ratio = _ratio(share, due)
    strength = min(1.0, abs(math.log2(ratio))) if ratio > 0 else 1.0
    side = "over" if ratio >= 1 else "under"
    tint = f' style="--t: {round(45 * strength)}%"'
    return f'<td class="n {side}"{tint}>{text(percent(share, digits))}</td>'


def _strip(images: Tensor, margins: Tensor, labels: Tensor, classes: Sequence[str]) -> str:
    items = []
    for (uri, crisp), margin, label in zip(
        png_data_uris(images), margins.tolist(), labels.tolist(), strict=True
    ):
        name = classes[label] if 0 <= label < len(classes) else f"class {label}"
        shown = f"{margin:.3f}" if abs(margin) < 1e4 else number(margin)
        smooth = "" if crisp else ' class="smooth"'
        items.append(
            f'<li><img src="{uri}"{smooth} alt="{text(f"{name}, margin {shown}")}">'
            f'<span class="class" title="{text(name)}">{text(name)}</span>'
            f'<span class="margin">{text(shown)}</span></li>'
        )
    return '<ul class="pictures">\n' + "\n".join(items) + "\n</ul>" if items else ""
