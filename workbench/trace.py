"""One burst as its events tell it: the same reading for a live burst and for a recorded one."""

from __future__ import annotations

import re
from collections.abc import Iterable
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

if TYPE_CHECKING:
    from memwb.engine.guard import Baseline


class Trace:
    """Memory and loss of one burst, built up event by event.

    A traced step's ``Timeline`` takes the place of the live samples of that step, so the
    samples are always the best that is known.
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
        self.steps: list[Step] = []
        self.latest: Sample | None = None
        self.highest: Sample | None = None
        """The sample with the most allocated bytes so far."""
        self.version = 0
        """Grows with every event that changes what is drawn."""
        self._live: dict[int, list[Sample]] = {}
        self._exact: dict[int, list[Sample]] = {}

    def apply(self, event: Event) -> None:
        """Take in one event; those that say nothing about memory or loss change nothing."""
        match event:
            case Started():
                self.started = event
            case Loaded():
                self.loaded = event
            case Samples():
                for sample in event.samples:
                    self._live.setdefault(sample.step, []).append(sample)
                    self.latest = sample
                self._raise(event.samples)
            case Timeline():
                self._exact[event.step] = list(event.samples)
                self._live.pop(event.step, None)
                if self.highest is not None and self.highest.step == event.step:
                    # The live peak of this step gives way to the exact one.
                    self.highest = None
                    self._raise(self.samples)
                self._raise(event.samples)
            case Step():
                self.steps.append(event)
            case Ended():
                self.ended = event
            case _:
                return
        self.version += 1

    @property
    def samples(self) -> list[Sample]:
        """Every sample in the order of time, exact ones where a step has them."""
        found: list[Sample] = []
        for step in sorted(self._live.keys() | self._exact.keys()):
            found += self._exact.get(step) or self._live.get(step, [])
        return found

    def _raise(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            if self.highest is None or sample.allocated > self.highest.allocated:
                self.highest = sample

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
    def losses(self) -> list[float]:
        """The loss of each step so far."""
        if self.ended and self.ended.losses:
            return list(self.ended.losses)
        return [step.loss for step in self.steps]

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
        timed = [step for step in self.steps if not step.traced]
        seconds = sum(step.seconds for step in timed)
        return sum(step.tokens for step in timed) / seconds if seconds else None


def trace_of(events: Iterable[Event], label: str = "") -> Trace:
    """The trace of recorded events."""
    trace = Trace(label)
    for event in events:
        trace.apply(event)
    return trace
