"""How a race is timed: arms taken in turn in one process, caches cold, samples by device events.

On a GPU a sample lies between two events; before the first of them the device writes over its L2
cache and then idles until the host has queued the pass, so that neither a warm cache nor the host's
own work is in the figure. What waits for the device inside a pass (a count read back) is. On a CPU
a sample is wall time, good for trying the suite out and for nothing else.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

SAMPLES = 40
WARM_UP = 3
_IDLE_CYCLES = 2_000_000
"""About a millisecond: longer than the host takes to queue a pass of a few kernels."""

Pass = Callable[[], Sequence[Callable[[], object]]]
"""Makes one sample's parts, to be timed one by one: forward and backward, or both as one."""


class Spread(NamedTuple):
    """Quantiles of the samples, in seconds."""

    p20: float
    p50: float
    p80: float
    samples: int


def spread(samples: Sequence[float]) -> Spread:
    """The quantiles, each between its two neighbours in proportion."""
    if not samples:
        raise ValueError("there are no samples")
    ordered = sorted(samples)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return Spread(at(0.2), at(0.5), at(0.8), len(ordered))


def order(arms: int, turn: int) -> list[int]:
    """The arms' order in a round: over 2 × ``arms`` rounds each is as often in each place.

    Every second round runs backwards, so that what one arm leaves behind (a hot chip, a fragmented
    allocator) does not always meet the same one.
    """
    start = turn // 2 % arms
    turned = [(start + place) % arms for place in range(arms)]
    return turned if turn % 2 == 0 else turned[::-1]


class Clock:
    """Times parts of a pass on a device. ``sync`` waits for it."""

    def __init__(self, device: str) -> None:
        """Without a GPU the clock is the host's."""
        self.cuda = device == "cuda"
        if self.cuda:
            cache = torch.cuda.get_device_properties(0).L2_cache_size
            self._over = torch.empty(max(4 * cache, 2**26) // 4, dtype=torch.int32, device=device)

    def sync(self) -> None:
        """Wait until the device has nothing left to do."""
        if self.cuda:
            torch.cuda.synchronize()

    def sample(self, parts: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each part, run one after another."""
        if not self.cuda:
            return [_wall(part) for part in parts]
        marks = []
        for part in parts:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._over.zero_()
            torch.cuda._sleep(_IDLE_CYCLES)
            begin.record()
            part()
            end.record()
            marks.append((begin, end))
        self.sync()
        return [begin.elapsed_time(end) / 1000 for begin, end in marks]


def _wall(part: Callable[[], object]) -> float:
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def interleaved(
    arms: dict[str, Pass], clock: Clock, samples: int = SAMPLES, end: float = float("inf")
) -> tuple[dict[str, list[Spread]], dict[str, Exception]]:
    """For each arm the spread of each of its parts; nothing, if the time is over before enough.

    ``end`` is a time of ``time.monotonic``. An unfinished race has no figures at all: arms that
    were sampled less often than others are not compared. An arm that fails is out of the race, and
    told with its failure.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in arms}
    lost: dict[str, Exception] = {}

    def sample(name: str) -> list[float]:
        try:
            return clock.sample(arms[name]()) if name not in lost else []
        except Exception as failure:
            lost[name] = failure
            return []

    for name in arms:
        for _ in range(WARM_UP):
            sample(name)
    for turn in range(samples):
        if time.monotonic() > end:
            return {}, lost
        names = [name for name in arms if name not in lost]
        for place in order(len(names), turn):
            found[names[place]].append(sample(names[place]))
    return {
        name: [spread(part) for part in zip(*rows, strict=True)]
        for name, rows in found.items()
        if name not in lost
    }, lost


def extra_memory(made: Pass, device: str) -> int | None:
    """Bytes by which a pass raises the allocator's peak, its inputs being there before it.

    What the pass returns (gradients) is in it. None on a CPU, which has no such counter.
    """
    if device != "cuda":
        return None
    gc.collect()
    parts = made()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept: list[Any] = [part() for part in parts]
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def poison(device: str, size: int) -> None:
    """Leave NaN in memory that is free, so that what a kernel never writes cannot look right."""
    torch.full((max(size // 4, 1),), float("nan"), device=device)
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(run: Callable[[], object], clock: Clock, samples: int = 10) -> float:
    """The median of a few samples after warming up: for rooflines."""
    for _ in range(WARM_UP):
        clock.sample([run])
    return spread([clock.sample([run])[0] for _ in range(samples)]).p50
