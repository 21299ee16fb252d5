"""What a run on the meta device did to memory, in order, with the origin of every storage."""

from __future__ import annotations

import functools
from collections import ChainMap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from memwb.engine.trainer.alive import Birth as Birth
from memwb.engine.trainer.alive import Member
from memwb.engine.trainer.causes import WORKSPACE as WORKSPACE
from memwb.engine.trainer.trace import TEMPORARY, Moment

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Columns(NamedTuple):
    """Moments by columns, which arithmetic on all of them at once takes: numpy arrays of int64."""

    steps: Ints
    phases: Ints
    """Indices into ``names``."""
    storages: Ints
    changes: Ints
    names: tuple[str, ...]

    def phase(self, index: int) -> str:
        """The phase of one moment."""
        return self.names[int(self.phases[index])]


class Stream:
    """Loading and steps 1 and 2: every change of memory, in order.

    ``moments`` are those of a trace: the ``change`` in bytes of a ``storage``, or the begin of a
    phase (storage -1, change 0). Sizes are what was asked for, not yet what an allocator makes
    of it. A storage is born with its first change, may grow or shrink by others, and is gone
    when its changes add up to nothing; its name is not used again. ``births`` has every storage.

    A stream is made of moments or of columns, and has both: the other form is made when it is
    asked for. Who makes a stream of very many births may say what they have in common, so that
    not all of them have to be made.
    """

    def __init__(
        self,
        moments: list[Moment] | Columns,
        births: Mapping[int, Birth],
        categories: Ints | None = None,
        dtypes: frozenset[str] | None = None,
    ) -> None:
        self.births = births
        if isinstance(moments, Columns):
            self.columns = moments
        else:
            self.moments = moments
        if categories is not None:
            self.categories = categories
        if dtypes is not None:
            self.dtypes = dtypes

    def __reduce__(self) -> tuple[Any, ...]:
        return Stream, (self.columns, dict(self.births))

    @functools.cached_property
    def moments(self) -> list[Moment]:
        """One after another; times count them."""
        steps, phases, storages, changes, names = self.columns
        columns = (steps.tolist(), phases.tolist(), storages.tolist(), changes.tolist())
        rows = zip(range(len(steps)), *columns, strict=True)
        return [Moment(at, step, names[phase], *rest) for at, step, phase, *rest in rows]

    @functools.cached_property
    def columns(self) -> Columns:
        """All of them by columns."""
        names = tuple(dict.fromkeys(moment[2] for moment in self.moments))
        numbers = {name: number for number, name in enumerate(names)}
        rows = [(one[1], numbers[one[2]], one[3], one[4]) for one in self.moments]
        table = np.array(rows, np.int64).reshape(-1, 4).T.copy()
        return Columns(table[0], table[1], table[2], table[3], names)

    @functools.cached_property
    def categories(self) -> Ints:
        """The category of each storage, at its name; something at the end, for no storage (-1)."""
        found = np.zeros(max(self.births, default=0) + 2, np.int64)
        found[list(self.births)] = [birth[0] for birth in self.births.values()]
        return found

    @functools.cached_property
    def dtypes(self) -> frozenset[str]:
        """Of all storages."""
        return frozenset(birth.dtype for birth in self.births.values())


_PRODUCTS = frozenset(f"aten.{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "matmul"))


def with_workspaces(stream: Stream, sizes: Mapping[str, int]) -> Stream:
    """The stream with what the matrix library takes at its first product of a phase, and keeps.

    ``sizes`` maps a phase to bytes. No tensor has them, so they are temporary.
    """
    columns = stream.columns
    name = max(int(columns.storages.max(initial=0)), len(stream.categories) - 2)
    places, names, changes = [], [], []
    births: dict[int, Birth] = {}
    for phase, size in sizes.items():
        at = _first_product(stream, phase)
        if at is not None:
            name += 1
            births[name] = Birth(TEMPORARY, "", WORKSPACE, (size,), "uint8")
            places.append(at)
            names.append(name)
            changes.append(size)
    inserted = Columns(
        np.insert(columns.steps, places, columns.steps[places]),
        np.insert(columns.phases, places, columns.phases[places]),
        np.insert(columns.storages, places, names),
        np.insert(columns.changes, places, changes),
        columns.names,
    )
    categories = np.append(stream.categories[:-1], [TEMPORARY] * (len(names) + 1))
    dtypes = stream.dtypes | {birth.dtype for birth in births.values()}
    rest: Any = stream.births
    return Stream(inserted, ChainMap(births, rest), categories, dtypes)


def _first_product(stream: Stream, phase: str) -> int | None:
    """The first moment of a phase at which a product takes memory, or gives it back."""
    _, phases, storages, _, names = stream.columns
    # The loss has the output head's product: forward, to the library.
    wanted = [names.index(n) for n in (phase, *(["loss"] * (phase == "forward"))) if n in names]
    for at in np.flatnonzero(np.isin(phases, wanted) & (storages >= 0)):
        birth = stream.births.get(int(storages[at]))
        if birth is not None and birth.op in _PRODUCTS:
            return int(at)
    return None


def alive_at(stream: Stream, index: int) -> list[Member]:
    """Every storage alive after a moment, in the order of their births."""
    storages, changes = stream.columns.storages[: index + 1], stream.columns.changes[: index + 1]
    # Where nothing is named (-1) is the last place, and nothing changes there.
    sizes = np.zeros(storages.max(initial=0) + 2, np.int64)
    np.add.at(sizes, storages, changes)
    first = np.zeros_like(sizes)
    # Backwards: of what is put into one place the last stays.
    first[storages[::-1]] = np.arange(len(storages))[::-1]
    alive = np.flatnonzero(sizes)
    alive = alive[first[alive].argsort()]
    return [
        (size, stream.births[name])
        for name, size in zip(alive.tolist(), sizes[alive].tolist(), strict=True)
    ]
