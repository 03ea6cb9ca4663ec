"""The sections on the selection: margins, subsets, class shares, samples.

Each function gives one section's HTML, or "" when there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynams.report import figures, markup
from dynams.report.facts import described, setting, training_set_size
from dynams.report.markup import Key, text
from dynams.report.pictures import png_data_uris
from dynams.report.records import RefreshRecord, Run, SamplePictures
from dynams.report.text import count, number, percent

if TYPE_CHECKING:
    from torch import Tensor

_MOST_CLASSES = 24
_EXTREMES = 10
_MOST_COLUMNS = 10
_MOST_ROWS = 16


def margins(run: Run) -> str:
    """The distribution of the margins over the refreshes, with the selection's threshold."""
    bands = markup.figure(
        figures.margin_bands(
            run.refreshes,
            description="Quantile bands of all margins over the epochs, with the threshold.",
        ),
        "Margins of all samples over time",
        [
            Key("full", "median"),
            Key("full", "middle 50, 80 and 90 %", "faint"),
            Key("selection", "selection threshold", "dash"),
        ],
    )
    ridges = markup.figure(
        figures.margin_ridges(
            run.refreshes,
            description="Histograms of all margins at several refreshes, the selected part marked.",
        ),
        "What was selected",
        [Key("selection", "selected", "fill"), Key("other", "left out", "faint")],
        "Each histogram is scaled to its own peak; long tails are cut.",
    )
    body = markup.figures(bands, ridges)
    if not body:
        strategy = setting(run.config, "selection.strategy")
        named = f" (strategy {strategy})" if isinstance(strategy, str) else ""
        body = markup.note(f"This run{named} has no scored refresh, so there are no margins.")
        return markup.section("margins", "Margins", "", body)
    return markup.section(
        "margins",
        "Margins",
        "A margin is a sample\N{RIGHT SINGLE QUOTATION MARK}s distance to the decision boundary. "
        "Each refresh scores every sample and selects those with the smallest.",
        body,
    )


def subsets(run: Run, classes: Sequence[str], class_totals: Sequence[int] | None) -> str:
    """How much each selection shares with the one before, and which classes it holds."""
    if not run.refreshes:
        return ""
    full = training_set_size(run)
    keys = [Key("selection", "shared with the selection before")]
    if full:
        keys.append(Key("muted", "two random subsets", "dash"))
    drawing = markup.figure(
        figures.overlap(
            run.refreshes,
            full,
            description=described(
                "Overlap with the selection before",
                [(r.epoch, r.overlap) for r in run.refreshes],
                percent,
            ),
        ),
        "Overlap of consecutive selections",
        keys,
    )
    shown = figures.thinned(run.refreshes, _MOST_ROWS)
    listing = markup.table(
        ("Epoch", "Selected", "Threshold", "Overlap"),
        [
            (str(r.epoch + 1), count(r.selected), number(r.threshold), percent(r.overlap))
            for r in shown
        ],
        caption="Refreshes",
    )
    left_out = len(run.refreshes) - len(shown)
    remark = f"{len(shown)} of {len(run.refreshes)} refreshes." if left_out else ""
    listing = f"<div><h3>Refreshes</h3>{listing}{markup.note(remark)}</div>"
    body = f'<div class="side">\n{drawing}\n{listing}\n</div>'
    return markup.section(
        "subsets",
        "How the selection moves",
        "",
        body,
        _class_table(run.refreshes, classes, class_totals),
    )


def samples(pictures: SamplePictures | None) -> str:
    """The samples closest to and farthest from the decision boundary."""
    if pictures is None:
        return ""
    closest = _strip(
        pictures.closest, pictures.closest_margins, pictures.closest_labels, pictures.classes
    )
    farthest = _strip(
        pictures.farthest, pictures.farthest_margins, pictures.farthest_labels, pictures.classes
    )
    return markup.section(
        "samples",
        "Samples at the two ends",
        "Each training sample with its class and its margin at the last refresh.",
        f"<h3>Closest to the boundary</h3>\n{closest}" if closest else "",
        f"<h3>Farthest from it</h3>\n{farthest}" if farthest else "",
    )


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
        '<div class="scroll"><table class="heat" aria-label="Class share of the selection">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody>\n</table></div>"
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
