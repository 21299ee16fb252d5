"""A step of one run on the clock of the same step of another, so that the two can be laid over
each other: what took longer in one of them must not shift all that follows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from msgspec.structs import replace

from memwb.engine.protocol import Sample


def aligned(samples: Sequence[Sample], onto: Sequence[Sample]) -> list[Sample] | None:
    """The samples of a step at the times of ``onto``, phase by phase.

    A phase with as many samples in both is matched sample by sample, so that equal runs lie on
    each other; any other is stretched over the same span. None if the phases are not the same.
    """
    mine, theirs = _phases(samples), _phases(onto)
    return _laid(mine, theirs) if mine and _names(mine) == _names(theirs) else None


def finished(samples: Sequence[Sample], onto: Sequence[Sample]) -> list[Sample] | None:
    """The same of a step that ended early: of its phases but the last, whose end nobody knows.

    None if it did not end early, or has other phases.
    """
    mine, theirs = _phases(samples), _phases(onto)
    known = len(theirs)
    if not 0 < known < len(mine) or _names(mine[:known]) != _names(theirs):
        return None
    # Its start is the end of the one before it.
    return _laid(mine[:known], theirs)[: sum(map(len, mine[: known - 1]))]


def _laid(mine: list[list[Sample]], theirs: list[list[Sample]]) -> list[Sample]:
    """The samples of phases at the times of the same phases of another run."""
    found: list[Sample] = []
    ends = [part[0].time for part in theirs[1:]] + [theirs[-1][-1].time]
    starts = [part[0].time for part in mine[1:]] + [mine[-1][-1].time]
    for part, other, end, after in zip(mine, theirs, ends, starts, strict=True):
        if len(part) == len(other):
            found += [replace(a, time=b.time) for a, b in zip(part, other, strict=True)]
            continue
        first, start = part[0].time, other[0].time
        scale = (end - start) / (after - first) if after > first else 0.0
        found += [replace(one, time=start + (one.time - first) * scale) for one in part]
    return found


def _phases(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples in runs of one phase."""
    return [list(part) for _, part in groupby(samples, key=lambda one: one.phase)]


def _names(phases: list[list[Sample]]) -> list[str]:
    return [part[0].phase for part in phases]
