"""A memory chart drawn for one size: cells of the plot, the axis, the steps and the legend.

It knows what changed: every method that changes it returns the regions to show again, so that
the widget has the terminal redraw nothing else. Another size, theme or scale is another canvas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich.style import Style
from textual.geometry import Region, Size

from memwb.engine.protocol import Sample
from memwb.workbench.charts import axis, legend, outline
from memwb.workbench.charts.align import aligned
from memwb.workbench.charts.bands import EMPTY, bounds, lettered, stack, values
from memwb.workbench.charts.palette import HATCHES, Cell, Code, Palette
from memwb.workbench.charts.scale import byte_top, gib
from memwb.workbench.charts.strips import ranges
from memwb.workbench.charts.timeline import (
    Column,
    Slot,
    Timeline,
    column_of,
    merge,
    peaks,
    slots,
)

NEAR = 1.6
"""The capacity is drawn to scale up to so many times the peak; beyond that it is only noted."""
ROOM_FOR_LABELS = 24
"""Columns from which on the byte axis has labels."""
CROSSED = " ╌┈" + "".join(HATCHES)
"""What the cursor's line may take the place of; letters and edges stay."""
STYLES = (
    "axis",
    "label",
    "value",
    "capacity",
    "predicted",
    "foreseen",
    "stale",
    "overlay",
    "cursor",
)


class View(msgspec.Struct, frozen=True):
    """What there is to draw: a run, the run laid over it, and two heights in bytes."""

    shown: Timeline
    other: Timeline
    capacity: int | None = None
    predicted: int | None = None
    foreseen: Timeline = Timeline()
    """What is predicted, as a dotted line behind the run; not where another run is laid over it."""
    stale: bool = False
    """Whether it is predicted of an earlier plan."""

    @property
    def behind(self) -> Timeline:
        """What is drawn as a line: the other run, else what is predicted."""
        return self.other if self.other.by_step else self.foreseen

    def steps(self) -> list[int]:
        """The steps of both runs."""
        return sorted({*self.shown.steps(), *self.other.by_step})

    def top(self, rows: int) -> int:
        """Bytes at the top of the axis."""
        peaks = (self.shown.peak, self.behind.peak)
        foretold = 0 if self.other.by_step else self.predicted or 0
        peak = max([foretold, *(one.allocated for one in peaks if one)])
        if self.capacity and peak and self.capacity <= peak * NEAR:
            peak = max(peak, self.capacity)
        return byte_top(peak or self.capacity or 2**30, rows)


class Canvas:
    """The drawn chart. ``styles`` holds STYLES and ``ground``."""

    def __init__(self, size: Size, view: View, looks: Palette, styles: Mapping[str, Style]) -> None:
        self.size, self.view, self.looks, self.styles = size, view, looks, styles
        width, height = size
        # What has least to say goes first when there is little room.
        self.legend_rows = 2 if height >= 12 else 1 if height >= 7 else 0
        self.has_steps, self.has_axis = height >= 6, height >= 4
        self.rows = max(0, height - self.legend_rows - self.has_steps - self.has_axis)
        self.top = view.top(self.rows)
        self.gutter: list[str] = []
        if width >= ROOM_FOR_LABELS and self.has_axis:
            lines, foot = axis.gutter(self.top, self.rows)
            self.gutter = [*lines, foot]
        self.left = len(self.gutter[-1]) if self.gutter else 0
        """Columns that the byte axis takes."""
        plot = max(0, width - self.left)
        self.layout = slots(view.steps(), plot)
        self._parts = [view.shown.columns(slot) for slot in self.layout]
        self.columns = merge(self.layout, self._parts, plot)
        """The sample that each column stands for."""
        self._codes = [self._stacked(index) for index in range(plot)]
        self._cells = [looks.cells(codes) for codes in self._codes]
        self._outline: dict[int, dict[int, str]] = {}
        if view.behind.by_step:
            parts = [over(view, slot) for slot in self.layout]
            line = merge(self.layout, parts, plot)
            self._outline = outline.trace(line, self.top, self.rows, not view.other.by_step)
        self._phases = axis.phases(self.columns, self.layout)
        self._steps = axis.steps(self.layout, plot)
        self._here: int | None = None
        self._said: tuple[Sample | None, str] = (None, "")
        self._lines: dict[int, list[Cell]] = {}

    # What changes it.

    def advance(self, changed: set[int]) -> list[Region] | None:
        """Take in new samples of some steps; None if only another canvas can show them."""
        view = self.view
        if view.top(self.rows) != self.top or view.steps() != [s.step for s in self.layout]:
            return None
        rows = {self._row_of(value) for value in (view.predicted, view.capacity) if value}
        heights = {
            self.rows - 1 - row: self.line(self.rows - 1 - row) for row in rows - {self.rows}
        }
        for index, slot in enumerate(self.layout):
            if slot.step in changed:
                self._parts[index] = view.shown.columns(slot)
        before, self.columns = self.columns, merge(self.layout, self._parts, len(self.columns))
        differing = []
        for index, (old, new) in enumerate(zip(before, self.columns, strict=True)):
            if old is new:
                continue
            codes = self._stacked(index)
            if codes != self._codes[index]:
                differing.append((index, self._codes[index], codes))
                self._codes[index], self._cells[index] = codes, self.looks.cells(codes)
        found = [
            Region(self.left + x, y, width, height)
            for x, y, width, height in ranges(differing, self.rows)
        ]
        phases = self._phases
        self._phases = axis.phases(self.columns, self.layout)
        moved = [x for x, (a, b) in enumerate(zip(phases, self._phases, strict=True)) if a != b]
        if moved and self.has_axis:
            found.append(Region(self.left + moved[0], self.rows, moved[-1] - moved[0] + 1, 1))
        return self._again(found) + self._relabelled(heights)

    def _relabelled(self, before: Mapping[int, list[Cell]]) -> list[Region]:
        """Where lines across the plot differ: a new column may have moved their label away."""
        found = []
        for y, old in before.items():
            self._lines.pop(y, None)
            pairs = zip(old, self.line(y), strict=True)
            moved = [x for x, (one, other) in enumerate(pairs) if one != other]
            if moved:
                found.append(Region(moved[0], y, moved[-1] - moved[0] + 1, 1))
        return found

    def point(self, sample: Sample | None) -> list[Region]:
        """Move the cursor's line to a sample, or take it away."""
        before, self._here = self._here, self.column(sample)
        if before == self._here:
            return []
        height = self.rows + self.has_axis
        return self._again(
            [Region(self.left + x, 0, 1, height) for x in (before, self._here) if x is not None]
        )

    def say(self, sample: Sample | None, kind: str) -> list[Region]:
        """Have the legend speak of a moment."""
        if (sample, kind) == self._said:
            return []
        self._said = (sample, kind)
        width, height = self.size
        return self._again([Region(0, height - self.legend_rows, width, self.legend_rows)])

    def _again(self, regions: list[Region]) -> list[Region]:
        for region in regions:
            for y in range(region.y, region.bottom):
                self._lines.pop(y, None)
        return regions

    def column(self, sample: Sample | None) -> int | None:
        """The column that shows the sample, or the nearest of its step."""
        return column_of(self.columns, sample) if sample is not None else None

    # What it looks like.

    def line(self, y: int) -> list[Cell]:
        """One whole line of the widget, as wide as its size."""
        found = self._lines.get(y)
        if found is None:
            width = self.size.width
            found = self._line(y)[:width]
            found += [(" ", self.styles["ground"])] * (width - len(found))
            self._lines[y] = found
        return found

    def _line(self, y: int) -> list[Cell]:
        legend_row = y - (self.size.height - self.legend_rows)
        if y < self.rows:
            return self._plot_line(y)
        if legend_row >= 0:
            return self._legend_line(legend_row)
        if self.has_axis and y == self.rows:
            return self._axis_line()
        return self._text(" " * self.left + self._steps, "label")

    def _text(self, text: str, style: str) -> list[Cell]:
        look = self.styles[style]
        return [(character, look) for character in text]

    def _stacked(self, index: int) -> list[Code]:
        sample = self.columns[index]
        if sample is None:
            return [EMPTY] * self.rows
        codes = stack(bounds(values(sample), self.top, self.rows), self.rows)
        return lettered(codes, index) if self.looks.hatched else codes

    def _axis_line(self) -> list[Cell]:
        label, line = self.styles["label"], self.styles["axis"]
        foot = self.gutter[-1] if self.gutter else ""
        cells = [(char, line if char in "─┬┴┼" else label) for char in foot + self._phases]
        if self._here is not None:
            cells[self.left + self._here] = ("▲", self.styles["cursor"])
        return cells

    def _plot_line(self, y: int) -> list[Cell]:
        row = self.rows - 1 - y
        view = self.view
        codes = [column[row] for column in self._codes]
        cells = [column[row] for column in self._cells]
        for value, name, dash in (
            # What is predicted is of the plan, not of either of two runs that are compared.
            (None if view.other.by_step else view.predicted, "predicted", "┈"),
            (view.capacity, "capacity", "╌"),
        ):
            if value and row == self._row_of(value):
                self._draw_height(cells, codes, (name, dash, value), row)
        look = "overlay" if view.other.by_step else "stale" if view.stale else "foreseen"
        for column, character in self._outline.get(row, {}).items():
            # This run's own edge may be here too: within one cell the two agree.
            if not (0 < codes[column][0] < 8 and codes[column][2] < 0):
                over = self.looks.over(codes[column], character, self.styles[look])
                cells[column] = over
        if y == 0 and view.capacity and view.capacity > self.top:
            self._note(cells, codes, f"capacity {gib(view.capacity)} ↑")
        here = self._here
        if here is not None and not 0 < codes[here][0] < 8 and cells[here][0] in CROSSED:
            cells[here] = self.looks.over(codes[here], "│", self.styles["cursor"])
        if not self.gutter:
            return cells
        label = self.gutter[y]
        return [*self._text(label[:-1], "label"), *self._text(label[-1], "axis"), *cells]

    def _row_of(self, value: int) -> int:
        """The row in which so many bytes end, from the bottom; beyond the top there is none."""
        return (value * self.rows * 8 // self.top - 1) // 8 if value <= self.top else self.rows

    def _draw_height(
        self, cells: list[Cell], codes: Sequence[Code], what: tuple[str, str, int], row: int
    ) -> None:
        """A line across the plot with its label, over everything but the edges of bands."""
        name, dash, value = what
        taken = self._outline.get(row, {})
        free = [code == EMPTY and column not in taken for column, code in enumerate(codes)]
        labels = (f"{name} {gib(value)}", name, gib(value))
        for column, character in axis.line_text(free, dash, labels).items():
            if not 0 < codes[column][0] < 8:
                cells[column] = self.looks.over(codes[column], character, self.styles[name])

    def _note(self, cells: list[Cell], codes: Sequence[Code], text: str) -> None:
        """A note at the right end of the top row, if nothing is drawn there."""
        at = len(cells) - len(text)
        ends = zip(cells[at:], codes[at:], strict=True)
        if at >= 0 and all(cell[0] == " " and code == EMPTY for cell, code in ends):
            cells[at:] = self._text(text, "label")

    def _legend_line(self, index: int) -> list[Cell]:
        sample, kind = self._said
        width = self.size.width
        if index == 0 and self.legend_rows == 2:
            parts = legend.moment(sample, width, kind)
        else:
            parts = legend.categories(sample, width, self.looks.hatched)
        cells: list[Cell] = []
        for text, role, band in parts:
            cells += [self.looks.key(band)] if role == "key" else self._text(text, role)
        return cells


def over(view: View, slot: Slot) -> list[Column]:
    """The samples behind a run in a slot, phase over phase where both have the same ones."""
    samples, onto = (side.by_step.get(slot.step, []) for side in (view.behind, view.shown))
    moved = aligned(samples, onto) if slot.step != view.shown.open else None
    if moved is None:
        return view.behind.columns(slot)
    return peaks(moved, slot.columns, view.shown.span(slot.step), True)


def filled(columns: Sequence[Column]) -> list[int]:
    """The columns that stand for a sample."""
    return [index for index, sample in enumerate(columns) if sample is not None]
