"""The allocator's model on random sequences: what always holds, and a slow twin that agrees.

The twin keeps plain lists of blocks and looks at all of them each time, block by block as
CUDACachingAllocator.cpp is written; the model finds the same by sorted keys and address maps.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from memwb.engine.allocator_settings import Settings, rounded
from memwb.engine.predict.allocator import Allocator, Block, OutOfMemory

M = 2**20
SETTINGS = {
    "plain": Settings(),
    "expandable": Settings(expandable_segments=True),
    "max_split": Settings(max_split_size=24 * M),
    "large": Settings(large_segment_size=32 * M, max_non_split_rounding=32 * M),
    "roundup": Settings(roundup_power2_divisions=(4,) * 16),
}


@dataclass(eq=False)
class Part:
    """A block of the twin's segment, in use, free, or without memory."""

    start: int
    size: int
    used: bool = False
    mapped: bool = True


@dataclass
class Twin:
    """The pools of one stream without any index; segments come at given addresses."""

    settings: Settings
    capacity: int | None
    segments: dict[bool, list[list[Part]]] = field(default_factory=lambda: {True: [], False: []})
    places: list[int] = field(default_factory=list)
    reserved: int = 0

    def malloc(self, request: int, place: int) -> Part | None:
        size = rounded(request, self.settings)
        small = size <= M
        part = self.best(size, small)
        if part is None and not self.grow(size, small, place):
            again = self.release_oversize(size, small)
            if not (again and self.grow(size, small, place)):
                self.release()
                if not self.grow(size, small, place):
                    return None
        if part is None:
            part = self.found
        whole = small or self.settings.expandable_segments
        limit = self.settings.max_split_size
        rest = part.size - size
        part.used = True
        if rest >= 512 if whole else (rest > M and (limit is None or size < limit)):
            parts = self.parts_of(part)
            parts.insert(parts.index(part) + 1, Part(part.start + size, rest))
            part.size = size
        return part

    def best(self, size: int, small: bool) -> Part | None:
        free = [
            (part.size, part.start, part, parts)
            for parts in self.segments[small]
            for part in parts
            if part.mapped and not part.used and part.size >= size
        ]
        free.sort(key=lambda entry: entry[:2])
        if not free:
            return None
        chosen = free[0]
        if self.settings.expandable_segments:
            for other in free[1:]:
                if self.grown(other[2], other[3]) >= self.grown(chosen[2], chosen[3]):
                    break
                chosen = other
        limit = self.settings.max_split_size
        if limit is not None:
            if size < limit <= chosen[0]:
                return None
            if size >= limit and chosen[0] >= size + self.settings.max_non_split_rounding:
                return None
        return chosen[2]

    def grown(self, part: Part, parts: list[Part]) -> int:
        after = parts[parts.index(part) + 1 :][:1]
        return part.size + sum(other.size for other in after if not other.mapped)

    def grow(self, size: int, small: bool, place: int) -> bool:
        page = 2 * M if small else self.settings.large_segment_size
        if self.settings.expandable_segments:
            return self.expand(size, small, place, page)
        asked = page if small or size < 10 * M else -(-size // (2 * M)) * 2 * M
        if self.capacity is not None and self.reserved + asked > self.capacity:
            return False
        self.reserved += asked
        self.found = Part(place, asked)
        self.segments[small].append([self.found])
        return True

    def expand(self, size: int, small: bool, place: int, page: int) -> bool:
        for parts in sorted(self.segments[small], key=lambda parts: parts[0].start):
            for at, part in enumerate(parts):
                if part.mapped:
                    continue
                first = at - 1 if at and not parts[at - 1].used else at
                room, to = 0, first
                while to < len(parts) and room < size and not parts[to].used:
                    room += parts[to].size
                    to += 1
                if room >= size:
                    return self.map(parts, first, size, page)
        span = 1 << 46 if self.capacity is None else self.capacity * 9 // 8
        span = -(-max(span, size) // page) * page
        self.segments[small].append([Part(place, span, mapped=False)])
        return self.map(self.segments[small][-1], 0, size, page)

    def map(self, parts: list[Part], at: int, size: int, page: int) -> bool:
        while not (parts[at].mapped and parts[at].size >= size):
            have = parts[at].size if parts[at].mapped else 0
            target = parts[at + 1] if parts[at].mapped else parts[at]
            pages = -(-min(size - have, target.size) // page) * page
            if self.capacity is not None and self.reserved + pages > self.capacity:
                return False
            self.reserved += pages
            place = parts.index(target)
            if pages < target.size:
                rest = Part(target.start + pages, target.size - pages, mapped=False)
                parts.insert(place + 1, rest)
            target.size, target.mapped = pages, True
            self.join(parts)
        self.found = parts[at]
        return True

    def join(self, parts: list[Part]) -> None:
        at = 0
        while at + 1 < len(parts):
            one, two = parts[at], parts[at + 1]
            if one.used or two.used or one.mapped != two.mapped:
                at += 1
            else:
                one.size += two.size
                del parts[at + 1]

    def free(self, part: Part) -> None:
        part.used = False
        self.join(self.parts_of(part))

    def release_oversize(self, size: int, small: bool) -> bool:
        limit = self.settings.max_split_size
        if limit is None or self.settings.expandable_segments:
            return False
        wanted = max(limit, size)
        whole = [
            p for p in self.segments[small] if len(p) == 1 and not p[0].used and p[0].size >= limit
        ]
        whole.sort(key=lambda parts: (parts[0].size, parts[0].start))
        enough = [parts for parts in whole if parts[0].size >= wanted][:1]
        for parts in enough or reversed(whole):
            if wanted <= 0:
                break
            wanted -= parts[0].size
            self.drop(parts, small)
        return wanted <= 0

    def release(self) -> None:
        for small, segments in self.segments.items():
            page = 2 * M if small else self.settings.large_segment_size
            for parts in list(segments):
                if self.settings.expandable_segments:
                    self.unmap(parts, page)
                if len(parts) == 1 and not parts[0].used:
                    self.drop(parts, small)

    def drop(self, parts: list[Part], small: bool) -> None:
        self.reserved -= parts[0].size if parts[0].mapped else 0
        self.segments[small] = [other for other in self.segments[small] if other is not parts]

    def unmap(self, parts: list[Part], page: int) -> None:
        base = parts[0].start
        for part in [part for part in parts if part.mapped and not part.used]:
            begin = base + -(-(part.start - base) // page) * page
            end = base + (part.start + part.size - base) // page * page
            if begin >= end:
                continue
            pieces = [
                Part(part.start, begin - part.start),
                Part(begin, end - begin, mapped=False),
                Part(end, part.start + part.size - end),
            ]
            at = parts.index(part)
            parts[at : at + 1] = [piece for piece in pieces if piece.size]
            self.reserved -= end - begin
        self.join(parts)

    def parts_of(self, part: Part) -> list[Part]:
        return next(
            parts
            for segments in self.segments.values()
            for parts in segments
            if any(other is part for other in parts)
        )


def size_of(chance: random.Random) -> int:
    kind = chance.random()
    if kind < 0.4:
        return chance.randint(1, M)
    if kind < 0.8:
        return chance.randint(M, 10 * M)
    return chance.choice([chance.randint(10 * M, 60 * M), 20 * M, 24 * M, 32 * M])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", range(6))
def test_random_sequences(name: str, seed: int) -> None:
    chance = random.Random(seed)
    settings = SETTINGS[name]
    capacity = None if seed % 3 == 0 else 260 * M
    places: list[int] = []
    most = 12 if seed % 2 else 60

    def place(size: int, small: bool) -> int:
        # Not rising: what is cut from which segment must not hang on the order they came in.
        taken = sorted(places)
        places.append(chance.randint(1, 1 << 10) << 50)
        while places[-1] in taken:
            places[-1] += 1 << 50
        return places[-1]

    model, twin = Allocator(settings, capacity, place), Twin(settings, capacity)
    living: list[tuple[Block, Part, int]] = []
    failed = 0
    for _ in range(500):
        if living and (len(living) > most or chance.random() < 0.4):
            block, part, _ = living.pop(chance.randrange(len(living)))
            model.free(block)
            twin.free(part)
        elif chance.random() < 0.02:
            model.empty_cache()
            twin.release()
        else:
            request = size_of(chance)
            seen = len(places)
            try:
                made = model.malloc(request)
            except OutOfMemory:
                made = None
                failed += 1
            other = twin.malloc(request, places[-1] if len(places) > seen else -1)
            assert (made is None) == (other is None)
            if made is not None and other is not None:
                assert (made.start, made.size) == (other.start, other.size)
                living.append((made, other, request))
        assert model.reserved == twin.reserved
        check(model, [block for block, _, _ in living], [size for _, _, size in living])
    assert failed or capacity is None or most == 12
    for block, _, _ in living:
        model.free(block)
    assert model.allocated == 0 and model.reserved > 0
    model.empty_cache()
    assert model.reserved == 0
    assert not model.small.keys and not model.large.keys and not model.large.starts


def check(model: Allocator, blocks: list[Block], requests: list[int]) -> None:
    """What holds at every moment."""
    assert model.allocated == sum(block.size for block in blocks) <= model.reserved
    assert all(block.size >= size for block, size in zip(blocks, requests, strict=True))
    assert model.capacity is None or model.reserved <= model.capacity
    assert model.highest_reserved >= model.reserved
    pools = (model.small, model.large)
    free = [entry for pool in pools for entry in pool.starts.items()]
    assert model.reserved == model.allocated + sum(size for _, size in free)
    ranges = sorted([*((block.start, block.size) for block in blocks), *free])
    ends = [start + size for start, size in ranges]
    assert all(end <= start for end, (start, _) in zip(ends, ranges[1:], strict=False))
