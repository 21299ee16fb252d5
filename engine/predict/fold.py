"""The stream of all layers out of the streams of a few.

Decoder layers are alike, so a plan traced with one period of layers more does what it did with
fewer, and here and there a stretch once more: a forward, a backward, an optimizer's work on one
more layer. Those stretches are found by comparing two streams and are repeated as often as the
full depth asks. Nothing is assumed of where they are: gradient accumulation, recomputation and
lists of temporaries are stretches like any other. Where the two streams do not differ in just
this way there is no answer, and the caller traces every layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from memwb.engine.predict.compose import Stretch, compose
from memwb.engine.predict.events import Names, read
from memwb.engine.predict.stream import Ints, Stream

# Candidates tried before giving up. Streams that fold need about one for each stretch.
_TRIES = 3000

# How far two streams are compared to tell a better candidate from a worse one.
_AHEAD = 2048


def fold(
    short: Stream, long: Stream, depth: int, short_depth: int, long_depth: int
) -> Stream | None:
    """The stream of ``depth`` layers from those of ``short_depth`` and ``long_depth`` layers.

    ``long_depth - short_depth`` is the period of the layers' pattern, and ``depth`` is a whole
    number of periods deeper than ``short_depth``. Sizes that grow with the number of layers (the
    norms of all gradients in one tensor) go on growing evenly. None where the streams differ in
    any other way than by stretches that repeat what comes right before them.
    """
    period = long_depth - short_depth
    if period < 1 or depth < short_depth or (depth - short_depth) % period:
        return None
    names = Names(short, long)
    one, other = read(short, names), read(long, names)
    stretches = _stretches(one.tokens, other.tokens)
    if stretches is None:
        return None
    return compose(one, other, stretches, long, names, (depth - short_depth) // period)


def _stretches(short: Ints, long: Ints) -> list[Stretch] | None:
    """What the long stream has beyond the short one, if that is repetitions only.

    Depth-first: each stretch that could explain the next difference is tried, the one after
    which the streams agree for longest first.
    """
    branches = [iter([_Branch((), 0, 0)])]
    for _ in range(_TRIES):
        if not branches:
            return None
        branch = next(branches[-1], None)
        if branch is None:
            branches.pop()
            continue
        at, by = branch.short, branch.long
        agreed = _agreement(short[at:], long[by:])
        at, by = at + agreed, by + agreed
        if at == len(short) and by == len(long):
            return list(branch.found)
        branches.append(_candidates(short, long, at, by, branch.found))
    return None


class _Branch(NamedTuple):
    """Stretches found so far, and where the comparing goes on in both streams."""

    found: tuple[Stretch, ...]
    short: int
    long: int


def _candidates(
    short: Ints, long: Ints, at: int, by: int, found: tuple[Stretch, ...]
) -> Iterator[_Branch]:
    most = min((len(long) - by) - (len(short) - at), by)
    if most < 1:
        return iter(())
    lengths = np.arange(1, most + 1)
    # The stretch repeats what is before it: its first and its last moment tell most apart.
    fits = (long[by] == long[by - lengths]) & (long[by + lengths - 1] == long[by - 1])
    if at < len(short):
        inside = lengths < len(long) - by
        fits &= inside
        fits[inside] &= long[by + lengths[inside]] == short[at]
    else:
        fits &= lengths == len(long) - by
    rated = []
    for length in lengths[fits].tolist():
        if np.array_equal(long[by : by + length], long[by - length : by]):
            after = by + length
            agreed = _agreement(short[at : at + _AHEAD], long[after : after + _AHEAD])
            rated.append((-agreed, length))
    return (_Branch((*found, Stretch(by, length)), at, by + length) for _, length in sorted(rated))


def _agreement(one: Ints, other: Ints) -> int:
    """How many moments two streams have in common from their begin."""
    both = min(len(one), len(other))
    # Most differences are near; looking at everything each time would be slow.
    reach = 256
    while True:
        reach = min(reach, both)
        differ = one[:reach] != other[:reach]
        first = int(differ.argmax()) if reach else 0
        if reach and differ[first]:
            return first
        if reach == both:
            return both
        reach *= 8
