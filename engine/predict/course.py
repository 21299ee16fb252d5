"""The course of memory that a stream makes on a target: allocated by category, and reserved."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from memwb.engine.allocator_settings import Settings, rounded
from memwb.engine.memory import CATEGORIES
from memwb.engine.predict.allocator import replay
from memwb.engine.predict.stream import Stream
from memwb.engine.predict.targets import Target
from memwb.engine.trainer.trace import TEMPORARY, Moment, Row

_Ints = np.ndarray[Any, np.dtype[np.int64]]

Totals = Any
"""A numpy array of int64, [moments, categories]: bytes after each moment."""


class Course(NamedTuple):
    """Memory after each moment of a stream. Bytes."""

    moments: list[Moment]
    totals: Totals
    peak: int
    """Index of the first moment of the most allocated bytes."""
    reserved: int
    """The most that the allocator held; what is allocated at the peak where nothing is cached."""

    def row(self, index: int) -> Row:
        """Memory after one moment, as a trace has it. Times count moments."""
        moment = self.moments[index]
        totals = tuple(int(value) for value in self.totals[index])
        return Row(float(index), moment.step, moment.phase, totals)


def course_of(stream: Stream, target: Target) -> Course:
    """What the stream makes of the target's memory.

    On a CPU nothing is rounded and nothing cached. On CUDA the stream goes through a model of the
    caching allocator; what it hands out in blocks that were not worth splitting counts as
    temporary, as it does for the meter of bursts.
    """
    moments, births = stream
    if not moments:
        return Course([], np.zeros((0, len(CATEGORIES)), np.int64), 0, 0)
    changes = np.array([moment[4] for moment in moments], np.int64)
    storages = np.array([moment[3] for moment in moments], np.int64)
    if target.kind == "cuda":
        changes = _in_blocks(storages, changes, target.allocator)
    categories = np.zeros(max(births, default=0) + 2, np.int64)
    categories[list(births)] = [birth[0] for birth in births.values()]
    totals = np.zeros((len(moments), len(CATEGORIES)), np.int64)
    # The begin of a phase has storage -1 and changes nothing.
    totals[np.arange(len(moments)), categories[storages]] = changes
    totals = totals.cumsum(axis=0)
    if target.kind != "cuda":
        sums = totals.sum(axis=1)
        peak = _highest(moments, sums)
        return Course(moments, totals, peak, int(sums[peak]))
    found = replay(stream, target.allocator)
    totals[:, TEMPORARY] += np.frombuffer(found.allocated, np.int64) - totals.sum(axis=1)
    peak = _highest(moments, totals.sum(axis=1))
    return Course(moments, totals, peak, found.highest_reserved)


def _highest(moments: list[Moment], sums: Any) -> int:
    """The first moment of the most bytes; where both steps reach them, of the steady one."""
    found = np.flatnonzero(sums == sums.max())
    return next((int(one) for one in found if moments[one].step > 1), int(found[0]))


def _in_blocks(storages: _Ints, changes: _Ints, settings: Settings) -> _Ints:
    """The changes of the moments, with every storage's size rounded up as the allocator does."""
    order = np.argsort(storages, kind="stable")
    sorts, steps = storages[order], changes[order]
    sums = steps.cumsum()
    begins = np.flatnonzero(np.diff(sorts, prepend=sorts[0] - 1))
    lengths = np.diff(begins, append=len(sorts))
    after = sums - np.repeat(sums[begins] - steps[begins], lengths)
    sizes, places = np.unique(after, return_inverse=True)
    blocks = np.array([rounded(size, settings) if size else 0 for size in sizes.tolist()])
    after = blocks[places]
    before = np.concatenate(([0], after[:-1]))
    before[begins] = 0
    made = np.empty_like(changes)
    made[order] = after - before
    return made


def thinned(course: Course, first: int, last: int, limit: int) -> list[Row]:
    """The rows from ``first`` to before ``last``: the highest of each slice and of each phase, and
    the turns of phases.
    """
    if first >= last:
        return []
    sums = course.totals[first:last].sum(axis=1)
    width = max(1, -(-len(sums) // limit))
    slices = np.arange(0, len(sums), width)
    # Of each slice the first of the most, the last slice being filled up with less than anything.
    filled = np.full(len(slices) * width, -1, np.int64)
    filled[: len(sums)] = sums
    highest = first + slices + filled.reshape(-1, width).argmax(axis=1)
    kept = {first, last - 1, *highest.tolist()}
    moments = course.moments
    turns = [index for index in range(first, last) if moments[index][3] < 0]
    for index in turns:
        kept |= {index, max(first, index - 1)}
    for begin, end in pairwise((first, *turns, last)):
        if begin < end:
            kept.add(begin + int(sums[begin - first : end - first].argmax()))
    places = sorted(kept)
    # All at once: a number of numpy's made one of Python's takes longer than the rest of a row.
    rows = course.totals[places].tolist()
    return [
        Row(float(index), moments[index].step, moments[index].phase, tuple(row))
        for index, row in zip(places, rows, strict=True)
    ]
