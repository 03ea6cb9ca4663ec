"""Generated parts of hand-written pages: what stands between two marks is replaced, the rest is kept."""

from __future__ import annotations

from pathlib import Path


def insert(page: Path, mark: str, text: str) -> None:
    """Put `text` between the page's `mark`:begin and `mark`:end comments."""
    begin_mark, end_mark = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
    before, begin, rest = page.read_text().partition(begin_mark)
    _old, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise SystemExit(f"{page}: no {mark}:begin and {mark}:end marks")
    page.write_text(before + begin + text + end + after)


def lines(rows: list[list[str]]) -> str:
    """A table of Markdown: its head, then its rows; what follows the first column is a number."""
    rule = ["---", *("--:" for _ in rows[0][1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], rule, *rows[1:]])
