"""A memory chart drawn for one size: cells of the plot, the axis, the steps and the legend.

It knows what changed: every method that changes it returns the regions to show again, so that
the widget has the terminal redraw nothing else. Another size, theme or scale is another canvas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.style import Style
from textual.geometry import Region, Size

from memwb.engine.protocol import Sample
from memwb.workbench.charts import axis, legend, overlays, window
from memwb.workbench.charts.bands import EMPTY, bounds, drawn, lettered, stack
from memwb.workbench.charts.inset import Moment
from memwb.workbench.charts.palette import HATCHES, Cell, Code, Palette
from memwb.workbench.charts.scale import gib
from memwb.workbench.charts.strips import ranges
from memwb.workbench.charts.timeline import column_of, merge, seen, slots
from memwb.workbench.charts.view import View
from memwb.workbench.charts.window import Window, extent

ROOM_FOR_LABELS = 24
"""Columns from which on the byte axis has labels."""
CROSSED = " ╌┈" + "".join(HATCHES)
"""What the cursor's line may take the place of; letters and edges stay."""
SHORT = {"predicted": "pred", "capacity": "cap"}
STYLES = (
    "axis",
    "label",
    "value",
    "capacity",
    "predicted",
    "foreseen",
    "stale",
    *overlays.ROLES,
    "cursor",
)


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
        self.total, self.first = extent(view.window, plot)
        """Columns of the whole axis, and the first of them that is seen."""
        self.whole = slots(view.steps(), plot, self.total)
        self._seen = seen(self.whole, self.first, plot)
        self.layout = [part.shown for part in self._seen]
        self._parts = [view.columns(part) for part in self._seen]
        self.columns = merge(self.layout, self._parts, plot, view.measure)
        """The sample that each column stands for."""
        self._codes = [self._stacked(index) for index in range(plot)]
        # Lines are asked for more often than columns change.
        columns = [looks.cells(codes) for codes in self._codes]
        self._grid = [list(row) for row in zip(*columns, strict=True)] or [
            [] for _ in range(self.rows)
        ]
        self.lines = [
            merge(self.layout, [view.over(line, part) for part in self._seen], plot, view.measure)
            for line in view.behind
        ]
        """The samples of each line behind it, by column."""
        self._outlines = overlays.outlines(view, self.lines, self.top, self.rows)
        self._tags = overlays.tags(view, self.lines, self.top, self.rows)
        self._phases = self._strip()
        self._steps = axis.steps(self.layout, plot)
        self._here: int | None = None
        self._moment: Moment | None = None
        self._box: overlays.Box | None = None
        self._said: tuple[Sample | None, str] = (None, "")
        self._lines: dict[int, list[Cell]] = {}

    def _strip(self) -> str:
        return axis.ends(axis.phases(self.columns, self.layout), self.total, self.first)

    # What changes it.

    def advance(self, changed: set[int]) -> list[Region] | None:
        """Take in new samples of some steps; None if only another canvas can show them."""
        view = self.view
        if view.top(self.rows) != self.top or view.steps() != [s.step for s in self.whole]:
            return None
        if self.lines and any(step != view.shown.open for step in changed):
            # A step that is over has what is behind it laid over it phase by phase.
            return None
        # What is beyond the top is noted in the top row.
        rows = {min(self.rows - 1, self._row_of(value)) for _, _, value in view.heights}
        heights = {self.rows - 1 - row: self.line(self.rows - 1 - row) for row in rows if row >= 0}
        for index, part in enumerate(self._seen):
            if part.slot.step in changed:
                self._parts[index] = view.columns(part)
        before = self.columns
        self.columns = merge(self.layout, self._parts, len(before), view.measure)
        differing = []
        for index, (old, new) in enumerate(zip(before, self.columns, strict=True)):
            if old is new:
                continue
            codes = self._stacked(index)
            if codes != self._codes[index]:
                differing.append((index, self._codes[index], codes))
                self._codes[index] = codes
                for row, cell in zip(self._grid, self.looks.cells(codes), strict=True):
                    row[index] = cell
        found = [
            Region(self.left + x, y, width, height)
            for x, y, width, height in ranges(differing, self.rows)
        ]
        phases = self._phases
        self._phases = self._strip()
        moved = [x for x, (a, b) in enumerate(zip(phases, self._phases, strict=True)) if a != b]
        if moved and self.has_axis:
            found.append(Region(self.left + moved[0], self.rows, moved[-1] - moved[0] + 1, 1))
        return self._again(found) + self._relabelled(heights)

    def _relabelled(self, before: Mapping[int, list[Cell]]) -> list[Region]:
        """Where lines differ from what they were; all of those that had not been drawn."""
        found = []
        for y, old in before.items():
            self._lines.pop(y, None)
            new = self.line(y)
            moved = [0, len(new) - 1]
            if old:
                pairs = enumerate(zip(old, new, strict=True))
                moved = [x for x, (one, other) in pairs if one != other]
            if moved and new:
                found.append(Region(moved[0], y, moved[-1] - moved[0] + 1, 1))
        return found

    def point(self, moment: Moment | None) -> list[Region]:
        """Move the cursor's line and box to a moment, or take them away."""
        column = self.column(moment.sample) if moment is not None else None
        if moment == self._moment and column == self._here:
            return []
        before, box = self._here, self._box
        self._moment, self._here = moment, column
        self._box = None
        if moment is not None and self._here is not None:
            self._box = overlays.box(self, moment, self._here)
        height = self.rows + self.has_axis
        found = [
            Region(self.left + x, 0, 1, height)
            for x in {before, self._here}
            if x is not None and before != self._here
        ]
        for each in (box, self._box):
            if each is not None:
                found.append(each.region)
                # The labels of lines keep out of its way.
                rows = (self.rows - 1 - self._row_of(value) for _, _, value in self.view.heights)
                width = len(self.columns)
                found += [
                    Region(self.left, max(0, y), width, 1) for y in rows if y < each.region.bottom
                ]
        return self._again(found)

    def say(self, sample: Sample | None, kind: str) -> list[Region]:
        """Have the legend speak of a moment."""
        if (sample, kind) == self._said:
            return []
        self._said = (sample, kind)
        height = self.size.height
        rows = self.legend_rows + (self.has_steps and self.legend_rows < 2)
        rows = rows if self.legend_rows else height
        # A burst tells of another moment all the time, and most of the words stay.
        return self._relabelled({y: self._lines.pop(y, []) for y in range(height - rows, height)})

    def _again(self, regions: list[Region]) -> list[Region]:
        for region in regions:
            for y in range(region.y, region.bottom):
                self._lines.pop(y, None)
        return regions

    def column(self, sample: Sample | None) -> int | None:
        """The column that shows the sample or the nearest of its step; None if it is not seen."""
        if sample is None:
            return None
        found = column_of(self.columns, sample)
        if found is None or self.columns[found] is sample or self.view.window.whole:
            return found
        # The nearest that is seen may be far from a moment that is not.
        place = self.place(sample)
        inside = place is not None and 0 <= place - self.first < len(self.columns)
        return found if inside else None

    def place(self, sample: Sample) -> int | None:
        """The column of the whole axis in whose time the sample is."""
        return self.view.shown.place(sample, self.whole)

    def zoomed(self, factor: float, column: int) -> Window:
        """Nearer or further away around a column; what happens in it stays in sight."""
        width, sample = len(self.columns), self.columns[column]
        near = window.zoomed(self.view.window, factor, width, column)
        if sample is None or self.place(sample) != self.first + column:
            return near
        total, _ = extent(near, width)
        place = self.view.shown.place(sample, slots(self.view.steps(), width, total))
        if place is None or near.whole:
            return near
        return Window(near.zoom, window.at(place - column, total, width).middle)

    # What the mouse is on.

    def under(self, x: int, y: int) -> Sample | None:
        """The sample of the column at a place of the widget, above or on its axis."""
        column = x - self.left
        inside = 0 <= y <= self.rows and 0 <= column < len(self.columns)
        return self.columns[column] if inside else None

    def band(self, x: int, y: int) -> int | None:
        """The band that the legend names at a place of the widget."""
        if not self.legend_rows or y != self.size.height - 1:
            return None
        return legend.band_at(self._categories(), x)

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
        if self._moment is not None and not self.legend_rows:
            # As long as it is pointed at, its bytes go before the axis, and before the top row.
            if y == min(self.rows, self.size.height - 1):
                return self.written(self._categories())
            if y == 0 and not self.has_steps:
                return self.written(legend.moment(self._moment.sample, self.size.width, ""))
        if y < self.rows:
            return self._plot_line(y)
        if y == self.size.height - 1 and self.legend_rows:
            return self.written(self._categories())
        if y == self.size.height - 2 and self.legend_rows == 2:
            return self._moment_line()
        if self.has_axis and y == self.rows:
            return self._axis_line()
        return self._steps_line()

    def text(self, text: str, style: str) -> list[Cell]:
        """Plain text in one style."""
        look = self.styles[style]
        return [(character, look) for character in text]

    def every_style(self) -> list[Style]:
        """Every colour that it is drawn with."""
        return [*self.styles.values(), *self.looks.styles()]

    def written(self, parts: Sequence[legend.Part]) -> list[Cell]:
        """Parts of a legend as cells."""
        cells: list[Cell] = []
        for text, role, band in parts:
            if role in legend.KEYS:
                cells.append(self.looks.key(band) if role == "key" else self.looks.off(band))
            else:
                cells += self.text(text, role)
        return cells

    def _stacked(self, index: int) -> list[Code]:
        sample = self.columns[index]
        if sample is None:
            return [EMPTY] * self.rows
        codes = stack(bounds(drawn(sample, self.view.hidden), self.top, self.rows), self.rows)
        return lettered(codes, index) if self.looks.hatched else codes

    def _axis_line(self) -> list[Cell]:
        label, line = self.styles["label"], self.styles["axis"]
        foot = self.gutter[-1] if self.gutter else ""
        cells = [(char, line if char in "─┬┴┼" else label) for char in foot + self._phases]
        if self._here is not None:
            cells[self.left + self._here] = ("▲", self.styles["cursor"])
        return cells

    def _steps_line(self) -> list[Cell]:
        """The steps; where the legend has no line for a moment, the cursor's."""
        width, cells = self.size.width, self.text(" " * self.left + self._steps, "label")
        if self.legend_rows == 2:
            return cells
        if self._moment is not None:
            return self.written(legend.moment(self._moment.sample, width, "", self.view.timed))
        if mark := self.view.marks(len(self.columns) - 1):
            cells[-len(mark) - 1 :] = self.text(f" {mark}", "value")
        return cells

    def _moment_line(self) -> list[Cell]:
        """What the legend speaks of, and at the right what of the chart is not seen."""
        (sample, kind), width = self._said, self.size.width
        mark = self.view.marks(width // 2)
        room = width - len(mark) - 2 if mark else width
        timed = self.view.timed and self._moment is not None
        cells = self.written(legend.moment(sample, room, kind, timed))
        gap = " " * (width - len(cells) - len(mark))
        return [*cells, *self.text(gap, "label"), *self.text(mark, "value")] if mark else cells

    def _categories(self) -> list[legend.Part]:
        hatched, hidden = self.looks.hatched, self.view.hidden
        return legend.categories(self._said[0], self.size.width, hatched, hidden)

    def _plot_line(self, y: int) -> list[Cell]:
        row = self.rows - 1 - y
        cells = self._grid[row].copy()
        outline, tags = self._outlines.get(row), self._tags.get(row)
        if outline or tags or self._crossed(row):
            self._draw_over(cells, row, outline or {}, tags or {})
        here = self._here
        if here is not None and cells[here][0] in CROSSED:
            code = self._codes[here][row]
            if not 0 < code[0] < 8:
                cells[here] = self.looks.over(code, "│", self.styles["cursor"])
        if self._box is not None and y in range(self._box.region.y, self._box.region.bottom):
            start = self._box.region.x - self.left
            part = self._box.lines[y - self._box.region.y]
            cells[start : start + len(part)] = part
        if not self.gutter:
            return cells
        label = self.gutter[y]
        return [*self.text(label[:-1], "label"), *self.text(label[-1], "axis"), *cells]

    def _row_of(self, value: int) -> int:
        """The row in which so many bytes end, from the bottom; beyond the top there is none."""
        return (value * self.rows * 8 // self.top - 1) // 8 if value <= self.top else self.rows

    def _crossed(self, row: int) -> list[tuple[str, str, int]]:
        """The lines that run through a row, and in the top row those that are beyond it."""
        top = row == self.rows - 1
        heights = self.view.heights
        return [h for h in heights if self._row_of(h[2]) == row or (top and h[2] > self.top)]

    def _draw_over(
        self, cells: list[Cell], row: int, outline: overlays.Line, tags: overlays.Line
    ) -> None:
        """What stands on the bands of a row."""
        codes = [column[row] for column in self._codes]
        # Two names side by side are read as one.
        named = {column + by for column in tags for by in (-1, 0, 1)}
        self._draw_heights(cells, codes, row, {*outline, *named})
        for column, (character, look) in outline.items():
            # This run's own edge may be here too: within one cell the two agree.
            if not (0 < codes[column][0] < 8 and codes[column][2] < 0):
                cells[column] = self.looks.over(codes[column], character, self.styles[look])
        for column, (character, look) in tags.items():
            cells[column] = self.looks.over(codes[column], character, self.styles[look])

    def _draw_heights(
        self, cells: list[Cell], codes: Sequence[Code], row: int, taken: set[int]
    ) -> None:
        """The lines that run through a row with their labels, over everything but edges."""
        crossed = self._crossed(row)
        if not crossed:
            return
        here = [each for each in crossed if each[2] <= self.top]
        beyond = [each for each in crossed if each[2] > self.top]
        if self._box is not None and self.rows - 1 - row < self._box.region.bottom:
            taken |= {x - self.left for x in self._box.region.column_range}
        free = [code == EMPTY and column not in taken for column, code in enumerate(codes)]
        # What is in one row is one line with two names.
        old = "~" if self.view.stale else ""
        names = [f"{old if each == 'predicted' else ''}{each} {gib(v)}" for each, _, v in here]
        names += [f"{name} {gib(value)} ↑" for name, _, value in beyond]
        if not here:
            short = [f"{gib(value)} ↑" for _, _, value in beyond]
            found, label = axis.line_text(free, " ", [*names, *short])
            for column in label:
                cells[column] = (found[column], self.styles["label"])
            return
        name, dash, value = here[-1]
        bytes_too = f"{SHORT[name]} {gib(value)}"
        brief = [each for each, _, _ in here]
        labels = (" · ".join(names), names[0], bytes_too, " · ".join(brief), brief[-1], SHORT[name])
        edges = [0 < code[0] < 8 or column in taken for column, code in enumerate(codes)]
        found, label = axis.line_text(free, dash, labels, edges)
        for column, character in found.items():
            if column in label or not 0 < codes[column][0] < 8:
                cells[column] = self.looks.over(codes[column], character, self.styles[name])
