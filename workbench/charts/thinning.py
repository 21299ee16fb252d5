"""Samples of a burst that goes on for hours: so many are kept, and every peak among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memwb.engine.protocol import Sample

EACH = 4096
"""Samples of one step: several for every column of the widest terminal, zoomed in."""
ALL = 3 * EACH
"""Samples of a whole burst: the loading and the two steps that an engine traces are never cut."""
FEWEST = 8
"""A step of no more than so many is left alone."""
BUCKET = 4
Point = tuple[int, float]


def thinned(samples: Sequence[Sample]) -> list[Sample]:
    """About half of them: of every four neighbours the highest and the last.

    The last is the level that memory holds until the next; the first of equal peaks is kept, as it
    is the one that is called the peak.
    """
    found: list[Sample] = []
    for at in range(0, len(samples), BUCKET):
        bucket = samples[at : at + BUCKET]
        high, last = max(bucket, key=lambda sample: sample.allocated), bucket[-1]
        found += [high] if high is last else [high, last]
    return found


def bound(parts: dict[int, list[Sample]], changed: Iterable[int]) -> None:
    """Thin the steps of a burst in place where they have become too many samples."""
    for step in changed:
        part = parts.get(step, [])
        while len(part) > EACH:
            part[:] = thinned(part)
    # Of very many steps each keeps a few. One at a time, so that what is held stands still: to
    # halve them all at once leaves memory in pieces that nothing else fits into.
    held, room = sum(map(len, parts.values())), max(ALL, FEWEST * len(parts))
    while held > room:
        longest = max(parts.values(), key=len)
        held -= len(longest)
        longest[:] = thinned(longest)
        held += len(longest)


def sparse(points: Sequence[Point]) -> list[Point]:
    """About half of a curve's points: of every four neighbours the lowest and the highest.

    The first and the last point stay, and what is no number leaves its gap.
    """
    found = [points[0]]
    for at in range(1, len(points) - 1, BUCKET):
        bucket = points[at : min(at + BUCKET, len(points) - 1)]
        gaps = [point for point in bucket if point[1] != point[1]][:1]
        solid = [point for point in bucket if point[1] == point[1]]
        ends = {min(solid, key=_value), max(solid, key=_value)} if solid else set()
        found += sorted({*ends, *gaps}, key=_step)
    return [*found, points[-1]]


def _value(point: Point) -> float:
    return point[1]


def _step(point: Point) -> int:
    return point[0]
