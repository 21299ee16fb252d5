"""One pool of the CUDA caching allocator: its segments, and the blocks that are free in them.

Follows ``BlockPool``, ``should_split``, ``get_free_block``, ``try_merge_blocks``,
``release_blocks`` and the functions on expandable segments of torch 2.11 to 2.13
(``c10/cuda/CUDACachingAllocator.cpp``). A block is its first address and its size. Only free
blocks are kept here, ordered by size and then by address, and found by either end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import NamedTuple

from memwb.engine.allocator_settings import MIB, MIN_BLOCK, Settings

SMALL_REQUEST = MIB
"""The largest request that the small pool serves (``kSmallSize``)."""
SMALL_SEGMENT = 2 * MIB
"""What the small pool asks the driver for (``kSmallBuffer``)."""

# An address in a key of ``Pool.keys``; the size stands before it.
_BITS = 64
_ADDRESS = (1 << _BITS) - 1


class Block(NamedTuple):
    """A block that is handed out. ``size`` may be more than was asked for."""

    start: int
    size: int
    small: bool


# A named tuple's own constructor is Python code, which takes three times as long.
_new = tuple.__new__


class Pool:
    """The small or the large pool of one stream."""

    def __init__(self, settings: Settings, small: bool) -> None:
        self.small = small
        self.expandable = settings.expandable_segments
        self.page = SMALL_SEGMENT if small else settings.large_segment_size
        """What an expandable segment grows by."""
        self.keys: list[int] = []
        """The free blocks, ordered by size and address: the key that best fit looks for."""
        self.starts: dict[int, int] = {}
        """First address to size, of free blocks."""
        self.ends: dict[int, int] = {}
        """End address to first address, of free blocks."""
        self.segments: dict[int, int] = {}
        """First address to size; of an expandable segment the whole of its address range."""
        self.unmapped: dict[int, int] = {}
        """The address ranges of expandable segments that have no memory: first address to size."""
        self.ages: dict[int, int] | None = None
        """The count of searches when a free block came in; kept for garbage collection only."""
        self.searches = 0
        self._rounding = settings.max_non_split_rounding
        self._limit = settings.max_split_size
        # The small pool splits whatever leaves a block, the large one what leaves more than
        # 1 MiB; expandable segments are split like the small pool (``should_split``).
        self._least_rest = MIN_BLOCK if small or self.expandable else SMALL_REQUEST + 1
        self._splits_below = None if small or self.expandable else self._limit

    def take(self, size: int) -> Block | None:
        """The smallest free block for ``size``, the lowest of those, split if it is worth it.

        A request below ``max_split_size`` never gets a block of that size or more, and one above
        gets no block that exceeds it by ``max_non_split_rounding`` (``get_free_block``).
        """
        if self.ages is not None:
            self.searches += 1
        keys = self.keys
        at = bisect_left(keys, size << _BITS)
        if at == len(keys):
            return None
        if self.expandable:
            at = self._least_roomy(at)
        found = keys[at] >> _BITS
        limit = self._limit
        if limit is not None and (
            found >= limit if size < limit else found >= size + self._rounding
        ):
            return None
        start = keys.pop(at) & _ADDRESS
        del self.starts[start]
        return self._cut(start, found, size)

    def take_at(self, start: int, size: int) -> Block:
        """The free block at an address, split if it is worth it: new memory goes to its request."""
        found = self.starts.pop(start)
        del self.keys[bisect_left(self.keys, found << _BITS | start)]
        return self._cut(start, found, size)

    def _cut(self, start: int, found: int, size: int) -> Block:
        """Hand out ``size`` of a block, or all of it if the rest is too small to keep."""
        rest = found - size
        if rest < self._least_rest or (
            self._splits_below is not None and size >= self._splits_below
        ):
            del self.ends[start + found]
            return _new(Block, (start, found, self.small))
        begin = start + size
        self.starts[begin] = rest
        self.ends[start + found] = begin
        insort(self.keys, rest << _BITS | begin)
        if self.ages is not None:
            self.ages[begin] = self.searches
        return _new(Block, (start, size, self.small))

    def give(self, start: int, size: int) -> int:
        """A block is free: join it with free neighbours of its segment (``free_block``).

        Gives the first address of what came of it.
        """
        starts, ends, keys = self.starts, self.ends, self.keys
        end = start + size
        if start in ends and start not in self.segments:
            before = ends.pop(start)
            joined = starts.pop(before)
            del keys[bisect_left(keys, joined << _BITS | before)]
            start = before
            size += joined
        if end in starts and end not in self.segments:
            joined = starts.pop(end)
            del keys[bisect_left(keys, joined << _BITS | end)]
            size += joined
            end += joined
        starts[start] = size
        ends[end] = start
        insort(keys, size << _BITS | start)
        if self.ages is not None:
            self.ages[start] = self.searches
        return start

    def remove(self, start: int) -> int:
        """Take a free block out of the pool; gives its size."""
        size = self.starts.pop(start)
        del self.ends[start + size]
        del self.keys[bisect_left(self.keys, size << _BITS | start)]
        return size

    def add_segment(self, start: int, size: int) -> None:
        """What the driver gave is one free block."""
        self.segments[start] = size
        self.give(start, size)

    def free_segments(self) -> list[tuple[int, int]]:
        """The segments that are one free block, by size: what can go back to the driver."""
        if self.expandable:
            return []
        blocks = ((key & _ADDRESS, key >> _BITS) for key in self.keys)
        return [(start, size) for start, size in blocks if self.segments.get(start) == size]

    def drop_segment(self, start: int) -> int:
        """A segment that is one free block goes back to the driver; gives its size."""
        size = self.remove(start)
        assert self.segments.pop(start) == size, "only a wholly free segment can go"
        return size

    # Expandable segments: address ranges that are mapped page by page.

    def add_span(self, start: int, size: int) -> None:
        """An expandable segment: addresses with no memory yet."""
        self.segments[start] = self.unmapped[start] = size

    def room(self, size: int) -> int | None:
        """Where ``size`` bytes fit when more is mapped (``find_expandable_block``).

        The lowest unmapped range, with the free block before it, that has the room; None if a
        new segment is needed.
        """
        for begin in sorted(self.unmapped):
            start = begin
            if begin in self.ends and begin not in self.segments:
                start = self.ends[begin]
            at = start
            while at - start < size:
                length = self._allocatable(at, start)
                if not length:
                    break
                at += length
            if at - start >= size:
                return start
        return None

    def pages(self, size: int) -> int:
        """``size`` in whole pages."""
        return -(-size // self.page) * self.page

    def map(self, start: int, size: int, free: int | None) -> int:
        """Map whole pages from ``start``, the begin of an unmapped range, for ``size`` bytes.

        Gives how many bytes were mapped: 0 if they are more than ``free``, what the driver has
        (None: endless). They join the free blocks (``map_block``).
        """
        pages = self.pages(size)
        if free is not None and pages > free:
            return 0
        length = self.unmapped.pop(start)
        if pages < length:
            self.unmapped[start + pages] = length - pages
        self.give(start, pages)
        return pages

    def unmap(self) -> list[tuple[int, int]]:
        """Unmap every page that is wholly free; gives the ranges (``unmap_block``)."""
        gone = []
        for start, size in [(key & _ADDRESS, key >> _BITS) for key in self.keys]:
            base = self.segment_of(start)
            begin = base + self.pages(start - base)
            end = base + (start + size - base) // self.page * self.page
            if begin < end:
                self.unmap_range(start, begin, end)
                gone.append((begin, end - begin))
        return gone

    def unmap_range(self, start: int, begin: int, end: int) -> None:
        """Unmap pages of the free block at ``start``; a segment with no page left is forgotten."""
        base = self.segment_of(begin)
        size = self.remove(start)
        assert start <= begin and end <= start + size, "only free pages can be unmapped"
        if start < begin:
            self.give(start, begin - start)
        if end < start + size:
            self.give(end, start + size - end)
        length = end - begin
        if end not in self.segments:
            length += self.unmapped.pop(end, 0)
        for other, before in self.unmapped.items():
            if other + before == begin and begin != base:
                begin = other
                length += before
                break
        if length == self.segments[base]:
            self.unmapped.pop(begin, None)
            del self.segments[base]
        else:
            self.unmapped[begin] = length

    def segment_of(self, address: int) -> int:
        """The first address of the segment that an address is in."""
        bases = sorted(self.segments)
        return bases[bisect_right(bases, address) - 1]

    def _allocatable(self, at: int, start: int) -> int:
        """The size of the free block or unmapped range at an address of ``start``'s segment."""
        if at in self.segments and at != start:
            return 0
        return self.starts.get(at) or self.unmapped.get(at, 0)

    def _least_roomy(self, at: int) -> int:
        """Best fit counts a block with what it can grow to: the end of a segment comes last."""
        keys = self.keys
        room = self._grown(keys[at])
        while at + 1 < len(keys) and (next_room := self._grown(keys[at + 1])) < room:
            at, room = at + 1, next_room
        return at

    def _grown(self, key: int) -> int:
        size = key >> _BITS
        end = (key & _ADDRESS) + size
        return size + (0 if end in self.segments else self.unmapped.get(end, 0))
