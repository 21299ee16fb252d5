"""What there is to draw in a memory chart: plain data, the same for every size."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memwb.workbench.charts.align import aligned, finished
from memwb.workbench.charts.bands import NONE, Hidden, measure
from memwb.workbench.charts.palette import LETTERS
from memwb.workbench.charts.scale import byte_top
from memwb.workbench.charts.timeline import Column, Measure, Seen, Timeline, peaks
from memwb.workbench.charts.window import WHOLE, Window

NEAR = 1.6
"""The capacity is drawn to scale up to so many times the peak; beyond that it is only noted."""


class Overlay(msgspec.Struct, frozen=True):
    """Another run, whose total is drawn as an outline over the one that is filled."""

    label: str
    """What stands at its highest point; may be empty."""
    samples: Timeline


class View(msgspec.Struct, frozen=True):
    """A run, the runs laid over it, two heights in bytes, and what of all that is seen."""

    shown: Timeline
    others: tuple[Overlay, ...] = ()
    capacity: int | None = None
    predicted: int | None = None
    foreseen: Timeline = Timeline()
    """What is predicted, as a dotted line behind the run; not where another run is laid over it."""
    stale: bool = False
    """Whether it is predicted of an earlier plan."""
    hidden: Hidden = NONE
    window: Window = WHOLE
    room: int = 0
    """Bytes that the axis reaches at least, so that a burst that grows seldom rescales it."""
    timed: bool = True
    """Whether the samples' times are those of a clock."""

    @property
    def behind(self) -> tuple[Timeline, ...]:
        """What is drawn as lines: the other runs, else what is predicted."""
        if self.others:
            return tuple(other.samples for other in self.others)
        return (self.foreseen,) if self.foreseen.by_step else ()

    @property
    def measure(self) -> Measure:
        """How high a sample is drawn."""
        return measure(self.hidden)

    @property
    def heights(self) -> tuple[tuple[str, str, int], ...]:
        """The lines across the chart: name, dash, bytes.

        They are totals, and say nothing of a part of the bands; and what is predicted is of the
        plan, not of any of the runs that are compared.
        """
        if self.hidden:
            return ()
        known = (
            ("predicted", "┈", None if self.others else self.predicted),
            ("capacity", "╌", self.capacity),
        )
        return tuple((name, dash, value) for name, dash, value in known if value)

    def steps(self) -> list[int]:
        """The steps of all runs."""
        return sorted(
            {*self.shown.steps(), *(s for one in self.others for s in one.samples.by_step)}
        )

    def top(self, rows: int) -> int:
        """Bytes at the top of the axis."""
        size = self.measure
        highest = (one.highest(size) for one in (self.shown, *self.behind))
        foretold = next((value for name, _, value in self.heights if name == "predicted"), 0)
        peak = max([foretold, *(size(sample) for sample in highest if sample)])
        capacity = self.capacity or 0
        peak = max(peak, 0 if self.hidden else self.room)
        if not self.hidden and peak and capacity <= peak * NEAR:
            peak = max(peak, capacity)
        return byte_top(peak or (0 if self.hidden else capacity) or 2**30, rows)

    def marks(self, room: int) -> str:
        """What has to be said of a view that does not show everything, as far as there is room."""
        missing = " ".join(LETTERS[band] for band in sorted(self.hidden))
        parts = [self.window.mark(), f"without {missing}" if missing else ""]
        forms = (" · ".join(part for part in parts if part), *parts)
        return next((form for form in forms if form and len(form) <= room), "")

    def columns(self, part: Seen) -> list[Column]:
        """The run's samples for the columns of a slot that are seen."""
        return self.shown.columns(part.slot, (part.begin, part.end), self.measure)

    def over(self, line: Timeline, part: Seen) -> Sequence[Column]:
        """The samples behind a run, phase over phase where both have the same ones."""
        slot, seen = part.slot, (part.begin, part.end)
        samples, onto = (side.by_step.get(slot.step, []) for side in (line, self.shown))
        if slot.step == self.shown.open:
            return line.columns(slot, seen, self.measure)
        moved, whole = aligned(samples, onto), True
        if moved is None and line is self.foreseen:
            # A step that ended early stands for no more than what it did.
            moved, whole = finished(samples, onto), False
        if moved is None:
            return line.columns(slot, seen, self.measure)
        span = self.shown.span(slot.step)
        return peaks(moved, slot.columns, span, whole, part=seen, measure=self.measure)
