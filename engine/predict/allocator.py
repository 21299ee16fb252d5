"""A model of torch's CUDA caching allocator: what a stream of memory makes it reserve.

One device, one CUDA stream, the native backend. The rules are those of
``DeviceCachingAllocator`` in ``c10/cuda/CUDACachingAllocator.cpp`` with the constants of
``c10/core/AllocatorConfig.h``, the same in torch 2.11 to 2.13; each function names the one it
follows. Two things are not in that file. The driver gives out segments at rising addresses here
(they decide only between free blocks of equal size), and it has exactly ``capacity`` bytes.

Written from torch's source; unverified on a GPU until recordings of one stand beside those made
by hand (see recorded.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import NamedTuple

from memwb.engine.allocator_settings import (
    MIB,
    Settings,
    rounded,
    settings_from,
    settings_of,
)
from memwb.engine.predict.pool import SMALL_REQUEST, SMALL_SEGMENT, Block, Pool
from memwb.engine.predict.stream import Stream

__all__ = [
    "Allocator",
    "Block",
    "Replay",
    "Settings",
    "replay",
    "segment_size",
    "settings_from",
    "settings_of",
]

LARGE_REQUEST = 10 * MIB
"""From here on a request has a segment of its own (``kMinLargeAlloc``)."""
ROUND_LARGE = 2 * MIB
"""Segments of large requests are multiples of this (``kRoundLarge``)."""

# Address space is not scarce: what an expandable segment spans where no capacity is given.
_SPAN = 1 << 46


class Replay(NamedTuple):
    """What the allocator held after each moment of a stream. Bytes."""

    allocated: array[int]
    """In blocks handed out: requests rounded up, with what was not worth splitting off."""
    reserved: array[int]
    """In segments held from the driver."""
    highest_allocated: int
    highest_at: int
    """Index of the first moment of the most allocated bytes; -1 for an empty stream."""
    highest_reserved: int
    """May be more than the most after any moment: memory may come and go within one."""
    ran_out: int | None
    """Index of the moment whose request could not be met; the replay goes on from there as if
    the capacity had no end. None where it was enough, or none was given."""


class OutOfMemory(Exception):
    """The driver has no more, and nothing cached can be given back to it."""


class Allocator:
    """The two pools, and what they hold from the driver."""

    def __init__(
        self,
        settings: Settings,
        capacity: int | None = None,
        place: Callable[[int, bool], int] | None = None,
    ) -> None:
        """``place`` says at which address the driver puts a segment of so many bytes in the
        small pool (or not); without it addresses rise."""
        self.settings = settings
        self.allocated = 0
        self.reserved = 0
        self.highest_reserved = 0
        self.capacity = capacity
        self.small = Pool(settings, small=True)
        self.large = Pool(settings, small=False)
        self._place = place or self._next_place
        # Requests of few sizes are made again and again.
        self._sizes: dict[int, int] = {}
        # A segment's address is never 0, and segments never touch.
        self._address = ROUND_LARGE
        self._allowed: int | None = None
        if capacity is not None and settings.memory_fraction < 1:
            # Torch takes the part of all the device has; what the context holds is not known here.
            self._allowed = int(settings.memory_fraction * capacity)
            if settings.garbage_collection_threshold > 0:
                self.large.ages = {}

    def malloc(self, request: int) -> Block:
        """A block for ``request`` > 0 bytes; raises OutOfMemory (``malloc``).

        A cached block first. Else new memory: after the garbage collection if it is on, after
        oversize blocks were given back, after everything unused was given back.
        """
        size = self._sizes.get(request)
        if size is None:
            size = self._sizes[request] = rounded(request, self.settings)
        pool = self.small if size <= SMALL_REQUEST else self.large
        block = pool.take(size) or self._grow(pool, size)
        self.allocated += block[1]
        return block

    def free(self, block: Block) -> None:
        """The block is cached for the next request (``free``)."""
        start, size, small = block
        self.allocated -= size
        (self.small if small else self.large).give(start, size)

    def empty_cache(self) -> None:
        """Give everything unused back to the driver (``release_cached_blocks``).

        That is a segment which is one free block, and the free pages of expandable segments.
        """
        for pool in (self.large, self.small):
            if pool.expandable:
                self.reserved -= sum(size for _, size in pool.unmap())
            for start, _ in pool.free_segments():
                self._release(pool, start)

    def lift(self) -> None:
        """From now on there is no end of memory."""
        self.capacity = self._allowed = self.large.ages = None

    def _grow(self, pool: Pool, size: int) -> Block:
        """A block of new memory, for a request that no cached block can meet."""
        if self.large.ages is not None:
            self._collect_garbage()
        start = self._reserve(pool, size)
        if start is None and self._release_oversize(pool, size):
            start = self._reserve(pool, size)
        if start is None:
            self.empty_cache()
            start = self._reserve(pool, size)
        if start is None:
            raise OutOfMemory
        return pool.take_at(start, size)

    def _reserve(self, pool: Pool, size: int) -> int | None:
        """Where the driver gave memory for ``size``, None if it could not (``alloc_block``)."""
        asked = segment_size(size, self.settings)
        if self._allowed is not None and self.reserved + asked > self._allowed:
            return None
        if pool.expandable:
            return self._expand(pool, size)
        if self.capacity is not None and self.reserved + asked > self.capacity:
            return None
        self._hold(asked)
        start = self._place(asked, pool.small)
        pool.add_segment(start, asked)
        return start

    def _expand(self, pool: Pool, size: int) -> int | None:
        """Map pages of an expandable segment until a free block of it has ``size``.

        What was mapped before memory ran out stays mapped (``try_allocate_expandable_block``).
        """
        start = pool.room(size)
        if start is None:
            # A segment spans nine eighths of the device's memory (``ExpandableSegment``).
            span = _SPAN if self.capacity is None else self.capacity * 9 // 8
            span = pool.pages(max(span, size))
            start = self._place(span, pool.small)
            pool.add_span(start, span)
        while (have := pool.starts.get(start, 0)) < size:
            begin = start + have
            wanted = min(size - have, pool.unmapped[begin])
            free = None if self.capacity is None else self.capacity - self.reserved
            mapped = pool.map(begin, wanted, free)
            if not mapped:
                return None
            self._hold(mapped)
        return start

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """Give back the smallest oversize block that is enough, or as many of the largest as it
        takes; whether that could be enough (``release_available_cached_blocks``).

        Oversize is ``max_split_size`` or more; expandable segments have no such blocks.
        """
        limit = self.settings.max_split_size
        if limit is None or pool.expandable:
            return False
        wanted = max(size, limit)
        oversize = [(start, held) for start, held in pool.free_segments() if held >= limit]
        for start, held in oversize:
            if held >= wanted:
                self._release(pool, start)
                return True
        released = 0
        for start, held in reversed(oversize):
            if released >= wanted:
                break
            self._release(pool, start)
            released += held
        return released >= wanted

    def _collect_garbage(self) -> None:
        """Give back unused large segments that were not looked at for long, above the threshold.

        Those of at least the average age go, and again, until what is held is below the
        threshold or none is left (``garbage_collect_cached_blocks``). Age counts the searches
        of the large pool.
        """
        pool, allowed = self.large, self._allowed
        assert allowed is not None and pool.ages is not None
        threshold = int(self.settings.garbage_collection_threshold * allowed)
        if self.reserved <= threshold:
            return
        target = self.reserved - threshold
        waiting = {start: pool.searches - pool.ages[start] for start, _ in pool.free_segments()}
        total, reclaimed, found = sum(waiting.values()), 0, True
        while waiting and found and reclaimed < target:
            average, found = total / len(waiting), False
            for start, age in list(waiting.items()):
                if age >= average:
                    found = True
                    total -= age
                    reclaimed += self._release(pool, start)
                    del waiting[start]

    def _release(self, pool: Pool, start: int) -> int:
        """A free segment goes back to the driver; gives its size (``release_block``)."""
        size = pool.drop_segment(start)
        self.reserved -= size
        return size

    def _hold(self, size: int) -> None:
        self.reserved += size
        self.highest_reserved = max(self.highest_reserved, self.reserved)

    def _next_place(self, size: int, small: bool) -> int:
        start = self._address
        self._address += -(-size // ROUND_LARGE) * ROUND_LARGE + ROUND_LARGE
        return start


def segment_size(size: int, settings: Settings) -> int:
    """What the driver is asked for when a block of ``size`` is needed (``get_allocation_size``)."""
    if size <= SMALL_REQUEST:
        return SMALL_SEGMENT
    if size < LARGE_REQUEST:
        return settings.large_segment_size
    return -(-size // ROUND_LARGE) * ROUND_LARGE


def replay(stream: Stream, settings: Settings, capacity: int | None = None) -> Replay:
    """What the allocator makes of a stream, moment by moment.

    A storage that grows or shrinks gets a new block and then gives its old one back, as
    ``resize_bytes_cuda`` (``aten/src/ATen/native/cuda/Resize.cpp``) does. ``capacity`` is what
    the driver can give to tensors, in bytes: what is left of the device beside the context.
    """
    allocator = Allocator(settings, capacity)
    malloc, free = allocator.malloc, allocator.free
    living: dict[int, tuple[Block, int]] = {}
    # Lists while it grows, since appending to them is quicker.
    allocated: list[int] = []
    reserved: list[int] = []
    ran_out: int | None = None
    columns = stream.columns
    for storage, change in zip(columns.storages.tolist(), columns.changes.tolist(), strict=True):
        if change:
            old = living.pop(storage, None)
            size = change if old is None else old[1] + change
            if size:
                try:
                    block = malloc(size)
                except OutOfMemory:
                    ran_out = len(allocated)
                    allocator.lift()
                    block = malloc(size)
                living[storage] = (block, size)
            if old is not None:
                free(old[0])
        allocated.append(allocator.allocated)
        reserved.append(allocator.reserved)
    highest = max(allocated, default=0)
    return Replay(
        allocated=array("q", allocated),
        reserved=array("q", reserved),
        highest_allocated=highest,
        highest_at=allocated.index(highest) if allocated else -1,
        highest_reserved=allocator.highest_reserved,
        ran_out=ran_out,
    )
