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
    changes = [moment.change for moment in moments]
    if target.kind == "cuda":
        changes = _in_blocks(moments, target.allocator)
    totals = np.zeros((len(moments), len(CATEGORIES)), np.int64)
    categories = [births[one.storage].category if one.change else 0 for one in moments]
    totals[np.arange(len(moments)), categories] = changes
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


def _in_blocks(moments: list[Moment], settings: Settings) -> list[int]:
    """The changes of the moments, with every storage's size rounded up as the allocator does."""
    living: dict[int, tuple[int, int]] = {}
    blocks: dict[int, int] = {0: 0}
    changes = []
    for _, _, _, storage, change in moments:
        if change:
            before, held = living.pop(storage, _NOTHING)
            after = before + change
            block = blocks.get(after)
            if block is None:
                block = blocks[after] = rounded(after, settings)
            if after:
                living[storage] = (after, block)
            change = block - held
        changes.append(change)
    return changes


_NOTHING = (0, 0)


def thinned(course: Course, first: int, last: int, limit: int) -> list[Row]:
    """The rows from ``first`` to before ``last``: the highest of each slice and of each phase, and
    the turns of phases.
    """
    if first >= last:
        return []
    sums = course.totals[first:last].sum(axis=1)
    width = max(1, -(-len(sums) // limit))
    kept = {first, last - 1}
    for begin in range(0, len(sums), width):
        kept.add(first + begin + int(sums[begin : begin + width].argmax()))
    turns = [index for index in range(first, last) if course.moments[index].storage < 0]
    for index in turns:
        kept |= {index, max(first, index - 1)}
    for begin, end in pairwise((first, *turns, last)):
        if begin < end:
            kept.add(begin + int(sums[begin - first : end - first].argmax()))
    return [course.row(index) for index in sorted(kept)]
