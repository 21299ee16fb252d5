"""Values over steps, such as the loss: a widget that draws lines in braille dots."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from memwb.workbench.charts import window
from memwb.workbench.charts.hand import Hand
from memwb.workbench.charts.looks import looks
from memwb.workbench.charts.palette import Cell
from memwb.workbench.charts.plot import FEWEST, OVERLAYS, Line, Picture, Point, picture
from memwb.workbench.charts.strips import joined
from memwb.workbench.charts.window import WHOLE, Window

ROLES = ("axis", "label", "value", "line", "cursor", *OVERLAYS)


class LineChart(Widget, can_focus=True):
    """Lines over a fixed range of steps. Works at any size: what has no room is left out."""

    DEFAULT_CSS = """
    LineChart {
        height: 1fr;
        width: 1fr;
        & .line-chart--axis { color: $foreground 45%; }
        & .line-chart--label { color: $foreground 70%; }
        & .line-chart--value { color: $foreground; text-style: bold; }
        & .line-chart--line { color: $accent; }
        & .line-chart--cursor { color: $foreground; text-style: bold; }
        & .line-chart--overlay { color: $foreground 55%; }
        & .line-chart--overlay-2 { color: $primary; }
        & .line-chart--overlay-3 { color: $success; }
        & .line-chart--overlay-4 { color: $error; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"line-chart--{name}" for name in ROLES}
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Step before", show=False),
        Binding("right", "move(1)", "Step after", show=False),
        Binding("shift+left,comma", "move(-10)", "Ten steps before", show=False),
        Binding("shift+right,full_stop", "move(10)", "Ten steps after", show=False),
        Binding("home", "edge(-1)", "First step", show=False),
        Binding("end", "edge(1)", "Last step", show=False),
        Binding("escape", "release", "Cursor off", show=False),
    ]

    steps: reactive[int] = reactive(0)
    """How many steps there will be; the axis stands still from the start. 0: as many as seen."""
    frozen: reactive[bool] = reactive(False)
    """While true new points are kept but not shown."""
    window: reactive[Window] = reactive(WHOLE)
    """What of the steps is seen."""

    def __init__(
        self, *, name: str | None = None, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._lines: dict[str, Line] = {}
        self._shown: dict[str, Line] = {}
        self._picture: Picture | None = None
        self._cells: dict[tuple[str, str], Cell] = {}
        """One object for each character in each role: what is the same is joined fast."""
        self._key: int | None = None
        self._hover: int | None = None
        self._hand = Hand(self)

    def set_series(self, name: str, points: Iterable[Point], overlay: bool = False) -> None:
        """Show a whole series, in the place of the one of that name if there is one.

        Up to four overlays look different, in the order in which they came.
        """
        self._lines[name] = Line(name, tuple(points), overlay)
        self._changed()

    def append(self, name: str, step: int, value: float) -> None:
        """Add one point to a series, which is made if there is none of that name."""
        line = self._lines.get(name, Line(name))
        self._lines[name] = Line(name, (*line.points, (step, value)), line.overlay)
        self._changed()

    def remove_series(self, name: str) -> None:
        """Take a series away, if there is one of that name."""
        if self._lines.pop(name, None):
            self._changed()

    def clear(self) -> None:
        """Take every series away."""
        self._lines.clear()
        self._changed()

    @property
    def cursor(self) -> int | None:
        """The step under the mouse, else under the keyboard's cursor, else None."""
        return self._key if self._hover is None else self._hover

    @property
    def series(self) -> tuple[Line, ...]:
        """The series that are drawn."""
        return tuple(self._shown.values())

    @property
    def drawn(self) -> Picture:
        """The picture as it is shown now."""
        width, height = self.size
        if self._picture is None or self._picture.size != (width, height):
            lines = self.series
            self._picture = picture(lines, self.steps, width, height, self.window, self.cursor)
        return self._picture

    def watch_frozen(self) -> None:
        """Catch up when it goes on again."""
        self._changed()

    def watch_steps(self) -> None:
        """The range of the axis changed."""
        self._picture = None

    def watch_window(self) -> None:
        """Another part of it."""
        self._picture = None

    def notify_style_update(self) -> None:
        """Another theme: draw again."""
        super().notify_style_update()
        self._cells = {}

    def _changed(self) -> None:
        if self.frozen:
            return
        self._shown = dict(self._lines)
        self._again()

    def _again(self) -> None:
        self._picture = None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the picture."""
        width, drawn = self.size.width, self.drawn
        if y >= len(drawn.rows):
            return Strip.blank(width, self.rich_style)
        table = self._cells
        cells = []
        for key in drawn.rows[y]:
            cell = table.get(key)
            if cell is None:
                cell = table[key] = (key[0], self._look(key[1]))
            cells.append(cell)
        return Strip(joined(cells)).adjust_cell_length(width, self.rich_style)

    def _look(self, role: str) -> Style:
        return looks(self, "line-chart", (role,))[role] if role else self.rich_style

    # What of it is seen.

    def zoom(self, factor: float, column: int | None = None) -> None:
        """Nearer or further away: around a column of the plot, else the cursor, else the middle."""
        axis = self.drawn.axis
        if axis is None:
            return
        if column is None and self.cursor is not None and axis.sees(self.cursor):
            column = axis.dot(self.cursor) // 2
        dot = axis.wide / 2 if column is None else column * 2
        near = window.zoomed(self.window, factor, axis.wide, dot)
        # No further than the axis goes, or zooming out would do nothing at first.
        most = max(1.0, (axis.last - 1) / (FEWEST - 1))
        self.window = WHOLE if most <= 1 else Window(min(near.zoom, most), near.middle)

    def pan(self, way: int) -> None:
        """Earlier or later by a quarter of what is seen."""
        if (axis := self.drawn.axis) is not None:
            self.window = window.panned(self.window, way * axis.wide / 4, axis.wide)

    def show_all(self) -> None:
        """Every step."""
        self.window = WHOLE

    # The cursor.

    def _known(self) -> list[int]:
        return sorted({step for line in self._shown.values() for step, _ in line.points})

    def _point(self, **to: int | None) -> None:
        before = self.cursor
        self._key = to.get("key", self._key)
        self._hover = to.get("hover", self._hover)
        if self.cursor != before:
            self._again()

    def _go(self, step: int) -> None:
        axis = self.drawn.axis
        if axis is not None:
            place = axis.dot(step) + axis.first
            self.window = window.showing(self.window, place, axis.wide)
        self._point(key=step)

    def action_move(self, steps: int) -> None:
        """Move the cursor by steps; the first press puts it on the last one."""
        known = self._known()
        if not known:
            return
        if self._key is None:
            self._go(known[-1])
            return
        key = self._key
        near = min(range(len(known)), key=lambda index: abs(known[index] - key))
        self._go(known[max(0, min(len(known) - 1, near + steps))])

    def action_edge(self, side: int) -> None:
        """Move the cursor to the first (−1) or the last (1) step."""
        if known := self._known():
            self._go(known[0 if side < 0 else -1])

    def action_release(self) -> None:
        """Take the cursor away."""
        self._point(key=None, hover=None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a cursor, escape is left to whoever else wants it."""
        return action != "release" or self.cursor is not None

    # The mouse.

    def _under(self, event: events.MouseEvent) -> int | None:
        """The step nearest to the column that the mouse is on."""
        drawn, known = self.drawn, self._known()
        offset, column = event.get_content_offset_capture(self), self._column(event)
        if drawn.axis is None or not known or not 0 <= column < drawn.axis.wide // 2:
            return None
        if not 0 <= offset.y < self.size.height:
            return None
        wanted = drawn.axis.step(column * 2 + 0.5)
        return min(known, key=lambda step: math.fabs(step - wanted))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The cursor follows the mouse; a part of the chart follows the hand that holds it."""
        axis = self.drawn.axis
        if axis is None or not self._hand.drag(event, axis.wide, 2):
            self._point(hover=self._under(event))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Take hold of a part."""
        self._hand.press(event, self._under(event) is not None)

    def on_mouse_up(self) -> None:
        """Let go."""
        self._hand.release()

    def on_click(self, event: events.Click) -> None:
        """The cursor stays where the mouse was pressed."""
        step = self._under(event)
        if step is not None and not self._hand.dragged:
            self._point(key=step)

    def on_leave(self) -> None:
        """The mouse is gone; the keyboard's cursor shows again."""
        self._point(hover=None)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Nearer, or with shift earlier."""
        self._hand.turn(event, 1, self._column(event))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Further away, or with shift later."""
        self._hand.turn(event, -1, self._column(event))

    def _column(self, event: events.MouseEvent) -> int:
        """The column of the plot that the mouse is on."""
        return int(event.get_content_offset_capture(self).x) - self.drawn.left
