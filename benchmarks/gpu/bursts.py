"""Bursts of the engine, one after another in one engine process, and what each one told."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.gpu import journal
from memwb.engine.devices import assumed
from memwb.engine.plan import Plan, active, plan_data
from memwb.engine.protocol import (
    Device,
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
from memwb.engine.technique import techniques, unavailable

SILENCE = 180.0
"""Seconds without an event after which an engine is taken to hang."""
GRACE = 60.0
"""Seconds beyond its time that a burst under way is given."""
ENGINE = [sys.executable, "-P", "-m", "memwb.engine"]


def run(
    plans: Sequence[tuple[str, Plan]], device: str, end: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row of figures for each named plan, and the names of those there was no time for.

    ``end`` is a time of ``time.monotonic``; a burst that has begun is finished. One whose engine
    dies or hangs has failed, and another engine goes on with the next. A plan with a technique that
    is not available here has a row that says why, of the outcome ``unavailable``.
    """
    rows: list[dict[str, Any]] = []
    waiting = []
    here = assumed(device)
    for name, plan in plans:
        of, lack = lacking(plan, here)
        if lack and time.monotonic() < end:
            told = [Ended(name, "refused", title=f"{of} is not available", what=f"{of} {lack}")]
            rows.append({"plan": name, **figures(told), "outcome": "unavailable"})
            journal.note(rows[-1])
        else:
            waiting.append((name, plan))
    while waiting and time.monotonic() < end:
        before = len(waiting)
        rows += _served(waiting, device, end)
        if len(waiting) == before:
            # An engine that does not even start.
            break
    return rows, [name for name, _ in waiting]


def lacking(plan: Plan, device: Device) -> tuple[str, str]:
    """The first technique of a plan that cannot run here, and why; two empty strings if all can."""
    known = techniques()
    for name, params in active(plan).items():
        if lack := unavailable(known[name], params, device):
            return name, lack
    return "", ""


def _served(waiting: list[tuple[str, Plan]], device: str, end: float) -> list[dict[str, Any]]:
    """The rows of one engine, which takes plans from those waiting until it is told to quit."""
    rows: list[dict[str, Any]] = []
    events: list[Event] = []
    name = ""

    def keep(figures_of: Sequence[Event]) -> None:
        ended = next(event for event in figures_of if isinstance(event, Ended))
        rows.append({"plan": name, **figures(figures_of)})
        journal.note(rows[-1])
        print(f"{name}: {ended.outcome} {ended.title}", file=sys.stderr, flush=True)

    with tempfile.TemporaryFile() as log:
        engine = subprocess.Popen(ENGINE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert engine.stdin is not None and engine.stdout is not None
        for line in journal.lines(engine.stdout, end + GRACE, SILENCE):
            event = decode_event(line)
            events.append(event)
            if isinstance(event, Ended) and name:
                keep(events)
                name = ""
            if isinstance(event, Ready | Ended):
                events = []
                begins = bool(waiting) and time.monotonic() < end
                told = Start(plan_data(waiting[0][1]), device, waiting[0][0]) if begins else Quit()
                try:
                    engine.stdin.write(encode(told))
                    engine.stdin.flush()
                except BrokenPipeError:
                    # It went after its last burst: what it was not told waits for another engine.
                    break
                if begins:
                    name, _ = waiting.pop(0)
        with contextlib.suppress(BrokenPipeError):
            engine.stdin.close()
        try:
            code = engine.wait(timeout=min(10.0, SILENCE))
            why = f"the engine ended with {code}"
        except subprocess.TimeoutExpired:
            engine.kill()
            code, why = -9, "the engine hung"
            # A driver that is stuck holds its process: the next one is not to wait for that.
            with contextlib.suppress(subprocess.TimeoutExpired):
                engine.wait(timeout=10.0)
        if name or code:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()[-1:]
            told = ": ".join([why, *said])
            print(told, file=sys.stderr, flush=True)
            if name:
                keep([*events, Ended(name, "failed", title=why, what=told)])
    return rows


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
