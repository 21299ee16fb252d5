"""A thin line over a chart, drawn in braille: the total of another run."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.workbench.charts.timeline import ALLOCATED, Column, Measure

LEFT = (0x40, 0x04, 0x02, 0x01)
RIGHT = (0x80, 0x20, 0x10, 0x08)
"""The dots of a braille cell's two columns, from the bottom up."""
BRAILLE = 0x2800

SOLID, DOTTED, DASHED, CHAIN, SPARSE = (
    (1,),
    (1, 0),
    (1, 1, 1, 1, 0, 0),
    (1, 1, 1, 1, 0, 1, 0),
    (1, 0, 0),
)
"""Which columns of dots a line has, over and over: told apart without any colour."""
PATTERNS = (SOLID, DASHED, CHAIN, SPARSE)
"""Those of runs laid over each other, in their order."""

Dots = dict[int, dict[int, int]]
"""A mask of braille dots by row (from the bottom) and column."""


def trace(
    columns: Sequence[Column],
    top: int,
    rows: int,
    pattern: Sequence[int] = SOLID,
    measure: Measure = ALLOCATED,
) -> dict[int, dict[int, str]]:
    """The outline's characters by row (from the bottom) and column.

    A step from one column to the next is joined by a vertical run of dots; a line that is not
    solid has half of them.
    """
    bits: Dots = {}
    length, sparse = len(pattern), 1 + (0 in pattern)

    def dot(column: int, level: int, side: Sequence[int]) -> None:
        row = bits.setdefault(level // 4, {})
        row[column] = row.get(column, 0) | side[level % 4]

    before: int | None = None
    for column, sample in enumerate(columns):
        if sample is None:
            before = None
            continue
        level = level_of(measure(sample), top, rows)
        if pattern[column * 2 % length]:
            dot(column, level, LEFT)
        if pattern[(column * 2 + 1) % length]:
            dot(column, level, RIGHT)
        if before is not None:
            for between in range(min(before, level), max(before, level), sparse):
                dot(column, between, LEFT)
        before = level
    return {
        row: {column: chr(BRAILLE | mask) for column, mask in line.items()}
        for row, line in bits.items()
    }


def level_of(size: int, top: int, rows: int) -> int:
    """The height of so many bytes in dots, four to a cell, inside the plot."""
    return min(rows * 4 - 1, max(0, round(size * rows * 4 / top) - 1))
