"""The course of memory that a stream makes on a target: allocated by category, and reserved."""

from __future__ import annotations

from typing import NamedTuple

from memwb.engine.memory import CATEGORIES
from memwb.engine.predict.allocator import replay
from memwb.engine.predict.settings import rounded
from memwb.engine.predict.stream import Stream
from memwb.engine.predict.targets import Target
from memwb.engine.trainer.trace import TEMPORARY, Row


class Course(NamedTuple):
    """Memory after each moment of a stream. Bytes."""

    rows: list[Row]
    """Allocated by category. Times count moments."""
    peak: int
    """Index of the first row of the most allocated bytes."""
    reserved: int
    """The most that the allocator held; what is allocated at the peak where nothing is cached."""
    unsplit: int
    """Of the peak's bytes: what the allocator handed out beyond the requests, rounded up."""


def course_of(stream: Stream, target: Target) -> Course:
    """What the stream makes of the target's memory.

    On a CPU nothing is rounded and nothing cached. On CUDA the stream goes through a model of the
    caching allocator; what it hands out in blocks that were not worth splitting counts as
    temporary, as it does for the meter of bursts.
    """
    cuda = target.kind == "cuda"
    settings = target.allocator
    births = stream.births
    sizes: dict[int, int] = {}
    totals = [0] * len(CATEGORIES)
    rows: list[Row] = []
    peak, most = 0, -1
    found = replay(stream, settings) if cuda else None
    for index, (_, step, phase, storage, change) in enumerate(stream.moments):
        if change:
            category = births[storage].category
            if cuda:
                before = sizes.get(storage, 0)
                after = sizes[storage] = before + change
                change = (rounded(after, settings) if after else 0) - (
                    rounded(before, settings) if before else 0
                )
            totals[category] += change
        told = tuple(totals)
        total = sum(told)
        if found is not None and found.allocated[index] != total:
            unsplit = found.allocated[index] - total
            told = (*told[:TEMPORARY], told[TEMPORARY] + unsplit)
            total += unsplit
        if total > most:
            peak, most = index, total
        rows.append(Row(float(index), step, phase, told))
    if found is None:
        return Course(rows, peak, max(most, 0), 0)
    live: dict[int, int] = {}
    for _, _, _, storage, change in stream.moments[: peak + 1]:
        if change:
            live[storage] = live.get(storage, 0) + change
    category_bytes = sum(rounded(size, settings) for size in live.values() if size)
    return Course(rows, peak, found.highest_reserved, most - category_bytes)
