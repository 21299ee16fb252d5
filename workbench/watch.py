"""Whether the engine still speaks, and whether what it says can be read."""

from __future__ import annotations

import time
from collections.abc import Callable

from memwb.engine.protocol import Problem

SILENCE = {"starting": 90.0, "running": 20.0, "stopping": 20.0}
"""Seconds without a word after which an engine does not respond, by what it is doing.

A running one says something every second. A start imports torch, on a slow disk for a while.
"""
EVERY = 1.0
"""Seconds between two looks at the clock."""


MOVING = {
    "starting": "no word of it yet",
    "loading": "loads torch",
    "stopping": "finishes its step",
    "restarting": "its process ends",
}
"""What is waited for in the states that pass by themselves; ``loading`` ends a start."""
PATIENCE = 3.0
"""Seconds of such a state after which it is told what is waited for."""
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME = 0.125
"""Seconds of each."""


def now() -> float:
    """Seconds on a clock that nobody sets."""
    return time.monotonic()


def frame(seconds: float, still: bool) -> str:
    """What turns while something is waited for; nothing for whoever wants no motion."""
    return "" if still else f"{FRAMES[int(seconds / FRAME) % len(FRAMES)]} "


def waits(doing: str, seconds: float) -> str:
    """What is waited for, and since when, once that is worth telling."""
    known = doing in MOVING and seconds >= PATIENCE
    return f" · {MOVING[doing]} · {seconds:.0f} s" if known else ""


class Watch:
    """Notes when the engine was heard last, and how much of what it said was garbled."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.silent = False
        """Whether it has said nothing for longer than it may."""
        self.garbled = 0
        """Lines that could not be read, since it was started."""
        self._clock = clock
        self._heard = clock()

    @property
    def seconds(self) -> float:
        """Since it was heard last, or since it was asked for something."""
        return self._clock() - self._heard

    def heard(self) -> bool:
        """It has said something, or was asked for something; whether that ends a silence."""
        ended, self.silent = self.silent, False
        self._heard = self._clock()
        return ended

    def look(self, doing: str) -> bool:
        """Whether it has just become silent, for what it is doing."""
        if self.silent or self.seconds <= SILENCE.get(doing, float("inf")):
            return False
        self.silent = True
        return True

    def unreadable(self, problem: Problem, key: str) -> tuple[str, str] | None:
        """A title and a text for a line that could not be read; None for most of many."""
        self.garbled += 1
        # The first, and then ever fewer: a flood of them must not become a flood of messages.
        if self.garbled & (self.garbled - 1):
            return None
        count = f" ({self.garbled} lines so far)" if self.garbled > 1 else ""
        rest = f"What could be read goes on. If nothing comes any more, {key} restarts the engine."
        return f"{problem.title}{count}", f"{problem.what}\n{rest}"


def not_responding(seconds: float, key: str) -> tuple[str, str]:
    """What to tell of a silent engine: a title and a text."""
    return (
        "The engine is not responding",
        f"Nothing was heard of it for {seconds:.0f} s. It may be waiting for a disk or a device: "
        f"wait, and it goes on by itself.\n{key} ends it and starts another; the plan, the history "
        "and what this run has recorded stay.",
    )
