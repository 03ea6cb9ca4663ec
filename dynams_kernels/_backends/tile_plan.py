"""How the logits of a linear head are cut into tiles, and those into pieces of work for threads."""

from __future__ import annotations

from dataclasses import dataclass

# A tile runs at the product's full rate on one thread, and its logits stay in that thread's cache until they are scored.
_TILE_ROWS = 256
_TILE_CLASS_BYTES = 2048
# A tile takes Python some 20 microseconds: it is larger where it would be less work than this many multiplications, or
# than a sixteenth of all where that is little.
_TILE_WORK = 1 << 25
_LEAST_TILE_WORK = 1 << 22
# Scoring a logit takes as long as this many multiplications.
_SCORING_WORK = 64
# Pieces to deal out, if there are so many tiles: with fewer, threads wait long for the last piece of a slow one.
_PIECES = 128
# Fewer logits or less work than this is one product on all threads, and one scoring.
_FEW_LOGITS = 1 << 20
_LITTLE_WORK = 1 << 28


@dataclass(frozen=True)
class TilePlan:
    """How the logits (B, C) are cut: into tiles of up to `rows` x `classes`, of which `run` beside one another are one piece."""

    total: int
    rows: int
    classes: int
    run: int
    borders: tuple[int, ...]  # of the blocks of rows, from 0 to B

    @property
    def batch(self) -> int:
        """All rows."""
        return self.borders[-1]

    @property
    def blocks(self) -> int:
        """Of rows."""
        return len(self.borders) - 1

    @property
    def tiles(self) -> int:
        """Of a block of rows."""
        return -(-self.total // self.classes)

    @property
    def runs(self) -> int:
        """Of tiles of a block of rows: the pieces of work."""
        return -(-self.tiles // self.run)

    def rows_of(self, block: int) -> tuple[int, int]:
        """Where a block of rows begins and ends."""
        return self.borders[block], self.borders[block + 1]

    def tiles_of(self, run: int) -> range:
        """The tiles of a run."""
        begin = run * self.run
        return range(begin, min(begin + self.run, self.tiles))


def plan_tiles(
    batch: int, classes: int, size: int, element_size: int, whole_rows: bool
) -> TilePlan | None:
    """The tiles of logits (B, C) of features of this size; None: they are few enough to be one.

    It depends on nothing but the shape: the scores' bits do.
    """
    a_logit = size + _SCORING_WORK
    work = batch * classes * a_logit
    usual_classes = _TILE_CLASS_BYTES // element_size
    if batch * classes <= _FEW_LOGITS and (work <= _LITTLE_WORK or classes <= usual_classes // 2):
        return None
    least = min(_TILE_WORK, max(_LEAST_TILE_WORK, work // 16))
    rows = min(batch, _TILE_ROWS)
    columns = classes
    if not whole_rows:
        columns = min(classes, max(usual_classes, least // (rows * a_logit)))
        columns = min(classes, _evenly(classes, columns, 64))
    rows = min(batch, max(rows, least // (columns * a_logit)))
    if columns > 4 * usual_classes:  # whole rows
        rows = min(rows, max(16, 4 * _TILE_ROWS * usual_classes // columns))
    rows = min(batch, _evenly(batch, rows, 16))
    blocks, tiles = -(-batch // rows), -(-classes // columns)
    runs = min(tiles, -(-_PIECES // blocks))
    borders = [*range(0, batch, rows), batch]
    if blocks * runs < _PIECES and rows > 16:
        # The last pieces are smaller: the other threads wait for the last one.
        last = borders[blocks - blocks // 4 : blocks]
        borders += [min(begin + rows // 2, batch - 1) for begin in last]
    return TilePlan(classes, rows, columns, -(-tiles // runs), tuple(sorted(set(borders))))


def _evenly(total: int, at_most: int, multiple: int) -> int:
    """The size of parts of about this size or less that share a total evenly, in whole multiples."""
    parts = -(-total // at_most)
    return -(-total // (parts * multiple)) * multiple
