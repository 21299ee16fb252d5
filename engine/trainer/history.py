"""Reads the CUDA allocator's history into a trace. Pure: no torch, no GPU.

The allocator's entries are those of ``torch.cuda.memory._snapshot()["device_traces"]``: dicts
with ``action``, ``addr``, ``size`` (as requested) and ``time_us`` (microseconds since the epoch).
What the entries do not know, phases and what an address turned out to hold, is noted aside with
the time, and the two are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from memwb.engine.trainer.alive import Birth, Member, Origin
from memwb.engine.trainer.trace import Trace

BLOCK = 512
"""The allocator hands out multiples of this (``kMinBlockSize`` in CUDACachingAllocator)."""


class Note(NamedTuple):
    """Something known at a time: a phase that begins, or of what is in the block at an address."""

    time_us: int
    step: int = 0
    phase: str = ""
    address: int = 0
    category: int = -1
    origin: Origin | None = None
    """Of the tensor that an operator put there."""
    size: int = 0
    """Of that tensor."""
    title: str = ""
    """A better name for it than that of the module that made it."""
    failed: bool = False
    """An allocation failed."""


class History:
    """Feeds entries and notes to a trace, span after span."""

    def __init__(self, trace: Trace, origin_us: int) -> None:
        self.reserved = 0
        self.reserved_at: list[tuple[float, int]] = []
        """When the pool grew or shrank, and to what size; cleared by the reader."""
        self._trace = trace
        self._origin_us = origin_us
        self._names = 0
        self._at: dict[int, int] = {}
        self._tensors: dict[int, tuple[int, Origin]] = {}
        self._titles: dict[int, str] = {}

    def feed(self, entries: Iterable[Mapping[str, Any]], notes: Sequence[Note]) -> None:
        """Merge one span's entries (in their order) with its notes (in theirs).

        A phase noted at a time holds for entries of that very time; a sighting speaks of the
        block that was there at the time. Frees of blocks older than the history are skipped.
        """
        waiting = list(reversed(notes))
        for entry in entries:
            time_us = int(entry["time_us"])
            while waiting and waiting[-1].time_us <= time_us:
                if waiting[-1].time_us == time_us and not waiting[-1].phase:
                    break
                self._note(waiting.pop())
            self._entry(entry, time_us)
        while waiting:
            self._note(waiting.pop())

    def _note(self, note: Note) -> None:
        if note.phase:
            self._trace.mark(self._seconds(note.time_us), note.step, note.phase)
        elif note.failed:
            self._trace.fail()
        elif (name := self._at.get(note.address)) is not None:
            if note.category >= 0:
                self._trace.label(name, note.category)
            if note.origin is not None:
                # Of views and of what changes in place the first maker counts.
                self._tensors.setdefault(name, (note.size, note.origin))
            if note.title:
                self._titles[name] = note.title

    def members(self, row: int) -> list[Member]:
        """The tensors alive in a row of the span that the trace settled last, with their own
        bytes: not those of their blocks, nor blocks of which no operator is known."""
        found = []
        for name, (_, category) in self._trace.alive(row).items():
            size, origin = self._tensors.get(name, (0, None))
            if origin is not None:
                title = self._titles.get(name, origin.module)
                found.append((size, Birth(category, title, *origin[1:])))
        return found

    def forget(self) -> None:
        """Of what is gone nothing is asked any more."""
        living = set(self._at.values())
        self._tensors = {name: self._tensors[name] for name in living & self._tensors.keys()}
        self._titles = {name: self._titles[name] for name in living & self._titles.keys()}

    def _entry(self, entry: Mapping[str, Any], time_us: int) -> None:
        action, size = entry["action"], int(entry["size"])
        time = self._seconds(time_us)
        if action == "alloc":
            self._names += 1
            self._at[int(entry["addr"])] = self._names
            # The history tells the size asked for; the allocator rounds it up. (What it leaves
            # unsplit at the end of a large block is not told, so a total may be a little less
            # than ``memory_allocated``.)
            self._trace.change(time, self._names, max(BLOCK, -(-size // BLOCK) * BLOCK))
        elif action == "free_requested":
            # The tensor is gone here; ``free_completed`` (later if another stream still uses
            # the block) is when the allocator may hand the block out again.
            name = self._at.pop(int(entry["addr"]), None)
            if name is not None:
                self._trace.free(time, name)
        elif action in ("segment_alloc", "segment_map"):
            self._pool(time, size)
        elif action in ("segment_free", "segment_unmap"):
            self._pool(time, -size)

    def _pool(self, time: float, change: int) -> None:
        self.reserved += change
        self.reserved_at.append((time, self.reserved))

    def _seconds(self, time_us: int) -> float:
        return (time_us - self._origin_us) / 1e6
