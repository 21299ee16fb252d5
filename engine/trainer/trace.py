"""What happened to memory, in order, and what each byte turned out to be. Pure: no torch.

A trace is a list of moments: a storage came, grew, shrank or went, or a phase began. What a
storage *is* often shows only later (a tensor allocated in backward becomes a gradient when it is
stored in ``.grad``), so categories are resolved when a span (the loading, or one step) is over
and hold from the storage's birth:

1. a storage labelled weights, gradients or optimizer is that from birth until it is freed;
2. one allocated in forward or loss that is alive when the next backward begins is activations;
3. everything else is temporary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from memwb.engine.protocol import CATEGORIES, Categories, Sample

WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS, TEMPORARY = range(len(CATEGORIES))

# The best guess at a storage's category while its step still runs.
_GUESS = {"load": WEIGHTS, "forward": ACTIVATIONS, "loss": ACTIVATIONS}

MARK = -1
"""What stands for a storage where a phase begins."""


class Moment(NamedTuple):
    """One event: ``change`` bytes of ``storage``, or the begin of a phase (storage -1)."""

    time: float
    step: int
    phase: str
    storage: int
    change: int


class Row(NamedTuple):
    """The bytes alive after a moment, in the order of CATEGORIES."""

    time: float
    step: int
    phase: str
    totals: tuple[int, ...]

    @property
    def total(self) -> int:
        """The allocated bytes."""
        return sum(self.totals)


class Trace:
    """Collects moments and settles them. Storages are named by integers of the caller's choice."""

    def __init__(self) -> None:
        self.step = 0
        self.phase = "load"
        self.live = [0] * len(CATEGORIES)
        """Bytes alive now by provisional category."""
        self._moments: list[Moment] = []
        self._sizes: dict[int, int] = {}
        self._guesses: dict[int, int] = {}
        self._labels: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._failed: int | None = None
        self._settled: tuple[dict[int, int], list[Moment], dict[int, int]]
        self.forget()
        self.failed: int | None = None
        """In the span that was settled last, the index of the row in which an allocation failed."""

    def mark(self, time: float, step: int, phase: str) -> None:
        """From now on moments belong to this step and phase."""
        self.step, self.phase = step, phase
        self._moments.append(Moment(time, step, phase, MARK, 0))

    def change(self, time: float, storage: int, change: int) -> None:
        """A storage came (first positive change), grew, or shrank; at size 0 it is gone."""
        self._moments.append(Moment(time, self.step, self.phase, storage, change))
        guess = self._guesses.get(storage)
        if guess is None:
            guess = self._guesses[storage] = _GUESS.get(self.phase, TEMPORARY)
        self.live[guess] += change
        size = self._sizes.get(storage, 0) + change
        assert size >= 0, "a storage cannot shrink below nothing"
        self._sizes[storage] = size

    def free(self, time: float, storage: int) -> None:
        """A storage is gone and its name is not used again."""
        self.change(time, storage, -self._sizes[storage])
        del self._sizes[storage], self._guesses[storage]

    def fail(self) -> None:
        """An allocation fails now."""
        self._failed = max(0, len(self._moments) - 1)

    def label(self, storage: int, category: int) -> None:
        """What a living storage turned out to be; the first label counts, but weights always."""
        known = self._labels.get(storage)
        if known == category or (known is not None and category != WEIGHTS):
            return
        self._labels[storage] = category
        guess = self._guesses.get(storage)
        if guess is not None and guess != category:
            size = self._sizes[storage]
            self.live[guess] -= size
            self.live[category] += size
            self._guesses[storage] = category

    def settle(self) -> list[Row]:
        """The span is over: one row per moment since the last settling, categories resolved."""
        before = self._before
        moments, categories = self.resolve()
        totals = [0] * len(CATEGORIES)
        for storage, size in before.items():
            totals[categories[storage]] += size
        rows = []
        for moment in moments:
            if moment.change:
                totals[categories[moment.storage]] += moment.change
            rows.append(Row(moment.time, moment.step, moment.phase, tuple(totals)))
        self._settled = before, moments, categories
        self.failed, self._failed = self._failed, None
        return rows

    def alive(self, index: int) -> dict[int, tuple[int, int]]:
        """Bytes and category of each storage alive in a row of the span that was settled last."""
        before, moments, categories = self._settled
        sizes = dict(before)
        for moment in moments[: index + 1]:
            if moment.change:
                sizes[moment.storage] = sizes.get(moment.storage, 0) + moment.change
        return {name: (size, categories[name]) for name, size in sizes.items() if size}

    def forget(self) -> None:
        """What was alive in the span that was settled last is not asked for any more."""
        self._settled = {}, [], {}

    def resolve(self) -> tuple[list[Moment], dict[int, int]]:
        """The span is over: its moments, and the category of each storage that lived in it."""
        self._find_activations()
        moments, self._moments = self._moments, []
        named = {*self._before, *(moment.storage for moment in moments)}
        categories = {storage: self._labels.get(storage, TEMPORARY) for storage in named}
        self._before = dict(self._sizes)
        self._labels = {key: self._labels[key] for key in self._sizes if key in self._labels}
        for storage, size in self._sizes.items():
            self._move_guess(storage, self._labels.get(storage, TEMPORARY), size)
        return moments, categories

    def _move_guess(self, storage: int, category: int, size: int) -> None:
        self.live[self._guesses[storage]] -= size
        self.live[category] += size
        self._guesses[storage] = category

    def _find_activations(self) -> None:
        moments = ((one.phase, one.storage, one.change) for one in self._moments)
        for storage in kept_for_backward(moments, set(self._before), self.phase):
            self._labels.setdefault(storage, ACTIVATIONS)


def kept_for_backward(
    moments: Iterable[tuple[str, int, int]], known: set[int], phase: str
) -> list[int]:
    """What was allocated in forward or loss and was alive when the next backward began.

    ``moments`` are phases, storages and changes of a span, ``known`` what lived before it, and
    ``phase`` the one in which it ended. What is known now is added to ``known``.
    """
    found: list[int] = []
    waiting: dict[int, int] = {}
    for at, storage, change in moments:
        if storage == MARK:
            if at == "backward":
                found += waiting
                waiting = {}
        elif storage in waiting:
            waiting[storage] += change
            if waiting[storage] == 0:
                del waiting[storage]
        elif storage not in known:
            known.add(storage)
            if at in ("forward", "loss"):
                waiting[storage] = change
    # Cut off in the midst of a forward pass (out of memory): what it holds was kept for the
    # backward pass that never came.
    if phase in ("forward", "loss"):
        found += waiting
    return found


def downsample(rows: Sequence[Row], limit: int = 400) -> list[Row]:
    """At most ``limit`` rows: in each slice of time the highest total, and every phase's first,
    last and highest row.

    With so many phases (gradient accumulation) that these alone pass the limit, each phase of
    the step keeps its first, last and highest row over all its turns.
    """
    if len(rows) <= limit:
        return list(rows)
    kept = _corners(rows, by_turn=True)
    if len(kept) > limit // 2:
        kept = _corners(rows, by_turn=False)
    buckets = limit - len(kept)
    first = rows[0].time
    width = (rows[-1].time - first) / buckets or 1.0
    highest: dict[int, int] = {}
    for index, row in enumerate(rows):
        bucket = min(int((row.time - first) / width), buckets - 1)
        if bucket not in highest or row.total > rows[highest[bucket]].total:
            highest[bucket] = index
    kept.update(highest.values())
    return [rows[index] for index in sorted(kept)]


def _corners(rows: Sequence[Row], by_turn: bool) -> set[int]:
    """Indices of the first, last and highest row of each phase, or of each turn of a phase."""
    found: dict[tuple[int, str], list[int]] = {}
    turn = 0
    for index, row in enumerate(rows):
        if by_turn and index and row.phase != rows[index - 1].phase:
            turn += 1
        corner = found.setdefault((turn, row.phase), [index, index, index])
        corner[1] = index
        if row.total > rows[corner[2]].total:
            corner[2] = index
    return {index for corner in found.values() for index in corner}


def higher(rows: Sequence[Row], before: Row | None) -> int | None:
    """The index of the first of the highest rows, if it is the peak now.

    Where a step after the first reaches what loading or the first step did, it is its: a steady
    step tells of all that follow.
    """
    at = max(range(len(rows)), key=lambda index: rows[index].total, default=None)
    if at is None or before is None:
        return at
    steady = rows[at].step > 1 >= before.step
    gain = rows[at].total - before.total
    return at if gain > 0 or (gain == 0 and steady) else None


class Reading(NamedTuple):
    """What the allocator and the driver said at one time."""

    time: float
    reserved: int
    device: int


def samples(rows: Sequence[Row], readings: Sequence[Reading]) -> list[Sample]:
    """Rows as the protocol sends them, each with the last reading before it.

    A reading's ``reserved`` of -1 means: there is no caching pool, reserved is allocated.
    """
    made = []
    at = 0
    for row in rows:
        while at + 1 < len(readings) and readings[at + 1].time <= row.time:
            at += 1
        reading = readings[at] if readings else Reading(0.0, -1, 0)
        made.append(sample(row, reading))
    return made


def sample(row: Row, reading: Reading) -> Sample:
    """One row as the protocol sends it."""
    total = row.total
    return Sample(
        time=round(row.time, 6),
        step=row.step,
        phase=row.phase,
        allocated=total,
        reserved=total if reading.reserved < 0 else reading.reserved,
        device=reading.device,
        categories=Categories(*row.totals),
    )


class Pulse:
    """Coalesces live rows to one message an interval: its highest row and its last."""

    def __init__(self, send: Callable[[list[Row]], None], interval: float = 0.05) -> None:
        self._send = send
        self._interval = interval
        self._since = 0.0
        self._highest: Row | None = None
        self._most = -1

    def beat(self, time: float, trace: Trace) -> None:
        """Note where the trace stands; sends when the interval is over."""
        total = sum(trace.live)
        if total > self._most:
            self._most = total
            self._highest = Row(time, trace.step, trace.phase, tuple(trace.live))
        if time - self._since >= self._interval:
            self.flush(time, trace)

    def flush(self, time: float, trace: Trace) -> None:
        """Send what is waiting."""
        last = Row(time, trace.step, trace.phase, tuple(trace.live))
        rows = [last] if self._highest is None or self._highest == last else [self._highest, last]
        self._since, self._most, self._highest = time, -1, None
        self._send(rows)
