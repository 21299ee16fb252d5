"""One burst as its events tell it: the same reading for a live burst and for a recorded one."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from memwb.engine.protocol import (
    Categories,
    Device,
    Ended,
    Event,
    Loaded,
    Peak,
    Sample,
    Samples,
    Started,
    Step,
    Timeline,
)
from memwb.workbench.charts import timeline
from memwb.workbench.charts.thinning import Point, sparse

if TYPE_CHECKING:
    from memwb.engine.guard import Baseline

CURVE = 4096
"""Points of a loss curve: of more, the lowest and the highest of neighbours are kept."""


class Trace:
    """Memory and loss of one burst, built up event by event.

    A traced step's ``Timeline`` takes the place of the live samples of that step, so the
    samples are always the best that is known. However long a burst is, there are so many samples
    and points of the curve, every peak among them; each step's loss is kept.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.baseline: Baseline | None = None
        """The earlier run whose losses it is held against, where there is one."""
        self.predicted: Peak | None = None
        """What had been predicted of its plan, for where it ran."""
        self.started: Started | None = None
        self.loaded: Loaded | None = None
        self.ended: Ended | None = None
        self.points: list[Point] = []
        """The losses of the curve that is drawn: every step's as long as they are not too many."""
        self.latest: Sample | None = None
        self.version = 0
        """Grows with every event that changes what is drawn."""
        self._losses = array("d")
        self._timed = (0.0, 0)
        """Seconds and tokens of the steps that were not traced."""
        # As the chart that is told the same events keeps it: the two hold the same samples.
        self._timeline = timeline.Timeline()

    def apply(self, event: Event) -> None:
        """Take in one event; those that say nothing about memory or loss change nothing."""
        match event:
            case Started():
                self.started = event
            case Loaded():
                self.loaded = event
            case Samples():
                self._timeline.append(event.samples)
                self.latest = event.samples[-1] if event.samples else self.latest
            case Timeline():
                self._timeline.replace(event.step, event.samples)
            case Step():
                self._step(event)
            case Ended():
                self.ended = event
            case _:
                return
        self.version += 1

    def _step(self, step: Step) -> None:
        self._losses.append(step.loss)
        self.points.append((len(self._losses), step.loss))
        if len(self.points) > CURVE:
            self.points = sparse(self.points)
        if not step.traced:
            seconds, tokens = self._timed
            self._timed = (seconds + step.seconds, tokens + step.tokens)

    @property
    def steps(self) -> int:
        """How many are over."""
        return len(self._losses)

    @property
    def samples(self) -> list[Sample]:
        """Every sample in the order of time, exact ones where a step has them."""
        parts = self._timeline.by_step
        return [sample for step in sorted(parts) for sample in parts[step]]

    @property
    def highest(self) -> Sample | None:
        """The sample with the most allocated bytes so far."""
        return self._timeline.peak

    @property
    def peak(self) -> Peak | None:
        """The peak as the engine told it at the end, or the highest sample so far."""
        if self.ended is not None and self.ended.peak is not None:
            return self.ended.peak
        top = self.highest
        if top is None:
            return None
        parts = top.categories or Categories()
        return Peak(top.allocated, top.reserved, top.device, top.phase, parts)

    @property
    def losses(self) -> Sequence[float]:
        """The loss of each step so far."""
        if self.ended and self.ended.losses:
            return self.ended.losses
        return self._losses

    @property
    def curve(self) -> Sequence[Point]:
        """The points of the loss curve so far."""
        told = self.ended.losses if self.ended is not None else ()
        if len(told) > len(self._losses):
            # Only the end has said them.
            return curve(told)
        return self.points

    @property
    def device(self) -> Device | None:
        """Where it runs; None until it started."""
        return self.started.device if self.started else None

    @property
    def techniques(self) -> list[str]:
        """Those that the plan names, which stands in the head of the script."""
        script = self.started.script if self.started else ""
        return re.findall(r"^# +\[techniques\.(\w+)\]", script, re.MULTILINE)

    @property
    def planned(self) -> int:
        """The number of steps it was asked for."""
        return self.started.steps if self.started else 0

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the steps that were not traced; None when there is none yet."""
        if self.ended:
            return self.ended.tokens_per_second
        seconds, tokens = self._timed
        return tokens / seconds if seconds else None


def curve(losses: Iterable[float]) -> list[Point]:
    """The points that are drawn of a run's losses."""
    points = list(enumerate(losses, 1))
    while len(points) > CURVE:
        points = sparse(points)
    return points


def trace_of(events: Iterable[Event], label: str = "") -> Trace:
    """The trace of recorded events."""
    trace = Trace(label)
    for event in events:
        trace.apply(event)
    return trace
