"""What a hand does with a chart: it turns the wheel to zoom, and drags what is zoomed."""

from __future__ import annotations

from typing import Protocol

from textual import events

from memwb.workbench.charts import window
from memwb.workbench.charts.window import Window

WHEEL = 1.5
"""By how much a turn of the wheel brings a chart nearer; a key doubles it."""


class Held(Protocol):
    """A chart that can be zoomed and panned."""

    @property
    def window(self) -> Window:
        """What of it is seen."""

    @window.setter
    def window(self, seen: Window) -> None: ...

    def zoom(self, factor: float, column: int | None = None) -> None:
        """Nearer or further away."""

    def pan(self, way: int) -> None:
        """Earlier or later."""

    def capture_mouse(self, capture: bool = True) -> None:
        """Have all that the mouse does told to it."""

    def release_mouse(self) -> None:
        """No longer."""


class Hand:
    """Holds where the mouse was pressed; a drag is told from a click by whether it has moved."""

    def __init__(self, chart: Held) -> None:
        self.dragged = False
        self._chart = chart
        self._grip: tuple[int, Window] | None = None

    def press(self, event: events.MouseDown, inside: bool) -> None:
        """Take hold of a part; of the whole there is nothing to move."""
        self.dragged = False
        if event.button == 1 and inside and not self._chart.window.whole:
            self._grip = (event.screen_x, self._chart.window)
            self._chart.capture_mouse()

    def drag(self, event: events.MouseMove, width: int, scale: int = 1) -> bool:
        """Move what is held, ``scale`` columns for one of the screen's; False if nothing is."""
        if self._grip is None:
            return False
        start, seen = self._grip
        if event.screen_x != start or self.dragged:
            self.dragged = True
            self._chart.window = window.panned(seen, (start - event.screen_x) * scale, width)
        return True

    def release(self) -> None:
        """Let go."""
        if self._grip is not None:
            self._grip = None
            self._chart.release_mouse()

    def turn(self, event: events.MouseEvent, way: int, column: int) -> None:
        """The wheel: nearer (1) or further away (−1) at a column; with shift earlier or later."""
        event.stop()
        if event.shift or event.ctrl:
            self._chart.pan(-way)
        else:
            self._chart.zoom(WHEEL**way, max(0, column))
