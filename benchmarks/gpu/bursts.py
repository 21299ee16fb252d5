"""Bursts of the engine, one after another in one engine process, and what each one told."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from memwb.engine.plan import Plan, plan_data
from memwb.engine.protocol import (
    Ended,
    Event,
    Quit,
    Ready,
    Sample,
    Start,
    Started,
    Step,
    Timeline,
    decode_event,
    encode,
)


def run(
    plans: Sequence[tuple[str, Plan]], device: str, end: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row of figures for each named plan, and the names of those there was no time for.

    ``end`` is a time of ``time.monotonic``; a burst that has begun is finished.
    """
    if time.monotonic() >= end:
        return [], [name for name, _ in plans]
    rows: list[dict[str, Any]] = []
    waiting = list(plans)
    events: list[Event] = []
    engine = subprocess.Popen(
        [sys.executable, "-P", "-m", "memwb.engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert engine.stdin is not None and engine.stdout is not None
    name, plan = "", None
    for line in engine.stdout:
        event = decode_event(line)
        events.append(event)
        if isinstance(event, Ended) and plan is not None:
            rows.append({"plan": name, **figures(events)})
            print(f"{name}: {event.outcome} {event.title}", file=sys.stderr, flush=True)
        if isinstance(event, Ready | Ended):
            events = []
            if waiting and time.monotonic() < end:
                name, plan = waiting.pop(0)
                engine.stdin.write(encode(Start(plan_data(plan), device=device, burst=name)))
            else:
                engine.stdin.write(encode(Quit()))
            engine.stdin.flush()
    engine.wait()
    return rows, [name for name, _ in waiting]


def figures(events: Sequence[Event]) -> dict[str, Any]:
    """What one burst's events say, as plain data. Bytes and seconds."""
    ended = next(event for event in events if isinstance(event, Ended))
    started = next((event for event in events if isinstance(event, Started)), None)
    samples = [s for event in events if isinstance(event, Timeline) for s in event.samples]
    steps = [event for event in events if isinstance(event, Step)]
    traced = [step.seconds for step in steps[1:] if step.traced]
    timed = sorted(step.seconds for step in steps if not step.traced)
    rates = [step.tokens / step.seconds for step in steps if not step.traced]
    return {
        "outcome": ended.outcome,
        "title": ended.title,
        "what": ended.what,
        "device": started.device.name if started else "",
        "peak": msgspec.to_builtins(ended.peak),
        # Of the peak, what no tensor explains: on a GPU that is to be little.
        "unexplained": ended.alive.unexplained if ended.alive else None,
        "phases": phases_of(samples),
        "traced_maximum": max((sample.allocated for sample in samples), default=0),
        "traced_step_seconds": traced[-1] if traced else None,
        "timed_step_seconds": timed[len(timed) // 2] if timed else None,
        "tokens_per_second": ended.tokens_per_second,
        "median_tokens_per_second": statistics.median(rates) if rates else None,
        "losses": ended.losses,
    }


def phases_of(samples: Sequence[Sample]) -> dict[str, int]:
    """The most allocated bytes by step and phase, as ``2 backward``."""
    found: dict[str, int] = {}
    for sample in samples:
        key = f"{sample.step} {sample.phase}"
        found[key] = max(found.get(key, 0), sample.allocated)
    return found


def gib(size: int | None) -> str:
    """Bytes as GiB with three decimals."""
    return "–" if size is None else f"{size / 2**30:.3f}"
