"""Holds the allocator's model against what a real allocator recorded. Pure: no torch, no GPU.

A recording is ``torch.cuda.memory._snapshot()`` without what is of no use here: its
``device_traces`` (see trainer/history.py for their entries) and ``allocator_settings``. It must
begin before the first allocation: blocks older than the history cannot be followed.
"""

from __future__ import annotations

import gzip
import json
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memwb.engine.allocator_settings import Settings, settings_from
from memwb.engine.predict.allocator import Allocator, Block
from memwb.engine.predict.stream import Stream
from memwb.engine.trainer.trace import Moment

# An entry on running out of memory has ``device_free`` in place of ``addr``. Times are left out:
# the order is all that matters, and without them a recording is a fifth of the size.
_KEPT = ("action", "addr", "device_free", "size", "stream")
_CAME = ("segment_alloc", "segment_map")
_WENT = ("segment_free", "segment_unmap")

Entry = Mapping[str, Any]


class Recording(NamedTuple):
    """What one device's allocator did, and how it was set up."""

    entries: list[Entry]
    settings: Settings


class Followed(NamedTuple):
    """How far the model did the same as the allocator. Bytes."""

    allocations: int
    """Those that the model put at the very address that the allocator chose."""
    difference: str
    """The first thing that the two did differently; empty if there is none."""
    highest_reserved: int
    """Of the recording."""


class _DiffersError(Exception):
    """The model does something else than what was recorded."""


def save(snapshot: Mapping[str, Any], path: Path) -> None:
    """Write a snapshot as ``read`` reads it, gzipped JSON, without stacks."""
    found = {
        "device_traces": [
            [{key: entry[key] for key in _KEPT if key in entry} for entry in entries]
            for entries in snapshot["device_traces"]
        ],
        "allocator_settings": snapshot.get("allocator_settings", {}),
    }
    # No time in the header: the same recording is the same file.
    path.write_bytes(gzip.compress(json.dumps(found, separators=(",", ":")).encode(), mtime=0))


def read(path: Path, device: int = 0) -> Recording:
    """A recording of one device, from JSON, gzipped if the name says so."""
    content = path.read_bytes()
    snapshot = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    known = snapshot["allocator_settings"]
    text = known.get("PYTORCH_CUDA_ALLOC_CONF") or known.get("PYTORCH_ALLOC_CONF") or ""
    return Recording(snapshot["device_traces"][device], settings_from(text))


def follow(recording: Recording) -> Followed:
    """Let the model make the recorded allocations, with segments where the driver put them.

    Every block must come out where the allocator put it, and every segment when and as large as
    recorded. What was given back to the driver is given back here too, since why it was (memory
    was short, or it was asked for) is not recorded. Each CUDA stream has pools of its own.
    """
    followers: dict[int, _Follower] = {}
    difference = ""
    for index, entry in enumerate(recording.entries):
        stream = int(entry.get("stream", 0))
        if stream not in followers:
            followers[stream] = _Follower(recording.settings)
        try:
            followers[stream].see(entry["action"], int(entry.get("addr", 0)), int(entry["size"]))
        except _DiffersError as error:
            difference = f"entry {index}: {error}"
            break
    return Followed(
        allocations=sum(follower.allocations for follower in followers.values()),
        difference=difference,
        highest_reserved=_highest_reserved(recording.entries),
    )


def streams(entries: Iterable[Entry]) -> list[Stream]:
    """The recorded allocations as streams of memory to replay, one for each CUDA stream."""
    found: dict[int, list[Moment]] = {}
    living: dict[int, tuple[int, int]] = {}
    names = 0
    for entry in entries:
        address, size = int(entry.get("addr", 0)), int(entry["size"])
        moments = found.setdefault(int(entry.get("stream", 0)), [])
        if entry["action"] == "alloc":
            names += 1
            living[address] = (names, size)
            moments.append(Moment(0.0, 0, "", names, size))
        # Only now may the allocator hand the block out again.
        elif entry["action"] == "free_completed" and address in living:
            name, size = living.pop(address)
            moments.append(Moment(0.0, 0, "", name, -size))
    return [Stream(moments, {}) for moments in found.values() if moments]


class _Follower:
    """The model of one CUDA stream's pools, and what the recording says comes next."""

    def __init__(self, settings: Settings) -> None:
        self.allocations = 0
        self._model = Allocator(settings, place=self._place)
        self._came: deque[tuple[int, int]] = deque()
        self._reserved = 0
        self._blocks: dict[int, Block] = {}

    def see(self, action: str, address: int, size: int) -> None:
        if action in _CAME:
            self._came.append((address, size))
            self._reserved += size
        elif action in _WENT:
            self._reserved -= size
            self._give_back(action, address, size)
        elif action == "alloc":
            self._allocate(address, size)
        elif action == "free_completed" and address in self._blocks:
            self._model.free(self._blocks.pop(address))

    def _allocate(self, address: int, size: int) -> None:
        block = self._model.malloc(size)
        if self._model.reserved != self._reserved:
            raise _DiffersError(
                f"{size} B: the model holds {self._model.reserved} B, not {self._reserved} B"
            )
        if block.start != address:
            raise _DiffersError(
                f"{size} B: the model puts it at {block.start:#x}, not {address:#x}"
            )
        self._came.clear()
        self._blocks[address] = block
        self.allocations += 1

    def _place(self, size: int, small: bool) -> int:
        if not self._came:
            raise _DiffersError(f"the model asks for a segment of {size} B, the allocator for none")
        address, recorded = self._came[0]
        if not self._model.settings.expandable_segments:
            self._came.popleft()
            if recorded != size:
                raise _DiffersError(f"the model asks for {size} B, the allocator for {recorded}")
        return address

    def _give_back(self, action: str, address: int, size: int) -> None:
        for pool in (self._model.small, self._model.large):
            start = max((key for key in pool.starts if key <= address), default=0)
            if start and start + pool.starts[start] >= address + size:
                break
        else:
            raise _DiffersError(f"{size} B at {address:#x} went back, and are not free here")
        if action == "segment_free":
            pool.drop_segment(start)
        else:
            pool.unmap_range(start, address, address + size)
        self._model.reserved -= size


def _highest_reserved(entries: Iterable[Entry]) -> int:
    held = highest = 0
    for entry in entries:
        if entry["action"] in _CAME:
            held += int(entry["size"])
            highest = max(highest, held)
        elif entry["action"] in _WENT:
            held -= int(entry["size"])
    return highest
