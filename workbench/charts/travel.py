"""Where a cursor goes in a burst: to the phases and steps before and after a moment."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.engine.protocol import Sample
from memwb.workbench.charts.timeline import Timeline


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
