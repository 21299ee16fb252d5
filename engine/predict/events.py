"""Streams by columns, with a number for what each moment does: what folding compares."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np

from memwb.engine.predict.stream import Ints, Stream

BIRTH, CHANGE, FREE, MARK = range(4)


class Events(NamedTuple):
    """A stream by columns: one entry a moment."""

    tokens: Ints
    """Moments with the same token do the same, be it to another layer."""
    kinds: Ints
    storages: Ints
    ranks: Ints
    """How many storages of the same token were born later and still live; 0 at birth."""
    sizes: Ints
    """Bytes at birth or of the change; 0 for a free, which takes what is there."""
    layers: Ints
    """The number of the layer that the storage was born in; 0 outside of layers."""


class Names:
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
        for step, phase, storage, change in _rows(stream):
            if storage >= 0 and storage not in keys:
                category, module, op, shape, dtype = births[storage]
                name = self.split(module)[0]
                keys[storage] = (step, phase, category, name, op, shape, dtype, change)
        return keys


def _rows(stream: Stream) -> Iterator[tuple[int, str, int, int]]:
    """Step, phase, storage and change of each moment."""
    steps, phases, storages, changes, names = stream.columns
    told = map(names.__getitem__, phases.tolist())
    return zip(steps.tolist(), told, storages.tolist(), changes.tolist(), strict=True)


def _split(module: str) -> tuple[str, int]:
    parts = module.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join([*parts[:index], "*", *parts[index + 1 :]]), int(part)
    return module, 0


def read(stream: Stream, names: Names) -> Events:
    """The columns of a stream."""
    births = names.of_births(stream)
    layers_of = {name: names.split(birth.module)[1] for name, birth in stream.births.items()}
    left: dict[int, int] = {}
    living: dict[int, list[int]] = {}
    tokens, kinds, storages, ranks, sizes, layers = [], [], [], [], [], []
    for step, phase, storage, change in _rows(stream):
        rank = 0
        if storage < 0:
            kind, token, layer = MARK, names.number((step, phase)), 0
        else:
            token, layer = births[storage], layers_of[storage]
            alike = living.setdefault(token, [])
            if storage not in left:
                kind = BIRTH
                left[storage] = change
                alike.append(storage)
            else:
                left[storage] += change
                place = alike.index(storage)
                rank = len(alike) - 1 - place
                if left[storage]:
                    kind = CHANGE
                    token = names.number((token, step, phase, change > 0))
                else:
                    kind, token, change = FREE, names.number((token, "free")), 0
                    del alike[place]
        tokens.append(token)
        kinds.append(kind)
        storages.append(storage)
        ranks.append(rank)
        sizes.append(change)
        layers.append(layer)
    table = np.array([tokens, kinds, storages, ranks, sizes, layers], dtype=np.int64)
    return Events(*table)
