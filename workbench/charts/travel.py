"""Where a cursor goes in a burst: to the phases and steps before and after a moment."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.engine.protocol import Sample
from memwb.workbench.charts.canvas import Canvas
from memwb.workbench.charts.timeline import Column, Timeline


def starts(timeline: Timeline, phases: bool) -> list[Sample]:
    """The first sample of every step, or of every phase of every step, in their order."""
    found: list[Sample] = []
    for step in sorted(timeline.by_step):
        before = ""
        for index, sample in enumerate(timeline.by_step[step]):
            if index == 0 or (phases and sample.phase != before):
                found.append(sample)
            before = sample.phase
    return found


def jump(places: Sequence[Sample], here: Sample, way: int) -> Sample | None:
    """The next of some places after a moment (``way`` 1), or the last before it (−1)."""
    now = (here.step, here.time)
    if way > 0:
        return next((one for one in places if (one.step, one.time) > now and one is not here), None)
    return next((one for one in reversed(places) if (one.step, one.time) < now), None)


def nearest(timeline: Timeline, sample: Sample) -> Sample | None:
    """The sample itself if it is still there, else the one of its step nearest in time."""
    held = timeline.by_step.get(sample.step, ())
    if any(sample is one for one in held):
        return sample
    return min(held, key=lambda one: abs(one.time - sample.time), default=None)


def first_press(canvas: Canvas, timeline: Timeline) -> Sample | None:
    """Where a cursor begins: on the peak if that is seen, else in the middle of what is."""
    peak = canvas.column(timeline.peak)
    start = len(canvas.columns) // 2 if peak is None else peak
    near = min(moments(canvas.columns), key=lambda at: abs(at - start), default=None)
    return canvas.columns[near] if near is not None else None


def beside(canvas: Canvas, timeline: Timeline, here: Sample, way: int) -> Sample | None:
    """The moment that the chart shows after this one (``way`` 1), or before it (−1).

    Beyond the end of what is seen it is the next one there; None where there is no other.
    """
    places, column = moments(canvas.columns), canvas.column(here)
    if column is None or not places:
        return None
    gaps = [abs(place - column) for place in places]
    at = gaps.index(min(gaps)) + way
    if 0 <= at < len(places):
        return canvas.columns[places[at]]
    first, after = canvas.first, canvas.first + len(canvas.columns)
    steps = sorted(timeline.by_step, reverse=way < 0)
    for step in steps:
        for sample in timeline.by_step[step][::way]:
            place = canvas.place(sample)
            if place is not None and (place >= after if way > 0 else place < first):
                return sample
    return None


def moments(columns: Sequence[Column]) -> list[int]:
    """The columns in which another sample begins: memory holds its level until the next one."""
    found: list[int] = []
    before: Column = None
    for index, sample in enumerate(columns):
        if sample is not None and sample is not before:
            found.append(index)
        before = sample
    return found
