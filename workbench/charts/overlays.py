"""What stands on a memory chart's bands: outlines of other runs, their names, the cursor's box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from textual.geometry import Region

from memwb.workbench.charts import inset, outline
from memwb.workbench.charts.palette import Cell
from memwb.workbench.charts.timeline import Column

if TYPE_CHECKING:
    from memwb.workbench.charts.canvas import Canvas
    from memwb.workbench.charts.inset import Moment
    from memwb.workbench.charts.view import View

ROLES = ("overlay", "overlay-2", "overlay-3", "overlay-4")
"""Styles of runs laid over each other, in their order; each has a pattern of its own as well."""
MOST = len(ROLES)

Line = dict[int, tuple[str, str]]
"""Characters with their style by column."""
Marks = dict[int, Line]
"""Those of every row, from the bottom."""


class Box(NamedTuple):
    """A rectangle of cells in place of what is under it."""

    region: Region
    lines: list[list[Cell]]


def outlines(view: View, lines: Sequence[Sequence[Column]], top: int, rows: int) -> Marks:
    """Every line behind a run; where two are in one cell both are seen, in the later's colour."""
    found: Marks = {}
    for index, columns in enumerate(lines):
        pattern = outline.PATTERNS[index % MOST] if view.others else outline.DOTTED
        look = ROLES[index % MOST] if view.others else "stale" if view.stale else "foreseen"
        drawn = outline.trace(columns, top, rows, pattern, view.measure)
        for row, line in drawn.items():
            held = found.setdefault(row, {})
            for column, character in line.items():
                below = ord(held[column][0]) if column in held else 0
                held[column] = (chr(below | ord(character)), look)
    return found


def tags(view: View, lines: Sequence[Sequence[Column]], top: int, rows: int) -> Marks:
    """The name of each other run at its highest point, above it where there is room."""
    found: Marks = {}
    for index, (other, columns) in enumerate(zip(view.others, lines, strict=False)):
        text, size = other.label, view.measure
        held = [(size(sample), -at) for at, sample in enumerate(columns) if sample is not None]
        if not text or not held or len(text) > len(columns) // 2:
            continue
        most, at = max(held)
        row = outline.level_of(most, top, rows) // 4
        start = max(0, min(len(columns) - len(text), -at - len(text) // 2))
        place = range(start, start + len(text))
        for wanted in (row + 1, row + 2, row - 1, row - 2, row):
            taken = found.get(wanted, {})
            if 0 <= wanted < rows and not any(column in taken for column in place):
                marks = {
                    column: (char, ROLES[index % MOST])
                    for column, char in zip(place, text, strict=True)
                }
                found.setdefault(wanted, {}).update(marks)
                break
    return found


def box(canvas: Canvas, moment: Moment, column: int) -> Box | None:
    """The box of a moment, on the side of the plot where the cursor is not."""
    view, width = canvas.view, len(canvas.columns)
    at = [
        (line[column], other.label) for line, other in zip(canvas.lines, view.others, strict=False)
    ]
    others = tuple(
        (label, sample.allocated) for sample, label in at if sample is not None and label
    )
    told = inset.Moment(moment.sample, moment.before, others, view.timed, moment.words)
    lines = inset.box(told, width, canvas.rows, canvas.looks.hatched, view.hidden)
    if lines is None:
        return None
    cells = [canvas.written(parts) for parts in lines]
    x = canvas.left + (0 if column >= width / 2 else width - len(cells[0]))
    return Box(Region(x, 0, len(cells[0]), len(cells)), cells)
