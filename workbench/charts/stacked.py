"""Memory over a burst, stacked by category: a widget that draws only the columns that changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.app import ComposeResult
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


SLICES = 6
"""Textual writes a changed line from the start of its widget. A chart in slices writes less for a
new column; more slices cost more when all of it is drawn."""


class Slice(Widget):
    """Some columns of the chart, drawn by the chart."""

    DEFAULT_CSS = "Slice { width: 1fr; height: 100%; background: transparent; }"

    def __init__(self, chart: StackedChart) -> None:
        super().__init__()
        self.chart = chart
        self.pieces: dict[int, Strip] = {}
        """Finished lines; the chart takes away those that changed."""
        self._span = (0, 0)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Pieces of the chart's lines.

        A slice has no borders or padding, so it goes past Textual's styling of every line, which
        would cost more than drawing them.
        """
        place = self.virtual_region
        span = (place.x, place.right)
        if span != self._span or not self.chart.current:
            self._span = span
            self.pieces.clear()
        filters = self.get_line_filters()
        ground = self.background_colors[1]
        found = []
        for y in crop.line_range:
            strip = self.pieces.get(y)
            if strip is None:
                strip = Strip(joined(self.chart.cells(y)[slice(*span)]), place.width)
                for change in filters:
                    strip = strip.apply_filter(change, ground)
                self.pieces[y] = strip
            found.append(strip)
        if crop.column_span != (0, place.width):
            found = [strip.crop(*crop.column_span) for strip in found]
        return found


class StackedChart(Widget, can_focus=True):
    """A stacked area of memory by category over the samples of a burst.

    Works at any size: what has no room (axis, legend, labels) is left out. ``cursor`` is the
    sample under the mouse or the keyboard's cursor; a ``Cursor`` message tells every change.
    """

    DEFAULT_CSS = """
    StackedChart {
        height: 1fr;
        width: 1fr;
        layout: horizontal;
        overflow: hidden;
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

    def compose(self) -> ComposeResult:
        """The slices that show it."""
        for _ in range(SLICES):
            yield Slice(self)

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
        self._redraw()

    def on_resize(self) -> None:
        """Another size is another chart."""
        self._rebuild()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The cursor follows the mouse."""
        offset = event.screen_offset - self.content_region.offset
        column = offset.x - self._gutter_width
        inside = 0 <= offset.y <= self._rows and 0 <= column < len(self._columns)
        self._point(hover=self._columns[column] if inside else None)

    def on_leave(self) -> None:
        """The mouse is gone; the keyboard's cursor shows again."""
        # Leaving one slice for the next is not leaving.
        if not self.is_mouse_over:
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
        self._ensure()
        before = self._here
        self._key = to.get("key", self._key)
        self._hover = to.get("hover", self._hover)
        if self.cursor is self._told:
            return
        self._here = self._column(self.cursor)
        for column in {before, self._here} - {None}:
            self._redraw(Region(self._gutter_width + (column or 0), 0, 1, self._rows + 1))
        self._redraw_legend()
        self._tell()

    def _tell(self) -> None:
        if self.cursor is not self._told:
            self._told = self.cursor
            self.post_message(self.Cursor(self, self.cursor))

    # Layout: what depends on the samples and the size, kept until they change.

    def _forget(self) -> None:
        self._built: Size | None = None
        self._size = Size(0, 0)
        self._styles: dict[str, Style] = {}
        self._looks: Palette | None = None
        self._legend_rows = 0
        self._below = (0, False, False)
        self._layout: tuple[Slot, ...] = ()
        self._parts: list[list[Column]] = []
        self._columns: list[Column] = []
        self._codes: list[list[Code]] = []
        self._cells: list[list[Cell]] = []
        self._here: int | None = None
        self._lines: dict[int, list[Cell]] = {}
        self._top = 1
        self._rows = 0
        self._gutter_width = 0
        self._gutter: list[str] = []
        self._outline: dict[int, dict[int, str]] = {}
        self._texts: list[str] = []

    def _rebuild(self) -> None:
        self._forget()
        self._redraw()
        self._settle()

    def _redraw(self, region: Region | None = None) -> None:
        """Have a region of the chart drawn again, or all of it."""
        if region is None:
            self._lines.clear()
        else:
            for y in range(region.y, region.bottom):
                self._lines.pop(y, None)
        for part in self.query_children(Slice):
            span = part.virtual_region
            if region is None:
                part.pieces.clear()
                part.refresh()
            elif region.x < span.right and span.x < region.right:
                inside = region.intersection(span)
                for y in range(inside.y, inside.bottom):
                    part.pieces.pop(y, None)
                part.refresh(inside.translate((-span.x, -span.y)))

    def _settle(self) -> None:
        """Bring cursors onto samples that are still there, and tell when they moved."""
        if self._key is None and self._hover is None:
            self._tell()
            return
        self._ensure()
        self._key, self._hover = self._kept(self._key), self._kept(self._hover)
        self._here = self._column(self.cursor)
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
        self._built = self._size = size
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
        looks = self._palette
        self._codes = [self._stacked(index) for index in range(plot)]
        self._cells = [looks.cells(codes) for codes in self._codes]
        self._here = self._column(self.cursor)
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
                    differing.append((index, codes[index], fresh))
                    codes[index] = fresh
                    self._cells[index] = self._palette.cells(fresh)
        for x, y, width, height in ranges(differing, self._rows):
            self._redraw(Region(self._gutter_width + x, y, width, height))
        self._redraw_axis()
        self._redraw_legend()
        self._settle()

    def _redraw_axis(self) -> None:
        """Have the strip of phases drawn again where it changed."""
        if not self._texts:
            return
        old, self._texts = self._texts, []
        new = self._lines_below()[0]
        differing = [x for x, (a, b) in enumerate(zip(old[0], new, strict=True)) if a != b]
        if differing:
            x, right = differing[0], differing[-1] + 1
            self._redraw(Region(self._gutter_width + x, self._rows, right - x, 1))

    def _lines_below(self) -> list[str]:
        """The strip of phases and the row of steps."""
        if not self._texts:
            self._texts = [
                axis.phases(self._columns, self._layout),
                axis.steps(self._layout, len(self._columns)),
            ]
        return self._texts

    def _redraw_legend(self) -> None:
        """Have the legend drawn again if it says something else now."""
        rows = self._legend_rows
        width, height = self.size
        for index in range(rows):
            y = height - rows + index
            held = self._lines.pop(y, None)
            if held is None or held != self.cells(y):
                self._redraw(Region(0, y, width, 1))

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
        style = self._styles.get(name)
        if style is None:
            part = f"stacked-chart--{name}"
            style = self.rich_style if name == "ground" else self.get_component_rich_style(part)
            self._styles[name] = style
        return style

    @property
    def current(self) -> bool:
        """The layout fits the size; asking makes it so."""
        was = self._built == self.size
        self._ensure()
        return was

    def cells(self, y: int) -> list[Cell]:
        """One whole line: a row of the plot, the axis, the steps, or the legend."""
        found = self._lines.get(y)
        if found is None:
            width, height = self._size
            found = self._line(y, height)[:width]
            found += [(" ", self._look("ground"))] * (width - len(found))
            self._lines[y] = found
        return found

    def _line(self, y: int, height: int) -> list[Cell]:
        legend_rows, has_steps, has_axis = self._below
        if y < self._rows:
            return self._plot_line(y)
        if y >= height - legend_rows:
            return self._legend_line(y - (height - legend_rows))
        texts = self._lines_below()
        label = self._look("label")
        if has_axis and y == self._rows:
            return self._axis_line(texts[0])
        if has_steps:
            return [(char, label) for char in " " * self._gutter_width + texts[1]]
        return []

    def _axis_line(self, text: str) -> list[Cell]:
        label, line = self._look("label"), self._look("axis")
        foot = self._gutter[-1] if self._gutter else ""
        cells = [(char, line if char in "─┬┴┼" else label) for char in foot + text]
        if self._here is not None:
            cells[len(foot) + self._here] = ("▲", self._look("cursor"))
        return cells

    def _plot_line(self, y: int) -> list[Cell]:
        row = self._rows - 1 - y
        looks = self._palette
        codes = [column[row] for column in self._codes]
        cells = [column[row] for column in self._cells]
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
        here = self._here
        # Edges and labels stay readable: the cursor runs through open ground and full bands.
        if here is not None and codes[here][0] in (0, 8, 9) and cells[here][0] in " ╌┈▓░█╱▒·":
            cells[here] = looks.over(codes[here], "│", self._look("cursor"))
        if self._gutter:
            text = self._gutter[y]
            label, line = self._look("label"), self._look("axis")
            cells = [*((char, label) for char in text[:-1]), (text[-1], line), *cells]
        return cells

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

    def _legend_line(self, index: int) -> list[Cell]:
        sample = self.cursor
        kind = "cursor"
        if sample is None:
            latest = self.resting == "latest"
            sample = self._shown.last if latest else self._shown.peak
            kind = "latest" if latest else "peak"
        if self.frozen:
            kind += " · frozen"
        looks = self._palette
        width = self._size.width
        if index == 0 and self._legend_rows == 2:
            parts = legend.moment(sample, width, kind)
        else:
            parts = legend.categories(sample, width, looks.hatched)
        label, value = self._look("label"), self._look("value")
        cells: list[Cell] = []
        for text, role, band in parts:
            if role == "key":
                cells.append(looks.key(band))
            else:
                style = value if role == "value" else label
                cells += [(char, style) for char in text]
        return cells
