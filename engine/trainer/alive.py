"""The tensors alive in a moment, those that are alike together. Pure: no torch.

What a burst measures and what is predicted are told in the same words, by the same functions.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from memwb.engine.memory import CATEGORIES, Large
from memwb.engine.trainer.trace import Row

MOST = 20
"""How many kinds of tensors are told."""


class Origin(NamedTuple):
    """Where a storage came from."""

    module: str
    """The module at work, as ``model.layers.3.mlp``; empty outside of modules."""
    op: str
    """The operator, as ``aten.mm``; empty for what no operator made."""
    shape: tuple[int, ...]
    dtype: str
    """As ``bfloat16``."""


class Birth(NamedTuple):
    """Where a storage came from, and what it was."""

    category: int
    """Index into CATEGORIES (trace.WEIGHTS and so on)."""
    module: str
    """See Origin, as all below."""
    op: str
    shape: tuple[int, ...]
    dtype: str


Member = tuple[int, Birth]
"""A storage that is alive: its bytes, and where it came from."""


class Request(NamedTuple):
    """An allocation that failed."""

    bytes: int
    """As the allocator told it; 0 where it did not."""
    origin: Origin
    """Its shape is empty where it is not known: what a kernel wants for itself."""


class Snapshot(NamedTuple):
    """Everything that was alive in a moment of a burst."""

    row: Row
    members: Sequence[Member]
    allocated: int
    """What the allocator counted; the members add up to it, but for what no tensor explains."""
    asked: Request | None = None
    """The allocation that failed in that moment, where one did."""


def largest_of(members: Iterable[Member]) -> tuple[Large, ...]:
    """All of them, those that are alike together; most bytes first."""
    groups: defaultdict[tuple[int, str, str, tuple[int, ...], str], list[Member]] = defaultdict(
        list
    )
    for size, birth in members:
        key = (birth.category, starred(birth.module), birth.op, birth.shape, birth.dtype)
        groups[key].append((size, birth))
    found = []
    for (number, place, op, shape, dtype), alike in groups.items():
        modules = {birth.module for _, birth in alike}
        found.append(
            Large(
                bytes=sum(size for size, _ in alike),
                category=CATEGORIES[number],
                module=place if len(modules) > 1 else alike[0][1].module,
                op=op,
                shape=shape,
                dtype=dtype,
                count=len(alike),
            )
        )
    # Of those that are as large, always the same come first.
    found.sort(key=lambda large: (-large.bytes, large.category, large.module, large.op))
    return tuple(found)


@functools.lru_cache(1 << 16)
def starred(module: str) -> str:
    """A module's name with ``*`` for the numbers in it."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)
