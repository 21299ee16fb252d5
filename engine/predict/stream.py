"""What a run on the meta device did to memory, in order, with the origin of every storage."""

from __future__ import annotations

from typing import NamedTuple

from memwb.engine.trainer.trace import Moment


class Birth(NamedTuple):
    """Where a storage came from, and what it was."""

    category: int
    """Index into CATEGORIES (trace.WEIGHTS and so on)."""
    module: str
    """The module at work, as ``model.layers.3.mlp``; empty outside of modules."""
    op: str
    """The operator, as ``aten.mm``; empty for what no operator made."""
    shape: tuple[int, ...]
    dtype: str
    """As ``bfloat16``."""


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
