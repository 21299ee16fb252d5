"""Repeats stretches of a stream, and finds which storage each repeated moment is meant for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memwb.engine.predict.events import BIRTH, CHANGE, FREE, MARK, Events, Names
from memwb.engine.predict.stream import Birth, Columns, Ints, Stream


class Stretch(NamedTuple):
    """``length`` moments of the long stream from ``start`` on that the short one lacks."""

    start: int
    length: int


def compose(
    short: Events,
    long: Events,
    stretches: Sequence[Stretch],
    stream: Stream,
    names: Names,
    times: int,
) -> Stream | None:
    """The stretches ``times`` over, everything else once.

    Ranks, sizes and layer numbers are taken to change evenly, from depth to depth and from one
    repetition to the next.
    """
    order, turns = _order(len(long.tokens), stretches, times)
    own = _places(len(long.tokens), stretches)
    before = np.arange(len(long.tokens))
    for start, length in stretches:
        before[start : start + length] -= length

    def spread(few: Ints, more: Ints) -> Ints:
        earlier = more[before]
        place = own[before]
        # A stretch close upon another may repeat moments that the short stream lacks too.
        deeper = np.where(place >= 0, earlier - few[np.maximum(place, 0)], 0)
        further = more - earlier
        values: Ints = (more + deeper * (times - 1))[order] + further[order] * turns
        return values

    pairs = zip(short[3:], long[3:], strict=True)
    ranks, sizes, layers = (spread(few, more) for few, more in pairs)
    kinds, born = long.kinds[order], long.kinds[order] == BIRTH
    if (sizes[born] < 0).any():
        return None
    tokens = np.zeros(long.storages.max(initial=0) + 2, np.int64)
    births = long.kinds == BIRTH
    tokens[long.storages[births]] = long.tokens[births]
    storages = _meant(tokens[long.storages[order]], kinds, ranks)
    changes = None if storages is None else _changes(kinds, sizes, storages)
    if storages is None or changes is None:
        return None
    made = Repeated(order[born], layers[born], sizes[born], long, stream, names)
    if not made.possible():
        return None
    steps, phases = stream.columns.steps[order], stream.columns.phases[order]
    columns = Columns(steps, phases, storages, changes, stream.columns.names)
    of_births = stream.categories[long.storages[order[born]]]
    return Stream(columns, made, np.concatenate(([0], of_births, [0])), stream.dtypes)


def _order(count: int, stretches: Sequence[Stretch], times: int) -> tuple[Ints, Ints]:
    """Which moment of the long stream comes when, and in which turn of its stretch."""
    order, turns = [], []
    done = 0
    for start, length in [*stretches, Stretch(count, 0)]:
        order += [np.arange(done, start)]
        turns += [np.zeros(start - done, dtype=np.int64)]
        order += [np.tile(np.arange(start, start + length), times)]
        turns += [np.repeat(np.arange(times), length)]
        done = start + length
    return np.concatenate(order), np.concatenate(turns)


def _places(count: int, stretches: Sequence[Stretch]) -> Ints:
    """Where each moment of the long stream is in the short one; -1 where it is not."""
    shared = np.ones(count, dtype=bool)
    for start, length in stretches:
        shared[start : start + length] = False
    return np.where(shared, np.cumsum(shared) - 1, -1)


def _meant(tokens: Ints, kinds: Ints, ranks: Ints) -> Ints | None:
    """The storage that each moment is meant for, births being numbered from 1; -1 for marks.

    ``tokens`` are those of the births. A rank counts, of the storages of a token that live, those
    born after the one that is meant. Most often it is the last one (rank 0), or the first: for all
    such tokens that is found at once. None where a rank means nothing that lives.
    """
    storages = np.where(kinds == BIRTH, (kinds == BIRTH).cumsum(), -1)
    at = np.flatnonzero(kinds != MARK)
    at = at[tokens[at].argsort(kind="stable")]
    token, kind, rank = tokens[at], kinds[at], ranks[at]
    begins = np.flatnonzero(np.diff(token, prepend=-1))
    group = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(at)))
    step = (kind == BIRTH).astype(np.int64) - (kind == FREE)
    alive = step.cumsum()
    # How many live: with the one that is born, and with the one that goes.
    alive += (kind == FREE) - (alive[begins] - step[begins])[group]
    later = kind != BIRTH
    if (later & ((rank < 0) | (rank >= alive))).any():
        return None
    other = np.zeros(len(begins), bool)
    other[group[later & (rank > 0)]] = True
    mixed = np.zeros(len(begins), bool)
    mixed[group[later & ((kind == CHANGE) | (rank < alive - 1))]] = True

    # The last one: what came last to where there were as many.
    last = np.flatnonzero(~other[group])
    last = last[(group[last] * (alive.max(initial=0) + 1) + alive[last]).argsort(kind="stable")]
    births = np.where(kind[last] == BIRTH, np.arange(len(last)), 0)
    storages[at[last]] = storages[at[last[np.maximum.accumulate(births)]]]
    # The first one: the n-th that goes is the n-th that came.
    queued = (other & ~mixed)[group]
    came, went = np.flatnonzero(queued & ~later), np.flatnonzero(queued & later)
    turn = np.arange(len(went)) - np.searchsorted(group[went], group[went])
    storages[at[went]] = storages[at[came[np.searchsorted(group[came], group[went]) + turn]]]
    # Any other.
    for number in np.flatnonzero(other & mixed):
        living: list[int] = []
        inside = slice(*np.searchsorted(group, [number, number + 1]))
        for place, one, behind in zip(at[inside], kind[inside], rank[inside], strict=True):
            if one == BIRTH:
                living.append(storages[place])
                continue
            storages[place] = living[-1 - behind]
            if one == FREE:
                del living[-1 - behind]
    return storages


def _changes(kinds: Ints, sizes: Ints, storages: Ints) -> Ints | None:
    """The bytes of each moment: whatever goes takes all that is there. None where something would
    shrink below nothing."""
    changes = np.where(kinds == MARK, 0, sizes)
    free = kinds == FREE
    left = np.zeros(storages.max(initial=0) + 2, np.int64)
    np.add.at(left, storages[~free], changes[~free])
    changes[free] = -left[storages[free]]
    resized = np.isin(storages, storages[kinds == CHANGE]) & ~free
    left[:] = 0
    for storage, change in zip(storages[resized], changes[resized], strict=True):
        left[storage] += change
        if left[storage] <= 0:
            return None
    return changes


class Repeated(Mapping[int, Birth]):
    """The births of a composed stream, each made when it is asked for: few ever are."""

    def __init__(
        self, at: Ints, layers: Ints, sizes: Ints, long: Events, stream: Stream, names: Names
    ) -> None:
        """``at`` has the moment of the long stream that each is like; their names count from 1."""
        self._rows = list(zip(at.tolist(), layers.tolist(), sizes.tolist(), strict=True))
        self._origins = long.storages[at].tolist()
        self._moved = (layers != long.layers[at]) | (sizes != long.sizes[at])
        self._scaled = sizes != long.sizes[at]
        if names.shapes:
            self._scaled |= self._moved & np.isin(long.tokens[at], list(names.shapes))
        self._long, self._births, self._names = long, stream.births, names

    def possible(self) -> bool:
        """Whether those whose size goes with the number of layers can be made."""
        found = np.flatnonzero(self._scaled).tolist()
        return all(self._made(place) is not None for place in found)

    def __getitem__(self, name: int) -> Birth:
        if not 1 <= name <= len(self._rows):
            raise KeyError(name)
        made = self._made(name - 1)
        assert made is not None, "asked before: see possible"
        return made

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self._rows) + 1))

    def __len__(self) -> int:
        return len(self._rows)

    def _made(self, place: int) -> Birth | None:
        birth = self._births[self._origins[place]]
        if not self._moved[place]:
            return birth
        return _birth(*self._rows[place], self._long, birth, self._names)


def _birth(
    at: int, layer: int, size: int, long: Events, birth: Birth, names: Names
) -> Birth | None:
    """The origin of a storage like that of a moment, of another layer and perhaps size.

    None where more than one dimension goes with the number of layers: such sizes do not grow
    evenly.
    """
    category, module, op, shape, dtype = birth
    module = names.in_layer(module, layer)
    shapes = names.shapes.get(int(long.tokens[at])) if names.shapes else None
    if shapes is not None:
        differing = [
            index for index in range(len(shape)) if len({shape[index] for shape in shapes}) > 1
        ]
        if len(differing) > 1:
            return None
        if differing:
            whole, rest = divmod(shape[differing[0]] * size, int(long.sizes[at]))
            if rest:
                return None
            shape = (*shape[: differing[0]], whole, *shape[differing[0] + 1 :])
    return Birth(category, module, op, shape, dtype)
