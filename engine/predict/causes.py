"""Why what training makes is alive at the peak: its tensors by reason."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from memwb.engine.predict.stream import WORKSPACE, Birth, Stream
from memwb.engine.trainer.trace import ACTIVATIONS, TEMPORARY, WEIGHTS

LOGITS = "logits, their softmax and gradient"
SCORES = "attention scores"
SCRATCH = "the optimizer's scratch"
LAYERS = "what the layers keep for backward"
LAYER = "what one layer needs while its backward runs"
PASSING = "gradients of weights under way"
LIBRARY = "the matrix library's workspaces"
OTHERS = "other tensors"

_SCORING = frozenset(("aten._softmax", "aten._safe_softmax", "aten.bmm", "aten.baddbmm"))


class Cause(NamedTuple):
    """Tensors alive at the peak that are there for one reason."""

    name: str
    bytes: int
    tensors: int
    shape: tuple[int, ...]
    """Of the largest of them."""
    dtype: str


class Model(NamedTuple):
    """What tells tensors apart."""

    vocabulary: int
    length: int
    """Tokens in a row."""
    weights: Collection[tuple[int, ...]]
    """The shapes of its weights."""


def causes_at(stream: Stream, index: int, vocabulary: int, length: int) -> tuple[Cause, ...]:
    """What forward, loss, backward and optimizer have made and is alive, by reason; most first."""
    columns = stream.columns
    phase = columns.phase(index) if len(columns.phases) else ""
    names = np.flatnonzero(stream.categories == WEIGHTS).tolist()
    weights = {stream.births[name].shape for name in names if name in stream.births}
    model = Model(vocabulary, length, weights)
    groups: defaultdict[str, list[tuple[int, Birth]]] = defaultdict(list)
    for storage, size in alive_at(stream, index).items():
        birth = stream.births[storage]
        if birth.category in (ACTIVATIONS, TEMPORARY):
            groups[_reason(birth, phase, model)].append((size, birth))
    found = []
    for name, members in groups.items():
        _, largest = max(members, key=lambda member: member[0])
        total = sum(size for size, _ in members)
        found.append(Cause(name, total, len(members), largest.shape, largest.dtype))
    return tuple(sorted(found, key=lambda cause: -cause.bytes))


def _reason(birth: Birth, phase: str, model: Model) -> str:
    # A layer may have matrices as wide as the vocabulary or the row is long: where a tensor was
    # made comes before what it looks like.
    shape, layer = birth.shape, birth.module != starred(birth.module)
    if birth.op == WORKSPACE:
        return LIBRARY
    if birth.category == TEMPORARY and phase == "optimizer":
        return SCRATCH
    if model.vocabulary and shape[-1:] == (model.vocabulary,) and not layer:
        return LOGITS
    square = model.length > 1 and shape[-2:] == (model.length, model.length)
    if square and (len(shape) > 3 or birth.op in _SCORING):
        return SCORES
    if birth.category == ACTIVATIONS and layer:
        return LAYERS
    if birth.category == TEMPORARY and phase == "backward":
        if len(shape) > 1 and shape in model.weights:
            return PASSING
        if layer:
            return LAYER
    return OTHERS


def alive_at(stream: Stream, index: int) -> dict[int, int]:
    """The bytes of every storage alive after a moment, in the order of their births."""
    storages, changes = stream.columns.storages[: index + 1], stream.columns.changes[: index + 1]
    # Where nothing is named (-1) is the last place, and nothing changes there.
    sizes = np.zeros(storages.max(initial=0) + 2, np.int64)
    np.add.at(sizes, storages, changes)
    first = np.zeros_like(sizes)
    # Backwards: of what is put into one place the last stays.
    first[storages[::-1]] = np.arange(len(storages))[::-1]
    alive = np.flatnonzero(sizes)
    alive = alive[first[alive].argsort()]
    return dict(zip(alive.tolist(), sizes[alive].tolist(), strict=True))


@functools.lru_cache(1 << 16)
def starred(module: str) -> str:
    """A module's name with ``*`` for the numbers in it."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)
