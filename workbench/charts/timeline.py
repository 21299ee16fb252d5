"""Samples of a burst by step, and which sample each column of a chart stands for.

The x axis is the burst's order, not its clock: loading takes seconds, a traced step
milliseconds, and between traced steps nothing is known. So every step gets an equal share of
the width, scaled by time within it, and loading a small one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import attrgetter

import msgspec

from memwb.engine.protocol import Sample
from memwb.workbench.charts.thinning import bound

Column = Sample | None
Measure = Callable[[Sample], int]
"""The bytes of a sample that a chart draws."""

ALLOCATED: Measure = attrgetter("allocated")
TIME = attrgetter("time")

LOAD_SHARE = 0.12
"""How much of the width loading may take: it is one slow ramp, the steps hold the detail."""
LOAD_MOST = 16
"""Columns that show loading well enough; what is left goes to the steps."""
FIRST_SPAN = 0.1
"""Seconds that a step of unknown length is thought to last, until it lasts longer."""


class Slot(msgspec.Struct, frozen=True):
    """The columns of one step: ``start`` to ``start + width``, in fractions of a column."""

    step: int
    start: float
    width: float

    @property
    def first(self) -> int:
        """Its first whole column."""
        return int(self.start + 1e-6)

    @property
    def columns(self) -> int:
        """How many columns it touches; steps too many for the width share columns."""
        return max(1, int(self.start + self.width + 1e-6) - self.first)


class Seen(msgspec.Struct, frozen=True):
    """What of a slot is seen: its columns ``[begin, end)``, and where in the chart they are."""

    slot: Slot
    begin: int
    end: int
    shown: Slot


def slots(steps: Iterable[int], width: int, total: int | None = None) -> tuple[Slot, ...]:
    """The shares of the width: loading (step 0) a small one, the other steps equal ones.

    They are told in columns of ``total``, to which the width is stretched in proportion.
    """
    order = sorted(set(steps))
    if not order or width <= 0:
        return ()
    stretch = (total or width) / width
    if order == [0]:
        return (Slot(0, 0.0, width * stretch),)
    load = max(1, min(LOAD_MOST, round(width * LOAD_SHARE))) if order[0] == 0 else 0
    shared = [step for step in order if step != 0]
    share = (width - load) / len(shared)
    edges = [load + share * index for index in range(len(shared) + 1)]
    # Whole columns while there are enough, so that no column belongs to two steps.
    if share >= 1:
        edges = [float(round(edge)) for edge in edges]
    edges = [edge * stretch for edge in edges]
    if share * stretch >= 1:
        edges = [float(round(edge)) for edge in edges]
    found = [Slot(0, 0.0, edges[0])] if load else []
    found += [
        Slot(step, edges[index], edges[index + 1] - edges[index])
        for index, step in enumerate(shared)
    ]
    return tuple(found)


def seen(layout: Sequence[Slot], first: int, width: int) -> list[Seen]:
    """The slots of which a chart sees something that shows ``width`` columns from ``first`` on."""
    found = []
    for slot in layout:
        begin = max(0, first - slot.first)
        end = min(slot.columns, first + width - slot.first)
        if begin >= end:
            continue
        at = slot.first + begin - first
        # The share of a slot that is seen whole may be a fraction of a column.
        cut = begin or end < slot.columns
        shown = Slot(slot.step, at, end - begin) if cut else moved(slot, first)
        found.append(Seen(slot, begin, end, shown))
    return found


def moved(slot: Slot, first: int) -> Slot:
    """The slot in columns from ``first`` on."""
    return Slot(slot.step, slot.start - first, slot.width) if first else slot


def peaks(
    samples: Sequence[Sample],
    columns: int,
    span: float,
    closed: bool,
    *,
    part: tuple[int, int] | None = None,
    measure: Measure = ALLOCATED,
) -> list[Column]:
    """For each column of a step the sample with the most bytes in its time.

    A column in whose time nothing happened shows the sample before it: memory holds its level
    until the next event. After the last sample of a step that is not ``closed`` it is None.
    ``part`` asks for some of the columns alone, which costs as much as what happened in them.
    """
    begin, end = part or (0, columns)
    found: list[Column] = [None] * max(0, end - begin)
    if not samples or not found:
        return found
    start, last = samples[0].time, columns - 1
    # A hair less than the whole, so that the last sample falls into the last column.
    scale = columns * (1 - 1e-9) / span if span > 0 else 0.0
    low, high = 0, len(samples)
    if part is not None and scale:
        # A column more on either side: what is divided here was multiplied there.
        low = max(0, bisect_left(samples, start + (begin - 1) / scale, key=TIME) - 1)
        high = bisect_left(samples, start + (end + 1) / scale, key=TIME)
    shown = samples[low:high] if part else samples
    places = _places(shown, start, scale, last)
    first = bisect_left(places, begin)
    # Those of one column stand side by side: the highest of them is found at C speed.
    while first < len(places) and places[first] < end:
        after = bisect_right(places, places[first], first)
        found[places[first] - begin] = max(shown[first:after], key=measure)
        first = after
    if not closed:
        end = min(end, _places(samples[-1:], start, scale, last)[0] + 1)
    # What holds in an empty column is the last sample before it, not the peak before it.
    for column in range(begin, end):
        if found[column - begin] is None:
            before = bisect_right(places, column) - 1
            found[column - begin] = shown[before] if before >= 0 else shown[0]
    return found


def _places(samples: Sequence[Sample], start: float, scale: float, last: int) -> list[int]:
    """The column of each sample, never falling: a clock that goes back stays where it was."""
    found = [int((sample.time - start) * scale) for sample in samples]
    if found and (found[0] < 0 or found[-1] > last or found != sorted(found)):
        found = list(accumulate((max(0, min(last, place)) for place in found), max))
    return found


class Timeline:
    """Samples by step, growing while a burst runs. Not frozen: a chart appends to it."""

    def __init__(self, samples: Iterable[Sample] = (), steps: Iterable[int] = ()) -> None:
        self.by_step: dict[int, list[Sample]] = {}
        self.expected = tuple(steps)
        """Steps that will come; their room is kept free so that the axis stands still."""
        self.open: int | None = None
        """The step that is still going on: its length is a guess."""
        self.peak: Sample | None = None
        self.append(samples)
        self.open = None

    def append(self, samples: Iterable[Sample]) -> set[int]:
        """Add samples in their order; the steps that changed."""
        changed: set[int] = set()
        held: list[Sample] = []
        most = self.peak.allocated if self.peak else -1
        for sample in samples:
            step = sample.step
            if step != self.open or not changed:
                # The step before is over now, and so its width is known.
                changed |= {step} if self.open is None else {step, self.open}
                held = self.by_step.setdefault(step, [])
                self.open = step
            held.append(sample)
            if sample.allocated > most:
                self.peak, most = sample, sample.allocated
        bound(self.by_step, changed)
        return changed

    def replace(self, step: int, samples: Sequence[Sample]) -> None:
        """Put the exact samples of a finished step in the place of its live ones."""
        self.by_step[step] = list(samples)
        if self.open == step:
            self.open = None
        if not samples:
            del self.by_step[step]
        bound(self.by_step, (step,))
        everything = (sample for part in self.by_step.values() for sample in part)
        self.peak = max(everything, key=lambda sample: sample.allocated, default=None)

    def copy(self) -> Timeline:
        """The same samples, safe from what is appended to this one."""
        other = Timeline(steps=self.expected)
        other.by_step = {step: list(samples) for step, samples in self.by_step.items()}
        other.open, other.peak = self.open, self.peak
        return other

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        step = self.open if self.open in self.by_step else max(self.by_step, default=None)
        return self.by_step[step][-1] if step is not None else None

    def steps(self) -> list[int]:
        """The steps that need a slot: those seen, those expected, and loading at the start."""
        known = {*self.by_step, *self.expected}
        return sorted(known | ({0} if self.expected and not self.by_step else set()))

    def span(self, step: int) -> float:
        """Seconds that the step's slot stands for."""
        samples = self.by_step[step]
        elapsed = samples[-1].time - samples[0].time
        if step != self.open:
            return elapsed
        before = [part for other, part in self.by_step.items() if 0 < other < step]
        guess = (before[-1][-1].time - before[-1][0].time) if before else FIRST_SPAN
        guess = max(guess, 1e-6)
        # Grows in strides, so that most samples only add columns at the end.
        return guess * 2.0 ** max(0, math.ceil(math.log2(max(elapsed, guess) / guess) - 1e-9))

    def columns(
        self, slot: Slot, part: tuple[int, int] | None = None, measure: Measure = ALLOCATED
    ) -> list[Column]:
        """The samples that the slot's columns, or those of a part of it, stand for."""
        samples = self.by_step.get(slot.step)
        if not samples:
            begin, end = part or (0, slot.columns)
            return [None] * (end - begin)
        closed, span = slot.step != self.open, self.span(slot.step)
        whole = part is None or part == (0, slot.columns)
        return peaks(
            samples, slot.columns, span, closed, part=None if whole else part, measure=measure
        )

    def place(self, sample: Sample, layout: Sequence[Slot]) -> int | None:
        """The column of a layout in whose time the sample is; None without its step."""
        slot = next((slot for slot in layout if slot.step == sample.step), None)
        samples = self.by_step.get(sample.step)
        if slot is None or not samples:
            return None
        span = self.span(sample.step)
        # As ``peaks`` does it, to the last bit.
        scale = slot.columns * (1 - 1e-9) / span if span > 0 else 0.0
        column = int((sample.time - samples[0].time) * scale)
        return slot.first + max(0, min(slot.columns - 1, column))

    def before(self, sample: Sample) -> Sample | None:
        """The sample before one of its step, or the last of the step before; None at the start."""
        held = self.by_step.get(sample.step, [])
        at = bisect_left(held, sample.time, key=TIME)
        while at < len(held) and held[at] is not sample:
            at += 1
        if 0 < at < len(held):
            return held[at - 1]
        earlier = [step for step in self.by_step if step < sample.step]
        return self.by_step[max(earlier)][-1] if at == 0 and held and earlier else None

    def highest(self, measure: Measure = ALLOCATED) -> Sample | None:
        """The sample with the most bytes."""
        if measure is ALLOCATED:
            return self.peak
        everything = (sample for part in self.by_step.values() for sample in part)
        return max(everything, key=measure, default=None)


def merge(
    layout: Sequence[Slot],
    parts: Sequence[Sequence[Column]],
    width: int,
    measure: Measure = ALLOCATED,
) -> list[Column]:
    """All columns of a chart; where slots share one, the sample with the most bytes."""
    found: list[Column] = [None] * width
    for slot, part in zip(layout, parts, strict=True):
        for column, sample in enumerate(part, slot.first):
            if column >= width or sample is None:
                continue
            held = found[column]
            if held is None or measure(sample) > measure(held):
                found[column] = sample
    return found


def column_of(columns: Sequence[Column], sample: Sample) -> int | None:
    """The column that shows the sample, or the nearest of its step; None without any."""
    best: tuple[float, int] | None = None
    for index, held in enumerate(columns):
        if held is sample:
            return index
        if held is not None and held.step == sample.step:
            distance = abs(held.time - sample.time)
            if best is None or distance < best[0]:
                best = (distance, index)
    return best[1] if best else None
