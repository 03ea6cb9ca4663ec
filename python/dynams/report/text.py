"""Numbers as people read them, and the cost table that the console and the page share.

Standard library only. A value that is missing or not finite is shown as an en dash, never as
``nan``; the space before a unit is a no-break space.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dynams.cost.purposes import OTHER, PURPOSES
from dynams.report.records import EpochRecord

MISSING = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"
# What stands for our own signs where a terminal has none of them.
_NEAR = str.maketrans(
    {
        _SPACE: " ",
        MISSING: "-",
        "\N{MINUS SIGN}": "-",
        "\N{PLUS-MINUS SIGN}": "+-",
        "\N{HORIZONTAL ELLIPSIS}": "...",
    }
)


@dataclass(frozen=True)
class CostShare:
    """Wall-clock ``seconds`` spent on one ``purpose`` and its ``share`` of the whole, in [0, 1]."""

    purpose: str
    seconds: float
    share: float


def costs(seconds: Mapping[str, float], total_seconds: float) -> list[CostShare]:
    """Cost by purpose, the known purposes first, what they do not explain last as "other".

    Purposes that nothing was spent on are left out.

    Shares are of the larger of ``total_seconds`` and the sum of the parts, so that they never
    add up to more than one when parts overlap in time. Values that are not finite or not
    positive count as zero.
    """
    parts = {name: value for name, value in seconds.items() if _positive(value) and name != OTHER}
    explained = sum(parts.values())
    other = max(_positive(total_seconds) - explained, _positive(seconds.get(OTHER, 0.0)))
    whole = explained + other
    known = [name for name in PURPOSES if name in parts]
    names = known + sorted(set(parts) - set(known))
    rows = [(name, parts[name]) for name in names] + [(OTHER, other)]
    return [CostShare(name, value, value / whole if whole > 0 else 0.0) for name, value in rows]


def total_of(seconds: Mapping[str, float]) -> float:
    """Sum of the positive finite values of a cost by purpose, in seconds."""
    return sum(_positive(value) for value in seconds.values())


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as per cent: ``0.923`` is "92.3 %"."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{100.0 * value:.{digits}f}{_SPACE}%"


def count(value: float | None) -> str:
    """A whole number with thousands separated: "1,830,000"."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{round(value):,}"


def short_count(value: float | None) -> str:
    """A large number in three digits: "1.83 M"; numbers below 10,000 in full."""
    if value is None or not math.isfinite(value):
        return MISSING
    if abs(value) < 9999.5:
        return count(value)
    steps = ((1e3, "k"), (1e6, "M"), (1e9, "G"))
    scale, unit = next((step for step in steps if abs(value) < 999.5 * step[0]), steps[-1])
    scaled = value / scale
    places = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:,.{places}f}{_SPACE}{unit}"


def number(value: float | None, digits: int = 4) -> str:
    """A real number to ``digits`` significant digits, trailing zeros kept for alignment."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value != 0.0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{max(digits - 2, 0)}e}"
    places = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:.{min(max(places, 0), digits)}f}"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: "0.42 s", "12 min 31 s", "3 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.2f}{_SPACE}s" if seconds < 9.995 else f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min {whole % 60:02d}{_SPACE}s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"
    hours = round(seconds / 3600)
    return f"{hours // 24}{_SPACE}d {hours % 24}{_SPACE}h"


def clock(seconds: float | None) -> str:
    """A length of time as a clock shows it: "0:07", "12:31", "1:02:03"."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--"
    whole = max(0, round(seconds))
    minutes, over = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{over:02d}" if hours else f"{minutes}:{over:02d}"


def width_name(width: float | None) -> str:
    """How a proxy's width is called in a label: "width 0.5", or "proxy width" when unknown."""
    if width is None or not math.isfinite(width):
        return "proxy width"
    return f"width{_SPACE}{width:g}"


def epoch_parts(record: EpochRecord, total_epochs: int, left: str = "") -> list[str]:
    """One epoch in parts of plain text, for logs and terminals; what is looked at most comes first.

    Args:
        record: the epoch.
        total_epochs: of the run.
        left: how long the run has to go; "" says nothing of it.
    """
    digits = len(str(total_epochs))
    parts = [f"epoch {record.epoch + 1:>{digits}}/{total_epochs}", f"loss {number(record.loss)}"]
    if record.accuracy is not None:
        parts.append(f"accuracy {percent(record.accuracy, 2)}")
    parts.append(duration(total_of(record.seconds)))
    if left:
        parts.append(left)
    if record.proxy_loss is not None:
        parts.append(f"proxy loss {number(record.proxy_loss)}")
    if record.proxy_accuracy is not None:
        parts.append(f"proxy {percent(record.proxy_accuracy, 2)}")
    parts.append(f"{count(record.samples)} samples")
    return [plain(part) for part in parts]


def filled(parts: Iterable[str], width: int, gap: str) -> str:
    """Join parts to lines of at most ``width`` columns, later ones indented; a longer part has its own."""
    lines: list[str] = []
    for part in parts:
        if lines and _columns(lines[-1] + gap + part) <= width:
            lines[-1] += gap + part
        else:
            lines.append(f"  {part}" if lines else part)
    return "\n".join(lines)


def plain(value: str) -> str:
    """``value`` with plain spaces: a log is searched with them."""
    return value.replace(_SPACE, " ")


def encodable(value: str, encoding: str) -> str:
    """``value`` with what ``encoding`` cannot show put in other words: "-" for a dash, an escape for the rest."""
    try:
        value.encode(encoding)
    except UnicodeEncodeError:
        near = value.translate(_NEAR)
        return near.encode(encoding, "backslashreplace").decode(encoding)
    return value


def _positive(value: float) -> float:
    return value if math.isfinite(value) and value > 0.0 else 0.0


def _columns(value: str) -> int:
    """How many columns of a terminal ``value`` takes."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in value
    )
