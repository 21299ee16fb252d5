"""The cursor of a memory chart: the moment that it stands on, and where keys take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from textual.geometry import Region

from memwb.engine.protocol import Sample
from memwb.workbench.charts import travel, window
from memwb.workbench.charts.canvas import Canvas
from memwb.workbench.charts.inset import Moment
from memwb.workbench.charts.timeline import Timeline
from memwb.workbench.charts.window import Window


class Pointed(Protocol):
    """A chart over the samples of a burst."""

    words: tuple[str, ...]

    @property
    def shown(self) -> Timeline:
        """The samples."""

    @property
    def canvas(self) -> Canvas:
        """The chart as it is drawn now."""

    @property
    def window(self) -> Window:
        """What of it is seen."""

    @window.setter
    def window(self, seen: Window) -> None: ...

    def moment(self) -> tuple[Sample | None, str]:
        """What the legend speaks of, and what to call it."""

    def again(self, regions: Iterable[Region]) -> None:
        """Have regions shown again."""

    def tell_cursor(self) -> None:
        """The cursor stands on another sample, or on none."""


class Pointer:
    """Holds where the mouse and the keys point to; what the mouse is on goes before."""

    def __init__(self, chart: Pointed) -> None:
        self.key: Sample | None = None
        self._hover: Sample | None = None
        self._told: Sample | None = None
        self._chart = chart

    @property
    def at(self) -> Sample | None:
        """The sample under the mouse, else under the keyboard's cursor, else None."""
        return self._hover or self.key

    def moment(self) -> Moment | None:
        """The cursor's moment with all that is known of it."""
        sample, shown = self.at, self._chart.shown
        if sample is None:
            return None
        words = self._chart.words if sample is shown.peak else ()
        return Moment(sample, shown.before(sample), words=words)

    # Pointing.

    def point(self, **to: Sample | None) -> None:
        """Set the keyboard's cursor (``key``) or the mouse's (``hover``)."""
        self.key = to.get("key", self.key)
        self._hover = to.get("hover", self._hover)
        self.follow()

    def follow(self) -> None:
        """Draw the cursor and the legend where they belong, and tell if it stands elsewhere."""
        chart = self._chart
        canvas = chart.canvas
        chart.again(canvas.point(self.moment()) + canvas.say(*chart.moment()))
        if self.at is not self._told:
            self._told = self.at
            chart.tell_cursor()

    def keep(self, samples: Iterable[Sample]) -> None:
        """Let go of what is not among these samples any more."""
        known = set(map(id, samples))
        self.key, self._hover = (
            one if id(one) in known else None for one in (self.key, self._hover)
        )

    def settle(self) -> None:
        """Bring it onto samples that are still there."""
        shown = self._chart.shown
        self.key, self._hover = (
            None if one is None else travel.nearest(shown, one) for one in (self.key, self._hover)
        )
        self.follow()

    # The keys.

    def move(self, way: int) -> None:
        """To the moment before (−1) or after (1) that the chart shows."""
        chart = self._chart
        if self.key is None:
            self.point(key=travel.first_press(chart.canvas, chart.shown))
            return
        there = travel.beside(self._reveal(self.key), chart.shown, self.key, way)
        if there is not None:
            self._stand(there)

    def edge(self, side: int) -> None:
        """To the first (−1) or the last (1) moment of the burst."""
        held = [sample for _, part in sorted(self._chart.shown.by_step.items()) for sample in part]
        if held:
            self._stand(held[0 if side < 0 else -1])

    def jump(self, way: int, phases: bool) -> None:
        """To where the phase (or the step) before or after this one begins."""
        chart = self._chart
        here = self.key or chart.moment()[0]
        if here is not None:
            self.go(travel.jump(travel.starts(chart.shown, phases), here, way) or here)

    def go(self, sample: Sample | None) -> None:
        """To a moment, and what is seen with it."""
        if sample is not None:
            self._reveal(sample)
        self.point(key=sample)

    def _stand(self, sample: Sample) -> None:
        """On the column in which the sample is, which may show another."""
        canvas = self._reveal(sample)
        column = canvas.column(sample)
        self.point(key=sample if column is None else canvas.columns[column])

    def _reveal(self, sample: Sample) -> Canvas:
        """Move what is seen until it holds a moment."""
        chart = self._chart
        canvas = chart.canvas
        place = canvas.place(sample)
        if place is not None:
            chart.window = window.showing(chart.window, place, len(canvas.columns))
        return chart.canvas
