"""A chart's columns in a few widgets side by side: little is written when little changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from memwb.workbench.charts.canvas import Canvas
from memwb.workbench.charts.strips import joined

COUNT = 4
"""Textual writes a changed line from the start of its widget. A chart in slices writes less for a
new column; more slices cost more when all of it is drawn."""


class Drawn(Protocol):
    """Whoever draws what the slices show."""

    @property
    def canvas(self) -> Canvas:
        """The chart as it is drawn now."""


class Slice(Widget):
    """Some columns of the chart, drawn by the chart."""

    DEFAULT_CSS = "Slice { width: 1fr; height: 100%; background: transparent; }"
    # To drag is to pan, not to mark text.
    ALLOW_SELECT = False

    def __init__(self, chart: Drawn) -> None:
        super().__init__()
        self.chart = chart
        self._pieces: dict[int, Strip] = {}
        self._drawn: tuple[Canvas, Region] | None = None
        self._acting: Sequence[LineFilter] | None = None

    def again(self, region: Region) -> None:
        """Show a region of the chart again, as far as it is in this slice."""
        place = self.virtual_region
        inside = region.intersection(place)
        if inside:
            for y in range(inside.y, inside.bottom):
                self._pieces.pop(y, None)
            self.refresh(inside.translate((-place.x, -place.y)))

    def _filters(self, canvas: Canvas, ground: Color) -> Sequence[LineFilter]:
        """Textual's filters as far as they change any style of the chart: mostly none does.

        They are asked with each style alone, which costs less than to pass every line through.
        """
        if self._acting is None:
            shown = [Segment("", style) for style in canvas.every_style()]
            filters = self.get_line_filters()
            self._acting = [each for each in filters if each.apply(shown, ground) != shown]
        return self._acting

    def render_lines(self, crop: Region) -> list[Strip]:
        """Pieces of the chart's lines.

        A slice has no borders or padding, so it goes past Textual's styling of every line, which
        would cost more than drawing them.
        """
        canvas, place = self.chart.canvas, self.virtual_region
        if self._drawn is None or self._drawn[0] is not canvas or self._drawn[1] != place:
            self._drawn = (canvas, place)
            self._pieces.clear()
            self._acting = None
        ground = self.background_colors[1]
        filters = self._filters(canvas, ground)
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
