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
from textual.widget import Widget

from memwb.engine.protocol import CATEGORIES, Sample
from memwb.workbench.charts import overlays, window
from memwb.workbench.charts.bands import NONE, Hidden
from memwb.workbench.charts.canvas import STYLES, Canvas
from memwb.workbench.charts.hand import Hand
from memwb.workbench.charts.looks import bands, looks
from memwb.workbench.charts.pointer import Pointer
from memwb.workbench.charts.slices import COUNT, Slice
from memwb.workbench.charts.timeline import Column, Timeline
from memwb.workbench.charts.view import Overlay, View
from memwb.workbench.charts.window import WHOLE, Window

GROWTH = 1.4
"""By how much more than it needs the axis of a burst grows: each time all of it is drawn again."""


class StackedChart(Widget, can_focus=True):
    """A stacked area of memory by category over the samples of a burst.

    Works at any size: what has no room (axis, legend, labels) is left out, the legend only until
    there is a cursor. ``cursor`` is the sample under the mouse or the keyboard's cursor; a
    ``Cursor`` message tells every change.
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
        & .stacked-chart--overlay-2 { color: $primary; }
        & .stacked-chart--overlay-3 { color: $success; }
        & .stacked-chart--overlay-4 { color: $accent; }
        & .stacked-chart--cursor { color: $foreground; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"stacked-chart--{name}" for name in STYLES}
    ALLOW_SELECT = False
    # Those with an id are commands, too, and have the keys that a keymap gives them.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Earlier", show=False),
        Binding("right", "move(1)", "Later", show=False),
        Binding("comma,shift+left", "jump(-1, True)", id="phase_before", show=False),
        Binding("full_stop,shift+right", "jump(1, True)", id="phase_after", show=False),
        Binding("left_square_bracket", "jump(-1, False)", id="step_before", show=False),
        Binding("right_square_bracket", "jump(1, False)", id="step_after", show=False),
        Binding("home", "edge(-1)", "First sample", show=False),
        Binding("end", "edge(1)", "Last sample", show=False),
        Binding("k", "peak", id="cursor_peak", show=False),
        Binding("escape", "release", "Cursor off", show=False),
        Binding("p", "freeze", "Freeze", show=False),
    ]

    # The slices draw: to draw the chart itself again would be work for nothing.

    capacity: reactive[int | None] = reactive(None, init=False, repaint=False)
    """Bytes that the device has: a dashed line when it is within reach of the peak."""
    predicted: reactive[int | None] = reactive(None, init=False, repaint=False)
    """Bytes of the predicted peak: a dotted line."""
    foretold: reactive[bool] = reactive(False, init=False, repaint=False)
    """Whether the samples are predicted ones: they are drawn hatched, and the legend says so."""
    stale: reactive[bool] = reactive(False, init=False, repaint=False)
    """Whether what is predicted is that of an earlier plan."""
    frozen: reactive[bool] = reactive(False, init=False, repaint=False)
    """While true new samples are kept but not shown."""
    hidden: reactive[Hidden] = reactive(NONE, init=False, repaint=False)
    """The bands that are not drawn."""
    window: reactive[Window] = reactive(WHOLE, init=False, repaint=False)
    """What of the burst is seen."""
    resting: reactive[str] = reactive("peak", init=False, repaint=False)
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
        self._others: tuple[Overlay, ...] = ()
        self._foreseen = Timeline()
        self.words: tuple[str, ...] = ()
        """What else there is to say of the peak, such as its largest tensors."""
        self._canvas: Canvas | None = None
        self._room = 0
        """Bytes for which the axis of a burst that goes on has room."""
        self._hand = Hand(self)
        self._pointer = Pointer(self)

    def compose(self) -> ComposeResult:
        """The slices that show it."""
        for _ in range(COUNT):
            yield Slice(self)

    # What it shows.

    def set_samples(self, samples: Sequence[Sample], steps: Iterable[int] = ()) -> None:
        """Show a whole burst. ``steps`` says that it still goes on, and the steps that will come:
        their room is kept free."""
        before, self._live = self._live, Timeline(samples, steps)
        if self._live.expected and samples:
            self._live.open = samples[-1].step
        if before.steps() != self._live.steps():
            # Of other steps a part says nothing; of the same ones it can be compared.
            self.set_reactive(StackedChart.window, WHOLE)
        self._room = 0
        self._pointer.keep(samples)
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
        lines = (part for one in self._others for part in one.samples.by_step.values())
        return [sample for part in lines for sample in part]

    @overlay.setter
    def overlay(self, samples: Sequence[Sample]) -> None:
        self.lay_over([("", samples)] if samples else [])

    def lay_over(self, runs: Sequence[tuple[str, Sequence[Sample]]]) -> None:
        """Draw the totals of up to four other runs as outlines; each name stands at its peak."""
        self._others = tuple(
            Overlay(label, Timeline(samples)) for label, samples in runs[: overlays.MOST]
        )
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
    def shown(self) -> Timeline:
        """The samples that are drawn."""
        return self._shown

    @property
    def cursor(self) -> Sample | None:
        """The sample under the mouse, else under the keyboard's cursor, else None."""
        return self._pointer.at

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
                shown=self._shown,
                others=self._others,
                capacity=self.capacity,
                predicted=self.predicted,
                foreseen=self._foreseen,
                stale=self.stale,
                hidden=self.hidden,
                window=self.window,
                room=self._room,
                timed=not self.foretold,
            )
            styles = {**looks(self, "stacked-chart", STYLES), "ground": self.rich_style}
            self._canvas = Canvas(size, view, bands(self, self.foretold), styles)
            self._canvas.point(self._pointer.moment())
            self._canvas.say(*self.moment())
        return self._canvas

    def moment(self) -> tuple[Sample | None, str]:
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
        """Other looks, another scale, or other columns: another chart."""
        self._rebuild()

    watch_predicted = watch_foretold = watch_stale = watch_capacity
    watch_hidden = watch_window = watch_capacity

    def watch_frozen(self, frozen: bool) -> None:
        """Hold what is shown, or catch up."""
        self._shown = self._live.copy() if frozen else self._live
        self._rebuild()

    def watch_resting(self) -> None:
        """The legend speaks of another moment."""
        self.again(self.canvas.say(*self.moment()))

    def notify_style_update(self) -> None:
        """Another theme is another chart."""
        super().notify_style_update()
        self._canvas = None
        self.again([self.size.region])

    def on_resize(self) -> None:
        """Another size is another chart."""
        self._rebuild()

    # The mouse.

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The cursor follows the mouse; a part of the chart follows the hand that holds it."""
        if not self._hand.drag(event, len(self.columns)):
            self._pointer.point(hover=self.canvas.under(*self._offset(event)))

    def _offset(self, event: events.MouseEvent) -> tuple[int, int]:
        """Where in the chart the mouse is."""
        # Events come from the slices: only the place on the screen means the same to all.
        place = event.screen_offset - self.content_region.offset
        return place.x, place.y

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Take hold of a part."""
        self._hand.press(event, self.canvas.under(*self._offset(event)) is not None)

    def on_mouse_up(self) -> None:
        """Let go."""
        self._hand.release()

    def on_leave(self) -> None:
        """The mouse is gone; the keyboard's cursor shows again."""
        # Leaving one slice for the next is not leaving.
        if not self.is_mouse_over:
            self._pointer.point(hover=None)

    def on_click(self, event: events.Click) -> None:
        """The cursor stays where the mouse was pressed; a name in the legend is a switch."""
        band = self.canvas.band(*self._offset(event))
        if band is not None:
            self.toggle_band(band)
        sample = self.canvas.under(*self._offset(event))
        if sample is not None and not self._hand.dragged:
            self._pointer.point(key=sample)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Nearer, or with shift earlier."""
        self._hand.turn(event, 1, self._offset(event)[0] - self.canvas.left)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Further away, or with shift later."""
        self._hand.turn(event, -1, self._offset(event)[0] - self.canvas.left)

    # What of it is seen.

    def zoom(self, factor: float, column: int | None = None) -> None:
        """Nearer or further away: around a column, else the moment that the legend speaks of."""
        if not self._shown.by_step:
            return
        canvas = self.canvas
        if column is None:
            column = canvas.column(self.moment()[0])
        last = len(canvas.columns) - 1
        if last < 0:
            # It is not on the screen yet: around the middle, whatever its size will be.
            self.window = window.zoomed(self.window, factor, 100, 50)
        else:
            self.window = canvas.zoomed(factor, last // 2 if column is None else min(last, column))

    def pan(self, way: int) -> None:
        """Earlier or later by a quarter of what is seen."""
        self.window = window.panned(self.window, way * len(self.columns) / 4, len(self.columns))

    def show_all(self) -> None:
        """The whole burst; if that is seen already, every band."""
        if self.window.whole:
            self.hidden = NONE
        self.window = WHOLE

    def toggle_band(self, band: int) -> None:
        """Draw a band no more, or again; what no category was found for always stays."""
        if band in range(len(CATEGORIES)):
            self.hidden = self.hidden ^ {band}

    # The keyboard's cursor.

    def action_move(self, way: int) -> None:
        """Move the cursor to the moment before (−1) or after (1) that the chart shows."""
        self._pointer.move(way)

    def action_jump(self, way: int, phases: bool) -> None:
        """Move the cursor to where the phase (or the step) before or after this one begins."""
        self._pointer.jump(way, phases)

    def action_edge(self, side: int) -> None:
        """Move the cursor to the first (−1) or the last (1) moment of the burst."""
        self._pointer.edge(side)

    def action_peak(self) -> None:
        """Move the cursor to the moment of the most allocated bytes."""
        self._pointer.go(self._shown.peak)

    def action_release(self) -> None:
        """Take the cursor away."""
        self._pointer.point(key=None, hover=None)

    def tell_cursor(self) -> None:
        """The cursor stands on another sample, or on none."""
        self.post_message(self.Cursor(self, self.cursor))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a cursor, escape is left to whoever else wants it."""
        return action != "release" or self.cursor is not None

    def action_freeze(self) -> None:
        """Hold the chart still, or let it go on."""
        self.frozen = not self.frozen

    def _rebuild(self) -> None:
        self._canvas = None
        self.again([self.size.region])
        self._pointer.settle()

    def _advance(self, changed: set[int]) -> None:
        """Draw what new samples changed, or everything where they change the scale."""
        canvas, peak = self.canvas, self._shown.peak
        regions = canvas.advance(changed)
        if regions is None:
            if peak is not None and canvas.view.top(canvas.rows) > canvas.top:
                self._room = int(peak.allocated * GROWTH)
            self._rebuild()
        else:
            self.again(regions)
            self._pointer.settle()

    def again(self, regions: Iterable[Region]) -> None:
        """Have regions shown again by the slices that hold them."""
        slices = self.query_children(Slice)
        for region in regions:
            for part in slices:
                part.again(region)
