"""Memory over a burst, stacked by category: a widget that draws only the columns that changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from memwb.engine.protocol import Sample
from memwb.workbench.charts import axis, legend, outline
from memwb.workbench.charts.bands import EMPTY, bounds, lettered, stack, values
from memwb.workbench.charts.palette import Cell, Code, Palette, palette
from memwb.workbench.charts.scale import byte_top, gib
from memwb.workbench.charts.strips import joined, ranges
from memwb.workbench.charts.timeline import Column, Slot, Timeline, column_of, merge, slots

NEAR = 1.6
"""The capacity is drawn to scale while the peak is at least this part of it; else it is noted."""


class StackedChart(Widget, can_focus=True):
    """A stacked area of memory by category over the samples of a burst.

    Works at any size: what has no room (axis, legend, labels) is left out. ``cursor`` is the
    sample under the mouse or the keyboard's cursor; a ``Cursor`` message tells every change.
    """

    DEFAULT_CSS = """
    StackedChart {
        height: 1fr;
        width: 1fr;
        & .stacked-chart--axis { color: $foreground 45%; }
        & .stacked-chart--label { color: $foreground 70%; }
        & .stacked-chart--value { color: $foreground; text-style: bold; }
        & .stacked-chart--capacity { color: $error; }
        & .stacked-chart--predicted { color: $warning; }
        & .stacked-chart--overlay { color: $foreground; }
        & .stacked-chart--cursor { color: $foreground; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "stacked-chart--axis",
        "stacked-chart--label",
        "stacked-chart--value",
        "stacked-chart--capacity",
        "stacked-chart--predicted",
        "stacked-chart--overlay",
        "stacked-chart--cursor",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Earlier", show=False),
        Binding("right", "move(1)", "Later", show=False),
        Binding("shift+left", "move(-10)", "Ten earlier", show=False),
        Binding("shift+right", "move(10)", "Ten later", show=False),
        Binding("home", "edge(-1)", "First sample", show=False),
        Binding("end", "edge(1)", "Last sample", show=False),
        Binding("k", "peak", "To the peak", show=False),
        Binding("escape", "release", "Cursor off", show=False),
        Binding("p", "freeze", "Freeze", show=False),
    ]

    capacity: reactive[int | None] = reactive(None, init=False)
    """Bytes that the device has: a dashed line when it is within reach of the peak."""
    predicted: reactive[int | None] = reactive(None, init=False)
    """Bytes of the predicted peak: a dotted line."""
    frozen: reactive[bool] = reactive(False, init=False)
    """While true new samples are kept but not shown."""
    resting: reactive[str] = reactive("peak", init=False)
    """The moment of the legend while there is no cursor: ``peak`` or ``latest``."""

    class Cursor(Message):
        """The cursor stands on another sample, or on none."""

        def __init__(self, chart: StackedChart, sample: Sample | None) -> None:
            super().__init__()
            self.chart = chart
            self.sample = sample

        @property
        def control(self) -> StackedChart:
            """The chart."""
            return self.chart

    def __init__(
        self,
        samples: Sequence[Sample] = (),
        *,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._live = Timeline(samples)
        self._shown = self._live
        self._other = Timeline()
        self._key: Sample | None = None
        self._hover: Sample | None = None
        self._told: Sample | None = None
        self._forget()

    # What it shows.

    def set_samples(self, samples: Sequence[Sample], steps: Iterable[int] = ()) -> None:
        """Show a whole burst. ``steps`` are those still to come: their room is kept free."""
        self._live = Timeline(samples, steps)
        self._key = self._hover = None
        if not self.frozen:
            self._shown = self._live
        self._rebuild()

    def append(self, samples: Sequence[Sample]) -> None:
        """Add the newest samples; only what they change is drawn again."""
        changed = self._live.append(samples)
        if not self.frozen and changed:
            self._advance(changed)

    def replace_step(self, step: int, samples: Sequence[Sample]) -> None:
        """Put the exact samples of a finished step in the place of its live ones."""
        self._live.replace(step, samples)
        if not self.frozen:
            self._advance({step})

    @property
    def overlay(self) -> Sequence[Sample]:
        """Another run's samples, whose total is drawn as an outline, step over step."""
        return [sample for part in self._other.by_step.values() for sample in part]

    @overlay.setter
    def overlay(self, samples: Sequence[Sample]) -> None:
        self._other = Timeline(samples)
        self._rebuild()

    @property
    def cursor(self) -> Sample | None:
        """The sample under the mouse, else under the keyboard's cursor, else None."""
        return self._hover or self._key

    @property
    def columns(self) -> Sequence[Column]:
        """The sample that each column of the plot stands for."""
        self._ensure()
        return self._columns

    # Reactions.

    def watch_capacity(self) -> None:
        """The scale may change."""
        self._rebuild()

    def watch_predicted(self) -> None:
        """The scale may change."""
        self._rebuild()

    def watch_frozen(self, frozen: bool) -> None:
        """Hold what is shown, or catch up."""
        self._shown = self._live.copy() if frozen else self._live
        self._rebuild()

    def notify_style_update(self) -> None:
        """Another theme: the styles are looked up again."""
        super().notify_style_update()
        self._forget()

    def on_resize(self) -> None:
        """Another size is another chart."""
        self._rebuild()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The cursor follows the mouse."""
        offset = event.get_content_offset(self)
        column = offset.x - self._gutter_width if offset is not None else -1
        inside = offset is not None and offset.y <= self._rows and 0 <= column < len(self._columns)
        self._point(hover=self._columns[column] if inside else None)

    def on_leave(self) -> None:
        """The mouse is gone; the keyboard's cursor shows again."""
        self._point(hover=None)

    def on_click(self) -> None:
        """The cursor stays where the mouse was pressed."""
        if self._hover is not None:
            self._point(key=self._hover)

    def action_move(self, columns: int) -> None:
        """Move the cursor by columns; from the peak if there is none."""
        self._ensure()
        filled = [index for index, column in enumerate(self._columns) if column is not None]
        here = self._column(self._key or self._shown.peak)
        if here is None or not filled:
            return
        near = min(range(len(filled)), key=lambda index: abs(filled[index] - here))
        there = near + columns if self._key is not None else near
        self._point(key=self._columns[filled[max(0, min(len(filled) - 1, there))]])

    def action_edge(self, side: int) -> None:
        """Move the cursor to the first (−1) or the last (1) sample shown."""
        self._ensure()
        filled = [column for column in self._columns if column is not None]
        if filled:
            self._point(key=filled[0 if side < 0 else -1])

    def action_peak(self) -> None:
        """Move the cursor to the moment of the most allocated bytes."""
        self._point(key=self._shown.peak)

    def action_release(self) -> None:
        """Take the cursor away."""
        self._point(key=None, hover=None)

    def action_freeze(self) -> None:
        """Hold the chart still, or let it go on."""
        self.frozen = not self.frozen

    def _point(self, **to: Sample | None) -> None:
        """Set the keyboard's cursor or the mouse's, redraw the two columns, and tell."""
        before = self._column(self.cursor)
        self._key = to.get("key", self._key)
        self._hover = to.get("hover", self._hover)
        after = self._column(self.cursor)
        if before != after and self._built is not None:
            for column in (before, after):
                if column is not None:
                    x = self._gutter_width + column
                    self.refresh(Region(x, 0, 1, min(self.size.height, self._rows + 1)))
        self._refresh_legend()
        self._tell()

    def _tell(self) -> None:
        if self.cursor is not self._told:
            self._told = self.cursor
            self.post_message(self.Cursor(self, self.cursor))

    # Layout: what depends on the samples and the size, kept until they change.

    def _forget(self) -> None:
        self._built: Size | None = None
        self._looks: Palette | None = None
        self._layout: tuple[Slot, ...] = ()
        self._parts: list[list[Column]] = []
        self._columns: list[Column] = []
        self._codes: list[list[Code]] = []
        self._top = 1
        self._rows = 0
        self._gutter_width = 0
        self._gutter: list[str] = []
        self._outline: dict[int, dict[int, str]] = {}
        self._texts: list[str] = []

    def _rebuild(self) -> None:
        self._forget()
        self.refresh()
        self._settle()

    def _settle(self) -> None:
        """Bring cursors onto samples that are still there, and tell when they moved."""
        if self._key is None and self._hover is None:
            self._tell()
            return
        self._ensure()
        self._key, self._hover = self._kept(self._key), self._kept(self._hover)
        self._tell()

    def _kept(self, sample: Sample | None) -> Sample | None:
        if sample is None:
            return None
        held = self._shown.by_step.get(sample.step, ())
        if any(sample is one for one in held):
            return sample
        column = self._column(sample)
        return self._columns[column] if column is not None else None

    def _ensure(self) -> None:
        size = self.size
        if self._built == size:
            return
        self._forget()
        self._built = size
        width, height = size
        below = (2 if height >= 12 else 1 if height >= 7 else 0, height >= 6, height >= 4)
        self._legend_rows = below[0]
        self._rows = max(0, height - below[0] - below[1] - below[2])
        self._below = below
        if width <= 0 or self._rows <= 0:
            return
        self._top = self._wanted_top()
        if width >= 24 and below[2]:
            self._gutter, foot = axis.gutter(self._top, self._rows)
            self._gutter.append(foot)
            self._gutter_width = len(foot)
        plot = width - self._gutter_width
        self._layout = slots(self._steps(), plot)
        self._parts = [self._shown.columns(slot) for slot in self._layout]
        self._columns = merge(self._layout, self._parts, plot)
        self._codes = [self._stacked(index) for index in range(plot)]
        self._trace()

    def _steps(self) -> list[int]:
        return sorted({*self._shown.steps(), *self._other.by_step})

    def _wanted_top(self) -> int:
        peak = max((one.allocated for one in (self._shown.peak, self._other.peak) if one), default=0)
        peak = max(peak, self.predicted or 0)
        if self.capacity and peak and self.capacity <= peak * NEAR:
            peak = max(peak, self.capacity)
        return byte_top(peak or self.capacity or 2**30, self._rows)

    def _stacked(self, index: int) -> list[Code]:
        sample = self._columns[index]
        if sample is None:
            return [EMPTY] * self._rows
        codes = stack(bounds(values(sample), self._top, self._rows), self._rows)
        return lettered(codes, index) if self._palette.hatched else codes

    def _trace(self) -> None:
        """The other run's outline, over this run's slots."""
        if self._other.by_step:
            parts = [self._other.columns(slot) for slot in self._layout]
            line = merge(self._layout, parts, len(self._columns))
            self._outline = outline.trace(line, self._top, self._rows)

    def _advance(self, changed: set[int]) -> None:
        """Draw what new samples changed: columns, the axis, the legend."""
        if self._built is None or self._built != self.size or not self._codes:
            self._rebuild()
            return
        if self._wanted_top() != self._top or self._steps() != [s.step for s in self._layout]:
            self._rebuild()
            return
        for index, slot in enumerate(self._layout):
            if slot.step in changed:
                self._parts[index] = self._shown.columns(slot)
        before, codes = self._columns, self._codes
        self._columns = merge(self._layout, self._parts, len(before))
        differing = []
        for index, (old, new) in enumerate(zip(before, self._columns, strict=True)):
            if old is not new:
                fresh = self._stacked(index)
                if fresh != codes[index]:
                    codes[index], old_codes = fresh, codes[index]
                    differing.append((index, old_codes, fresh))
        for x, y, width, height in ranges(differing, self._rows):
            self.refresh(Region(self._gutter_width + x, y, width, height))
        if differing or before != self._columns:
            self._texts = []
            self.refresh(Region(0, self._rows, self.size.width, 1))
        self._refresh_legend()
        self._settle()

    def _refresh_legend(self) -> None:
        if self._built is not None and self._legend_rows:
            height = self.size.height
            rows = self._legend_rows
            self.refresh(Region(0, height - rows, self.size.width, rows))

    def _column(self, sample: Sample | None) -> int | None:
        return column_of(self._columns, sample) if sample is not None else None

    # Drawing.

    @property
    def _palette(self) -> Palette:
        if self._looks is None:
            ground = self.rich_style.bgcolor
            self._looks = palette(
                dark=self.app.current_theme.dark,
                ansi=self.app.native_ansi_color,
                colours=not self.app.no_color,
                ground=ground.name if ground else "default",
            )
        return self._looks

    def _look(self, name: str) -> Style:
        return self.get_component_rich_style(f"stacked-chart--{name}")

    def render_line(self, y: int) -> Strip:
        """One line: a row of the plot, the axis, the steps, or the legend."""
        self._ensure()
        width, height = self.size
        legend_rows, has_steps, has_axis = self._below
        if y < self._rows:
            return self._plot_line(y)
        if y >= height - legend_rows:
            return self._legend_line(y - (height - legend_rows), width)
        if not self._texts:
            self._texts = [
                axis.phases(self._columns, self._layout),
                axis.steps(self._layout, len(self._columns)),
            ]
        label, line = self._look("label"), self._look("axis")
        if has_axis and y == self._rows:
            head = [Segment(self._gutter[-1][:-1], label), Segment(self._gutter[-1][-1:], line)]
            strip = self._axis_cells(self._texts[0], label, line)
            return Strip([*(head if self._gutter else []), *strip], width)
        if has_steps:
            text = " " * self._gutter_width + self._texts[1]
            return Strip([Segment(text, label)], width)
        return Strip.blank(width, self.rich_style)

    def _axis_cells(self, text: str, label: Style, line: Style) -> list[Segment]:
        cells: list[Cell] = [(char, line if char in "─┬┴" else label) for char in text]
        column = self._column(self.cursor)
        if column is not None:
            cells[column] = ("▲", self._look("cursor"))
        return joined(cells)

    def _plot_line(self, y: int) -> Strip:
        row = self._rows - 1 - y
        looks = self._palette
        codes = [column[row] for column in self._codes]
        cells = [looks.cell(code) for code in codes]
        for value, name, dash in (
            (self.predicted, "predicted", "┈"),
            (self.capacity, "capacity", "╌"),
        ):
            if value and row == self._row_of(value):
                self._draw_line(cells, codes, name, dash, value)
        if self._outline:
            style = self._look("overlay")
            for column, character in self._outline.get(row, {}).items():
                if 0 < codes[column][0] < 8 and codes[column][2] < 0:
                    # This run's own edge is here too: within one cell the two agree.
                    continue
                cells[column] = looks.over(codes[column], character, style)
        if y == 0 and self.capacity and self.capacity > self._top:
            self._note(cells, codes, f"capacity {gib(self.capacity)} ↑")
        here = self._column(self.cursor)
        # Edges and labels stay readable: the cursor runs through open ground and full bands.
        if here is not None and codes[here][0] in (0, 8, 9) and cells[here][0] in " ╌┈▓░█╱▒·":
            cells[here] = looks.over(codes[here], "│", self._look("cursor"))
        segments = joined(cells)
        if self._gutter:
            label = self._gutter[y]
            line = self._look("axis")
            segments = [Segment(label[:-1], self._look("label")), Segment(label[-1], line), *segments]
        return Strip(segments, self.size.width)

    def _row_of(self, value: int) -> int:
        return min(self._rows, max(0, (value * self._rows * 8 // self._top - 1) // 8))

    def _draw_line(
        self, cells: list[Cell], codes: list[Code], name: str, dash: str, value: int
    ) -> None:
        style = self._look(name)
        free = [code == EMPTY for code in codes]
        labels = (f"{name} {gib(value)}", name, gib(value))
        for column, character in axis.line_text(free, dash, labels).items():
            if codes[column][0] in (0, 8, 9):
                cells[column] = self._palette.over(codes[column], character, style)

    def _note(self, cells: list[Cell], codes: list[Code], text: str) -> None:
        """A note at the right end of the top row, if nothing is drawn there."""
        at = len(cells) - len(text)
        if at >= 0 and all(cells[column][0] == " " and codes[column] == EMPTY
                           for column in range(at, len(cells))):
            style = self._look("label")
            cells[at:] = [(character, style) for character in text]

    def _legend_line(self, index: int, width: int) -> Strip:
        sample = self.cursor
        kind = "cursor"
        if sample is None:
            latest = self.resting == "latest"
            sample = self._shown.last if latest else self._shown.peak
            kind = "latest" if latest else "peak"
        if self.frozen:
            kind += " · frozen"
        looks = self._palette
        if index == 0 and self._legend_rows == 2:
            parts = legend.moment(sample, width, kind)
        else:
            parts = legend.categories(sample, width, looks.hatched)
        label, value = self._look("label"), self._look("value")
        segments = []
        for text, role, band in parts:
            if role == "key":
                segments.append(Segment(*looks.key(band)))
            else:
                segments.append(Segment(text, value if role == "value" else label))
        return Strip(segments).adjust_cell_length(width, self.rich_style)
