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
    if not mine or [part[0].phase for part in mine] != [part[0].phase for part in theirs]:
        return None
    found: list[Sample] = []
    ends = [part[0].time for part in theirs[1:]] + [onto[-1].time]
    starts = [part[0].time for part in mine[1:]] + [samples[-1].time]
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
