"""Cells to segments, and changed cells to as few regions as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.segment import Segment
from rich.style import Style

from memwb.workbench.charts.palette import Cell, Code

Change = tuple[int, Sequence[Code], Sequence[Code]]
"""A column's index, its cells before and after, from the bottom up."""


def joined(cells: Sequence[Cell]) -> list[Segment]:
    """Segments of a line: neighbours of one style become one."""
    segments: list[Segment] = []
    texts: list[str] = []
    style: Style | None = None
    # Most neighbours are the very same cell, and runs of one object are found at C speed.
    for _, group in groupby(cells, key=id):
        run = list(group)
        character, here = run[0]
        if here is not style and texts:
            segments.append(Segment("".join(texts), style))
            texts = []
        style = here
        texts.append(character * len(run))
    if texts:
        segments.append(Segment("".join(texts), style))
    return segments


def ranges(changes: Sequence[Change], rows: int) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles (x, y, width, height; y from the top) that hold every changed cell.

    Columns side by side share one: from the highest changed row of any to the lowest.
    """
    begin = 0
    for index in range(1, len(changes) + 1):
        if index < len(changes) and changes[index][0] == changes[index - 1][0] + 1:
            continue
        group = changes[begin:index]
        begin = index
        rows_changed = [
            row
            for _, before, after in group
            for row, (old, new) in enumerate(zip(before, after, strict=True))
            if old != new
        ]
        low, high = min(rows_changed), max(rows_changed)
        yield group[0][0], rows - 1 - high, len(group), high - low + 1
