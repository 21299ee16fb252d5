"""A thin line over a chart, drawn in braille: the total of another run."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.workbench.charts.timeline import Column

LEFT = (0x40, 0x04, 0x02, 0x01)
RIGHT = (0x80, 0x20, 0x10, 0x08)
"""The dots of a braille cell's two columns, from the bottom up."""
BRAILLE = 0x2800


def trace(
    columns: Sequence[Column], top: int, rows: int, dotted: bool = False
) -> dict[int, dict[int, str]]:
    """The outline's characters by row (from the bottom) and column.

    A step from one column to the next is joined by a vertical run of dots; a dotted line has
    half of them.
    """
    bits: dict[int, dict[int, int]] = {}

    def dot(column: int, level: int, side: Sequence[int]) -> None:
        row = bits.setdefault(level // 4, {})
        row[column] = row.get(column, 0) | side[level % 4]

    before: int | None = None
    for column, sample in enumerate(columns):
        if sample is None:
            before = None
            continue
        level = min(rows * 4 - 1, max(0, round(sample.allocated * rows * 4 / top) - 1))
        dot(column, level, LEFT)
        if not dotted:
            dot(column, level, RIGHT)
        if before is not None:
            for between in range(min(before, level), max(before, level), 1 + dotted):
                dot(column, between, LEFT)
        before = level
    return {
        row: {column: chr(BRAILLE | mask) for column, mask in line.items()}
        for row, line in bits.items()
    }
