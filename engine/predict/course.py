"""The course of memory that a stream makes on a target: allocated by category, and reserved."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from memwb.engine.allocator_settings import Settings, rounded
from memwb.engine.memory import CATEGORIES
from memwb.engine.predict.allocator import replay
from memwb.engine.predict.stream import Columns, Ints, Stream
from memwb.engine.predict.targets import Target
from memwb.engine.trainer.trace import TEMPORARY, Row

Totals = Any
"""A numpy array of int64, [moments, categories]: bytes after each moment."""


class Course(NamedTuple):
    """Memory after each moment of a stream. Bytes."""

    moments: Columns
    totals: Totals
    peak: int
    """Index of the first moment of the most allocated bytes."""
    reserved: int
    """The most that the allocator held; what is allocated at the peak where nothing is cached."""

    def row(self, index: int) -> Row:
        """Memory after one moment, as a trace has it. Times count moments."""
        return self.rows([index])[0]

    def rows(self, places: list[int]) -> list[Row]:
        """Memory after several moments."""
        # All at once: a number of numpy's made one of Python's takes longer than the rest of a row.
        steps, phases, totals = (
            column[places].tolist()
            for column in (self.moments.steps, self.moments.phases, self.totals)
        )
        names = self.moments.names
        return [
            Row(float(at), step, names[phase], tuple(row))
            for at, step, phase, row in zip(places, steps, phases, totals, strict=True)
        ]


def course_of(stream: Stream, target: Target) -> Course:
    """What the stream makes of the target's memory.

    On a CPU nothing is rounded and nothing cached. On CUDA the stream goes through a model of the
    caching allocator; what it hands out in blocks that were not worth splitting counts as
    temporary, as it does for the meter of bursts.
    """
    moments = stream.columns
    storages, changes = moments.storages, moments.changes
    totals = np.zeros((len(storages), len(CATEGORIES)), np.int64)
    if not len(storages):
        return Course(moments, totals, 0, 0)
    if target.kind == "cuda":
        changes = _in_blocks(storages, changes, target.allocator)
    # The begin of a phase has storage -1 and changes nothing.
    totals[np.arange(len(storages)), stream.categories[storages]] = changes
    totals = totals.cumsum(axis=0)
    if target.kind != "cuda":
        sums = totals.sum(axis=1)
        peak = _highest(moments, sums)
        return Course(moments, totals, peak, int(sums[peak]))
    found = replay(stream, target.allocator)
    totals[:, TEMPORARY] += np.frombuffer(found.allocated, np.int64) - totals.sum(axis=1)
    peak = _highest(moments, totals.sum(axis=1))
    return Course(moments, totals, peak, found.highest_reserved)


def _highest(moments: Columns, sums: Any) -> int:
    """The first moment of the most bytes; where both steps reach them, of the steady one."""
    found = np.flatnonzero(sums == sums.max())
    return int(found[(moments.steps[found] > 1).argmax()])


def _in_blocks(storages: Ints, changes: Ints, settings: Settings) -> Ints:
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
    turns = (first + np.flatnonzero(course.moments.storages[first:last] < 0)).tolist()
    for index in turns:
        kept |= {index, max(first, index - 1)}
    for begin, end in pairwise((first, *turns, last)):
        if begin < end:
            kept.add(begin + int(sums[begin - first : end - first].argmax()))
    return course.rows(sorted(kept))
