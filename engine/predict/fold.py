"""The stream of all layers out of the streams of a few.

Decoder layers are alike, so a plan traced with one period of layers more does what it did with
fewer, and here and there a stretch once more: a forward, a backward, an optimizer's work on one
more layer. Those stretches are found by comparing two streams and are repeated as often as the
full depth asks. Nothing is assumed of where they are: gradient accumulation, recomputation and
lists of temporaries are stretches like any other. Where the two streams do not differ in just
this way there is no answer, and the caller traces every layer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from memwb.engine.predict.stream import Birth, Stream
from memwb.engine.trainer.trace import Moment

_Ints = np.ndarray[Any, np.dtype[np.int64]]

_BIRTH, _CHANGE, _FREE, _MARK = range(4)

# Candidates tried before giving up. Streams that fold need about one for each stretch.
_TRIES = 3000

# How far two streams are compared to tell a better candidate from a worse one.
_AHEAD = 2048


class _Events(NamedTuple):
    """A stream by columns: one entry a moment."""

    tokens: _Ints
    """Moments with the same token do the same, be it to another layer."""
    kinds: list[int]
    storages: list[int]
    ranks: _Ints
    """How many storages of the same token were born later and still live; 0 at birth."""
    sizes: _Ints
    """Bytes at birth or of the change; 0 for a free, which takes what is there."""
    layers: _Ints
    """The number of the layer that the storage was born in; 0 outside of layers."""


class _Stretch(NamedTuple):
    """``length`` moments of the long stream from ``start`` on that the short one lacks."""

    start: int
    length: int


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
    names = _Names(short, long)
    one, other = _read(short, names), _read(long, names)
    stretches = _stretches(one.tokens, other.tokens)
    if stretches is None:
        return None
    return _compose(one, other, stretches, long, names, (depth - short_depth) // period)


class _Names:
    """Numbers for tokens that two streams share."""

    def __init__(self, short: Stream, long: Stream) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._split: dict[str, tuple[str, int]] = {"": ("", 0)}
        self._modules: dict[tuple[str, int], str] = {}
        few, more = self._keys(short), self._keys(long)
        self._of = {id(short): few, id(long): more}
        # What occurs in one stream only is of a size that goes with the number of layers:
        # whatever belongs to a layer occurs in both.
        self._scaled = set(few.values()) ^ set(more.values())
        self.shapes: dict[int, set[tuple[int, ...]]] = {}
        """The shapes of each token whose size goes with the number of layers."""

    def of_births(self, stream: Stream) -> dict[int, int]:
        """The token of each storage's birth."""
        found = {}
        for storage, key in self._of[id(stream)].items():
            if key in self._scaled:
                birth = stream.births[storage]
                key = (*key[:4], birth.op, len(birth.shape), birth.dtype)
                number = self.number(key)
                self.shapes.setdefault(number, set()).add(birth.shape)
            else:
                number = self.number(key)
            found[storage] = number
        return found

    def number(self, key: Hashable) -> int:
        """The token of a key."""
        return self._numbers.setdefault(key, len(self._numbers))

    def split(self, module: str) -> tuple[str, int]:
        """A module's name with ``*`` in place of its layer's number, and that number."""
        known = self._split.get(module)
        if known is None:
            known = self._split[module] = _split(module)
        return known

    def in_layer(self, module: str, layer: int) -> str:
        """The module's name with that number in place of its layer's."""
        known = self._modules.get((module, layer))
        if known is None:
            known = self.split(module)[0].replace("*", str(layer), 1)
            self._modules[module, layer] = known
        return known

    def _keys(self, stream: Stream) -> dict[int, tuple[Any, ...]]:
        keys: dict[int, tuple[Any, ...]] = {}
        births = stream.births
        for _, step, phase, storage, change in stream.moments:
            if storage >= 0 and storage not in keys:
                category, module, op, shape, dtype = births[storage]
                name = self.split(module)[0]
                keys[storage] = (step, phase, category, name, op, shape, dtype, change)
        return keys


def _split(module: str) -> tuple[str, int]:
    parts = module.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join([*parts[:index], "*", *parts[index + 1 :]]), int(part)
    return module, 0


def _read(stream: Stream, names: _Names) -> _Events:
    births = names.of_births(stream)
    layers_of = {name: names.split(birth.module)[1] for name, birth in stream.births.items()}
    left: dict[int, int] = {}
    living: dict[int, list[int]] = {}
    tokens, kinds, storages, ranks, sizes, layers = [], [], [], [], [], []
    for _, step, phase, storage, change in stream.moments:
        rank = 0
        if storage < 0:
            kind, token, layer = _MARK, names.number((step, phase)), 0
        else:
            token, layer = births[storage], layers_of[storage]
            alike = living.setdefault(token, [])
            if storage not in left:
                kind = _BIRTH
                left[storage] = change
                alike.append(storage)
            else:
                left[storage] += change
                place = alike.index(storage)
                rank = len(alike) - 1 - place
                if left[storage]:
                    kind = _CHANGE
                    token = names.number((token, step, phase, change > 0))
                else:
                    kind, token, change = _FREE, names.number((token, "free")), 0
                    del alike[place]
        tokens.append(token)
        kinds.append(kind)
        storages.append(storage)
        ranks.append(rank)
        sizes.append(change)
        layers.append(layer)
    columns = [np.array(column, dtype=np.int64) for column in (tokens, ranks, sizes, layers)]
    return _Events(columns[0], kinds, storages, *columns[1:])


def _stretches(short: _Ints, long: _Ints) -> list[_Stretch] | None:
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

    found: tuple[_Stretch, ...]
    short: int
    long: int


def _candidates(
    short: _Ints, long: _Ints, at: int, by: int, found: tuple[_Stretch, ...]
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
    return (_Branch((*found, _Stretch(by, length)), at, by + length) for _, length in sorted(rated))


def _agreement(one: _Ints, other: _Ints) -> int:
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


def _compose(
    short: _Events,
    long: _Events,
    stretches: list[_Stretch],
    stream: Stream,
    names: _Names,
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

    def spread(few: _Ints, more: _Ints) -> _Ints:
        earlier = more[before]
        place = own[before]
        # A stretch close upon another may repeat moments that the short stream lacks too.
        deeper = np.where(place >= 0, earlier - few[np.maximum(place, 0)], 0)
        further = more - earlier
        values: _Ints = (more + deeper * (times - 1))[order] + further[order] * turns
        return values

    pairs = zip(short[3:], long[3:], strict=True)
    ranks, sizes, layers = (spread(few, more).tolist() for few, more in pairs)
    return _play(order.tolist(), long, ranks, sizes, layers, stream, names)


def _order(count: int, stretches: list[_Stretch], times: int) -> tuple[_Ints, _Ints]:
    """Which moment of the long stream comes when, and in which turn of its stretch."""
    order, turns = [], []
    done = 0
    for start, length in [*stretches, _Stretch(count, 0)]:
        order += [np.arange(done, start)]
        turns += [np.zeros(start - done, dtype=np.int64)]
        order += [np.tile(np.arange(start, start + length), times)]
        turns += [np.repeat(np.arange(times), length)]
        done = start + length
    return np.concatenate(order), np.concatenate(turns)


def _places(count: int, stretches: list[_Stretch]) -> _Ints:
    """Where each moment of the long stream is in the short one; -1 where it is not."""
    shared = np.ones(count, dtype=bool)
    for start, length in stretches:
        shared[start : start + length] = False
    return np.where(shared, np.cumsum(shared) - 1, -1)


def _play(
    order: list[int],
    long: _Events,
    ranks: list[int],
    sizes: list[int],
    layers: list[int],
    stream: Stream,
    names: _Names,
) -> Stream | None:
    """The moments in their order, each done to the storage that it is meant for."""
    origins = [stream.births.get(storage) for storage in long.storages]
    kinds, own_layers, own_sizes = long.kinds, long.layers.tolist(), long.sizes.tolist()
    tokens = _births_of(long)
    # By token the storages that live, by name what is left of each.
    living: list[list[int]] = [[] for _ in range(max(tokens, default=0) + 1)]
    left = [0]
    births: list[Birth] = []
    touched: list[int] = []
    changes: list[int] = []
    for at, rank, size, layer in zip(order, ranks, sizes, layers, strict=True):
        kind = kinds[at]
        if kind == _BIRTH:
            name = len(left)
            birth = origins[at]
            if layer != own_layers[at] or size != own_sizes[at]:
                birth = birth and _birth(at, layer, size, long, birth, names)
            if birth is None or size < 0:
                return None
            births.append(birth)
            left.append(size)
            living[tokens[at]].append(name)
        elif kind == _MARK:
            name = -1
        else:
            alike = living[tokens[at]]
            if not 0 <= rank < len(alike):
                return None
            name = alike[-1 - rank]
            if kind == _FREE:
                size = -left[name]
                del alike[-1 - rank]
            else:
                left[name] += size
                if left[name] <= 0:
                    return None
        touched.append(name)
        changes.append(size)
    steps = [moment.step for moment in stream.moments]
    phases = [moment.phase for moment in stream.moments]
    rows = zip(
        range(len(order)),
        map(steps.__getitem__, order),
        map(phases.__getitem__, order),
        touched,
        changes,
        strict=True,
    )
    # A named tuple's own constructor is Python code, which takes three times as long as this.
    moments: list[Moment] = list(map(tuple.__new__, repeat(Moment), rows))
    return Stream(moments, dict(enumerate(births, 1)))


def _births_of(long: _Events) -> list[int]:
    """For each moment the token that its storage was born with."""
    first: dict[int, int] = {-1: -1}
    return [
        first.setdefault(storage, token)
        for storage, token in zip(long.storages, long.tokens.tolist(), strict=True)
    ]


def _birth(
    at: int, layer: int, size: int, long: _Events, birth: Birth, names: _Names
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
