"""What a run on the meta device did to memory, in order, with the origin of every storage."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from memwb.engine.trainer.alive import Birth as Birth
from memwb.engine.trainer.alive import Member
from memwb.engine.trainer.causes import WORKSPACE as WORKSPACE
from memwb.engine.trainer.trace import TEMPORARY, Moment


class Stream(NamedTuple):
    """Loading and steps 1 and 2: every change of memory, in order.

    ``moments`` are those of a trace: the ``change`` in bytes of a ``storage``, or the begin of a
    phase (storage -1, change 0). Sizes are what was asked for, not yet what an allocator makes
    of it. A storage is born with its first change, may grow or shrink by others, and is gone
    when its changes add up to nothing; its name is not used again. ``births`` has every storage.
    Times count moments.
    """

    moments: list[Moment]
    births: dict[int, Birth]


_PRODUCTS = frozenset(f"aten.{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "matmul"))


def with_workspaces(stream: Stream, sizes: Mapping[str, int]) -> Stream:
    """The stream with what the matrix library takes at its first product of a phase, and keeps.

    ``sizes`` maps a phase to bytes. No tensor has them, so they are temporary.
    """
    wanted = dict(sizes)
    moments: list[Moment] = []
    births = dict(stream.births)
    name = max(births, default=0)
    for at, moment in enumerate(stream.moments):
        if not wanted:
            moments += stream.moments[at:]
            break
        birth = births.get(moment.storage)
        # The loss has the output head's product: forward, to the library.
        phase = "forward" if moment.phase == "loss" else moment.phase
        if phase in wanted and birth is not None and birth.op in _PRODUCTS:
            name += 1
            births[name] = Birth(TEMPORARY, "", WORKSPACE, (wanted[phase],), "uint8")
            moments.append(moment._replace(storage=name, change=wanted.pop(phase)))
        moments.append(moment)
    return Stream(moments, births)


def alive_at(stream: Stream, index: int) -> list[Member]:
    """Every storage alive after a moment."""
    alive: dict[int, int] = {}
    for _, _, _, storage, change in islice(stream.moments, index + 1):
        if change:
            alive[storage] = alive.get(storage, 0) + change
    return [(size, stream.births[storage]) for storage, size in alive.items() if size]
