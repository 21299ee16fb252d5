"""Memory over a burst, stacked by category: a widget that draws only the columns that changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from memwb.engine.protocol import Sample
from memwb.workbench.charts.canvas import STYLES, Canvas, View, filled
from memwb.workbench.charts.palette import Palette, palette
from memwb.workbench.charts.strips import joined
from memwb.workbench.charts.timeline import Column, Timeline

SLICES = 4
"""Textual writes a changed line from the start of its widget. A chart in slices writes less for a
new column; more slices cost more when all of it is drawn."""


class Slice(Widget):
    """Some columns of the chart, drawn by the chart."""

    DEFAULT_CSS = "Slice { width: 1fr; height: 100%; background: transparent; }"

    def __init__(self, chart: StackedChart) -> None:
        super().__init__()
        self.chart = chart
        self._pieces: dict[int, Strip] = {}
        self._drawn: tuple[Canvas, Region] | None = None

    def again(self, region: Region) -> None:
        """Show a region of the chart again, as far as it is in this slice."""
        place = self.virtual_region
        inside = region.intersection(place)
        if inside:
            for y in range(inside.y, inside.bottom):
                self._pieces.pop(y, None)
            self.refresh(inside.translate((-place.x, -place.y)))

    def render_lines(self, crop: Region) -> list[Strip]:
        """Pieces of the chart's lines.

        A slice has no borders or padding, so it goes past Textual's styling of every line, which
        would cost more than drawing them.
        """
        canvas, place = self.chart.canvas, self.virtual_region
        if self._drawn is None or self._drawn[0] is not canvas or self._drawn[1] != place:
            self._drawn = (canvas, place)
            self._pieces.clear()
        filters = self.get_line_filters()
        ground = self.background_colors[1]
        found = []
        for y in crop.line_range:
            strip = self._pieces.get(y)
            if strip is None:
                cells = canvas.line(y)[place.x : place.right]
                segments = joined(cells)
                for change in filters:
                    segments = change.apply(segments, ground)
                self._pieces[y] = strip = Strip(segments, len(cells))
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
        & .stacked-chart--foreseen { color: $warning; }
        & .stacked-chart--stale { color: $foreground 30%; }
        & .stacked-chart--overlay { color: $foreground; }
        & .stacked-chart--cursor { color: $foreground; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"stacked-chart--{name}" for name in STYLES}
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
    foretold: reactive[bool] = reactive(False, init=False)
    """Whether the samples are predicted ones: they are drawn hatched, and the legend says so."""
    stale: reactive[bool] = reactive(False, init=False)
    """Whether what is predicted is that of an earlier plan."""
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
        self._foreseen = Timeline()
        self._key: Sample | None = None
        self._hover: Sample | None = None
        self._told: Sample | None = None
        self._canvas: Canvas | None = None

    def compose(self) -> ComposeResult:
        """The slices that show it."""
        for _ in range(SLICES):
            yield Slice(self)

    # What it shows.

    def set_samples(self, samples: Sequence[Sample], steps: Iterable[int] = ()) -> None:
        """Show a whole burst. ``steps`` says that it still goes on, and the steps that will come:
        their room is kept free."""
        self._live = Timeline(samples, steps)
        if self._live.expected and samples:
            self._live.open = samples[-1].step
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
    def foreseen(self) -> Sequence[Sample]:
        """Predicted samples, whose total is drawn as a dotted line behind the run's."""
        return [sample for part in self._foreseen.by_step.values() for sample in part]

    @foreseen.setter
    def foreseen(self, samples: Sequence[Sample]) -> None:
        self._foreseen = Timeline(samples)
        self._rebuild()

    @property
    def cursor(self) -> Sample | None:
        """The sample under the mouse, else under the keyboard's cursor, else None."""
        return self._hover or self._key

    @property
    def columns(self) -> Sequence[Column]:
        """The sample that each column of the plot stands for."""
        return self.canvas.columns

    @property
    def canvas(self) -> Canvas:
        """The chart as it is drawn now."""
        size = self.size
        if self._canvas is None or self._canvas.size != size:
            view = View(
                self._shown,
                self._other,
                self.capacity,
                self.predicted,
                self._foreseen,
                self.stale,
            )
            styles = {
                name: self.get_component_rich_style(f"stacked-chart--{name}") for name in STYLES
            }
            styles["ground"] = self.rich_style
            self._canvas = Canvas(size, view, self._palette(), styles)
            self._canvas.point(self.cursor)
            self._canvas.say(*self._moment())
        return self._canvas

    def _palette(self) -> Palette:
        ground = self.rich_style.bgcolor
        return palette(
            dark=self.app.current_theme.dark,
            ansi=self.app.native_ansi_color,
            colours=not self.app.no_color,
            ground=ground.name if ground else "default",
            faint=self.foretold,
        )

    def _moment(self) -> tuple[Sample | None, str]:
        """What the legend speaks of, and what to call it."""
        frozen = " · frozen" if self.frozen else ""
        if self.foretold and self.cursor is None:
            return self._shown.peak, f"predicted peak{frozen}"
        if self.cursor is not None:
            return self.cursor, f"cursor{frozen}"
        if self.resting == "latest":
            return self._shown.last, f"latest{frozen}"
        return self._shown.peak, f"peak{frozen}"

    # Reactions.

    def watch_capacity(self) -> None:
        """The scale may change."""
        self._rebuild()

    def watch_predicted(self) -> None:
        """The scale may change."""
        self._rebuild()

    def watch_foretold(self) -> None:
        """Other looks."""
        self._rebuild()

    def watch_stale(self) -> None:
        """Other looks."""
        self._rebuild()

    def watch_frozen(self, frozen: bool) -> None:
        """Hold what is shown, or catch up."""
        self._shown = self._live.copy() if frozen else self._live
        self._rebuild()

    def watch_resting(self) -> None:
        """The legend speaks of another moment."""
        self._again(self.canvas.say(*self._moment()))

    def notify_style_update(self) -> None:
        """Another theme is another chart."""
        super().notify_style_update()
        self._canvas = None
        self._again([self.size.region])

    def on_resize(self) -> None:
        """Another size is another chart."""
        self._rebuild()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The cursor follows the mouse."""
        self._point(hover=self._under(event))

    def _under(self, event: events.MouseEvent) -> Sample | None:
        """The sample of the column that the mouse is on."""
        # Events come from the slices: only the place on the screen means the same to all.
        offset = event.screen_offset - self.content_region.offset
        canvas = self.canvas
        column = offset.x - canvas.left
        inside = 0 <= offset.y <= canvas.rows and 0 <= column < len(canvas.columns)
        return canvas.columns[column] if inside else None

    def on_leave(self) -> None:
        """The mouse is gone; the keyboard's cursor shows again."""
        # Leaving one slice for the next is not leaving.
        if not self.is_mouse_over:
            self._point(hover=None)

    def on_click(self, event: events.Click) -> None:
        """The cursor stays where the mouse was pressed."""
        sample = self._under(event)
        if sample is not None:
            self._point(key=sample)

    def action_move(self, columns: int) -> None:
        """Move the cursor by columns; the first press puts it on the peak."""
        canvas = self.canvas
        places = filled(canvas.columns)
        here = canvas.column(self._key or self._shown.peak)
        if here is None or not places:
            return
        near = min(range(len(places)), key=lambda index: abs(places[index] - here))
        there = near + columns if self._key is not None else near
        self._point(key=canvas.columns[places[max(0, min(len(places) - 1, there))]])

    def action_edge(self, side: int) -> None:
        """Move the cursor to the first (−1) or the last (1) sample shown."""
        places = filled(self.columns)
        if places:
            self._point(key=self.columns[places[0 if side < 0 else -1]])

    def action_peak(self) -> None:
        """Move the cursor to the moment of the most allocated bytes."""
        self._point(key=self._shown.peak)

    def action_release(self) -> None:
        """Take the cursor away."""
        self._point(key=None, hover=None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a cursor, escape is left to whoever else wants it."""
        return action != "release" or self.cursor is not None

    def action_freeze(self) -> None:
        """Hold the chart still, or let it go on."""
        self.frozen = not self.frozen

    def _point(self, **to: Sample | None) -> None:
        """Set the keyboard's cursor or the mouse's, and tell if it stands elsewhere now."""
        self._key = to.get("key", self._key)
        self._hover = to.get("hover", self._hover)
        self._follow()

    def _follow(self) -> None:
        """Draw the cursor and the legend where they belong, and tell."""
        canvas = self.canvas
        self._again(canvas.point(self.cursor) + canvas.say(*self._moment()))
        if self.cursor is not self._told:
            self._told = self.cursor
            self.post_message(self.Cursor(self, self.cursor))

    def _rebuild(self) -> None:
        self._canvas = None
        self._again([self.size.region])
        self._settle()

    def _advance(self, changed: set[int]) -> None:
        """Draw what new samples changed, or everything where they change the scale."""
        regions = self.canvas.advance(changed)
        if regions is None:
            self._rebuild()
        else:
            self._again(regions)
            self._settle()

    def _settle(self) -> None:
        """Bring cursors onto samples that are still there."""
        self._key, self._hover = self._kept(self._key), self._kept(self._hover)
        self._follow()

    def _kept(self, sample: Sample | None) -> Sample | None:
        if sample is None or any(sample is one for one in self._shown.by_step.get(sample.step, ())):
            return sample
        column = self.canvas.column(sample)
        return self.columns[column] if column is not None else None

    def _again(self, regions: Iterable[Region]) -> None:
        """Have regions shown again by the slices that hold them."""
        slices = self.query_children(Slice)
        for region in regions:
            for part in slices:
                part.again(region)
