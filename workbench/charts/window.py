"""Which part of a chart's width is seen: how far it is zoomed in, and about where."""

from __future__ import annotations

import msgspec

MOST = 1024.0
"""Beyond it a column would be shorter than the time between any two samples."""


class Window(msgspec.Struct, frozen=True):
    """A part of an axis, without its size: it stays what it is when the chart gets another one."""

    zoom: float = 1.0
    """How many times as wide as the chart the whole axis is."""
    middle: float = 0.5
    """Where of the whole axis the middle of the chart is, from 0 to 1."""

    @property
    def whole(self) -> bool:
        """Whether all of it is seen."""
        return self.zoom <= 1.0

    def mark(self) -> str:
        """How a title or a legend says it: ``zoom 4×``; empty where all is seen."""
        return "" if self.whole else f"zoom {self.zoom:.3g}×"


WHOLE = Window()


def extent(window: Window, width: int) -> tuple[int, int]:
    """Columns of the whole axis, and the first of them that is seen in ``width`` columns."""
    total = max(width, round(width * window.zoom))
    first = round(window.middle * total - width / 2)
    return total, max(0, min(total - width, first))


def at(first: float, total: int, width: int) -> Window:
    """The window of ``width`` columns whose first is ``first`` of ``total``."""
    if total <= width or width <= 0:
        return WHOLE
    first = max(0.0, min(float(total - width), first))
    return Window(total / width, (first + width / 2) / total)


def zoomed(window: Window, factor: float, width: int, column: float) -> Window:
    """Further in or out; what is seen in a column stays there as far as the ends allow it."""
    total, first = extent(window, width)
    zoom = max(1.0, min(MOST, window.zoom * factor))
    if zoom < 1.0 + 1e-6 or width <= 0:
        return WHOLE
    again = max(width, round(width * zoom))
    where = (first + column + 0.5) / total
    moved = at(where * again - column - 0.5, again, width)
    # Rounded to columns the zoom would creep: the one asked for is kept.
    return Window(zoom, moved.middle)


def panned(window: Window, columns: float, width: int) -> Window:
    """Moved to the later (or, if negative, the earlier) side, as far as there is anything."""
    total, first = extent(window, width)
    return Window(window.zoom, at(first + columns, total, width).middle)


def showing(window: Window, column: float, width: int) -> Window:
    """Moved so that a column of the whole axis is seen, no further than a quarter beyond it."""
    total, first = extent(window, width)
    if first <= column < first + width:
        return window
    beyond = width / 4
    start = column - beyond if column < first else column - width + 1 + beyond
    return Window(window.zoom, at(start, total, width).middle)
