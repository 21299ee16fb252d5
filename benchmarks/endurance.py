"""What the workbench's memory comes to over 100,000 events, played as fast as it takes.

``python -m benchmarks.endurance`` opens the workbench at 200×50 on a terminal that counts, and
gives it one burst of 82 minutes: twenty events a second with a hundred samples each, one step every
four seconds, each step's exact samples at its end, a frame for every five seconds. Every event
comes out of its JSON line, as from an engine. Then another replays a recorded run of 100,000.
It prints the process's memory as it goes and what a frame took. The exit code is 1 where it grows
by more than GROWTH after the first ten minutes of the one or 15 % of the other. Beside it stand the
same five bands in textual-plotext and textual-hires-canvas, each in a process of its own, drawn
over and over, where these are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
from rich.console import Console
from textual.app import App

from benchmarks import charts_rivals
from benchmarks.charts import Charts
from benchmarks.samples import MIB, burst, sample
from benchmarks.streaming import EACH, EVENTS, SPAN, Terminal
from memwb.engine.client import Engine
from memwb.engine.plan import Plan
from memwb.engine.protocol import (
    Device,
    Ended,
    Event,
    Sample,
    Samples,
    Started,
    Step,
    Timeline,
    decode_event,
    encode,
)

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from memwb.workbench.app import Workbench
    from memwb.workbench.trace import Trace

SIZE = (200, 50)
MINUTES = 82.0
"""At 20.5 events a second these are more than 100,000 events, and more than an hour's worth."""
SETTLED = 10
"""Minutes of the burst after which nothing is supposed to grow any more."""
GROWTH = 6 * MIB
"""What is held of a burst stands still; Textual's caches fill, and the allocator's pieces."""
LEARNT = 0.15
"""The share of a replay after which nothing is supposed to grow any more."""
MARKS = 20
"""Memory is looked at so often in a replay."""
EVERY = 5
"""Seconds of events for a frame."""


def events(minutes: float) -> Iterator[list[Event]]:
    """The events of a burst of so many minutes, second by second."""
    steps = round(minutes * 60 / SPAN)
    device = Device("cuda", "a made-up GPU", 24 * 2**30)
    traced = tuple(range(1, steps + 1))
    yield [Started("1", device, "tiny", "random", 1_500_000_000, steps, traced, "")]
    noise, each = random.Random(0), int(SPAN) * EVENTS
    shape = [sample(0.0, 2, at / (each * EACH), noise) for at in range(each * EACH)]
    for step in traced:
        held: list[Sample] = []
        for second in range(int(SPAN)):
            found: list[Event] = []
            for event in range(second * EVENTS, (second + 1) * EVENTS):
                made = [
                    Sample(
                        (step - 1) * SPAN + (at / EACH) / EVENTS, step, one.phase, one.allocated,
                        one.reserved, one.device, one.categories,
                    )
                    for at, one in enumerate(shape[event * EACH : (event + 1) * EACH], event * EACH)
                ]  # fmt: skip
                held += made[::4]
                found.append(Samples("1", made))
            if second == int(SPAN) - 1:
                found += [
                    Timeline("1", step, held),
                    Step("1", step, 7 - step / steps, SPAN, 1024, True),
                ]
            yield found
    yield [Ended("1", "done", losses=[7.0], seconds=minutes * 60)]


class Mark(NamedTuple):
    """The process after so many events."""

    events: int
    bytes: int
    objects: int


def memory() -> int:
    """Bytes of this process that nobody else has."""
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


def mark(count: int) -> Mark:
    """The process as it is now."""
    return Mark(count, memory(), sys.getallocatedblocks())


def again(event: Event) -> Event:
    """The event as it comes out of its line: no figure of it is an object that others share."""
    return decode_event(encode(event))


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Workbench, Pilot[None]]]:
    """The workbench at its size, on an engine that says nothing: events come from elsewhere."""
    from memwb.workbench.start import COLLECT, open_workbench

    gc.set_threshold(*COLLECT)
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    app = open_workbench(Plan(model="tiny"), lambda: Engine(silent))
    app.driver_class = Terminal().driver()
    app.console = Console(file=io.StringIO(), color_system="truecolor", legacy_windows=False)
    async with app.run_test(headless=False, size=SIZE) as pilot:
        await pilot.pause(2)
        yield app, pilot


async def endure(minutes: float) -> tuple[list[Mark], float]:
    """The memory after each minute of the burst, the first before it; CPU of a frame.

    Nothing is printed meanwhile: an app's screen is not written into.
    """
    async with opened() as (app, pilot):
        marks, spent, frames, count = [mark(0)], 0.0, 0, 0
        for second, heard in enumerate(events(minutes)):
            fresh = [again(event) for event in heard]
            count += len(fresh)
            began = time.process_time()
            for event in fresh:
                app.bursts.hear(event)
            if second % EVERY == 0:
                await pilot.pause()
                frames += 1
            spent += time.process_time() - began
            if second and second % 60 == 0:
                marks.append(mark(count))
        return marks, spent / frames


def recorded(count: int) -> None:
    """A run's folder with so many events: two traced steps of very many samples, then others."""
    from memwb.engine.runs import record

    device, noise = Device("cuda", "a made-up GPU", 24 * 2**30), random.Random(1)
    untraced = count // 4
    started = Started("1", device, "tiny", "random", 1_500_000_000, untraced + 2, (1, 2), "")
    recorder = record(Plan(model="tiny"), started)
    told, now = (count - untraced) // 2, 0.0
    for step in (1, 2):
        for at in range(told):
            now += 1 / EVENTS
            found = [sample(now + part / 1e4, step, at / told, noise) for part in range(4)]
            recorder.event(Samples("1", found))
        recorder.event(Step("1", step, 7.0, told / EVENTS, 1024, True))
    for step in range(3, untraced + 3):
        recorder.event(Step("1", step, noise.uniform(1.0, 9.0), 0.25, 1024, False))
    recorder.event(Ended("1", "done", losses=[7.0], seconds=now))


async def retold(count: int) -> list[Mark]:
    """The memory while a recorded run of so many events is replayed, as fast as it takes."""
    recorded(count)
    async with opened() as (app, pilot):
        while not app.recorded:
            await pilot.pause(0.1)
        marks, heard, plain = [mark(0)], 0, app.main.take

        def take(event: Event, trace: Trace) -> None:
            nonlocal heard
            plain(event, trace)
            heard += 1
            if heard % (count // MARKS) == 0:
                marks.append(mark(heard))

        app.main.take = take  # type: ignore[method-assign]
        app.replay.press(app.recorded[0])
        app.replay.pace = 1e9
        while app.replay.folder:
            await pilot.pause(0.1)
        if heard < count:
            raise RuntimeError(f"only {heard} of {count} events were replayed")
        return marks


def grown(marks: Sequence[Mark], settled: int) -> int:
    """Bytes that memory has grown by at most since the mark of that index."""
    return max(one.bytes for one in marks[settled:]) - marks[settled].bytes


async def rival(name: str, frames: int) -> str:
    """What drawing five bands of 2,000 points over and over takes, and the memory it adds."""
    for known, widget, draw in charts_rivals.all_of(burst(2000, 2), *SIZE):
        if known != name or isinstance(widget, str):
            continue
        app: App[None] = Charts(widget)
        async with app.run_test(headless=False, size=SIZE) as pilot:
            await _draw(pilot, draw, 3)
            before, began = memory(), time.process_time()
            await _draw(pilot, draw, frames)
            spent = time.process_time() - began
            added = (memory() - before) / MIB
        return (
            f"{name}: {before / MIB:.1f} MiB before, {added:+.1f} after {frames} frames, "
            f"{spent / frames * 1e3:.0f} ms of CPU a frame"
        )
    return f"{name}: skipped: pip install {name} to see it"


async def _draw(pilot: Any, draw: Any, frames: int) -> None:
    for _ in range(frames):
        draw()
        await pilot.pause()


def told(one: Mark) -> str:
    """A mark in a line."""
    return f"{one.events:>7,} events {one.bytes / MIB:>7.1f} MiB {one.objects:>9,} objects"


def replayed(count: int) -> int:
    """Print what a replay comes to, and return by how much it grows once it has begun."""
    # In a process of its own: what the burst has left there is none of its memory.
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "benchmarks.endurance", "--replay-only", str(count)]
        done = subprocess.run(
            command, check=True, env={**os.environ, "MEMWB_HOME": home}, stdout=subprocess.PIPE
        )
    marks = [Mark(*one) for one in json.loads(done.stdout)]
    print(f"a recorded run of {count:,} events, replayed")
    for one in marks[:: max(1, MARKS // 5)]:
        print(f"  after {told(one)}")
    growth = grown(marks, round(MARKS * LEARNT))
    print(
        f"memwb: {marks[0].bytes / MIB:.1f} MiB before, {marks[-1].bytes / MIB:.1f} after; "
        f"{growth / MIB:+.1f} MiB after {LEARNT:.0%} of them (aim {GROWTH / MIB:.0f})",
        flush=True,
    )
    return growth


def main() -> int:
    """Print the figures; 1 where memory grows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--replayed", type=int, default=100_000, help="events; 0: no replay")
    parser.add_argument("--frames", type=int, default=20, help="of each of the others; 0: none")
    parser.add_argument("--rival", help=argparse.SUPPRESS)
    parser.add_argument("--replay-only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay_only:
        print(json.dumps(asyncio.run(retold(options.replay_only))))
        return 0
    if options.rival:
        print(asyncio.run(rival(options.rival, options.frames)))
        return 0
    print(f"{options.minutes:g} minutes of events, {EVENTS} a second of {EACH} samples", flush=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEMWB_HOME"] = home
        marks, frame = asyncio.run(endure(options.minutes))
    for minute in range(0, len(marks), 5):
        print(f"  after {minute:>2} minutes {told(marks[minute])}")
    growth = grown(marks, min(SETTLED, len(marks) - 1))
    after = f"{growth / MIB:+.1f} MiB after minute {SETTLED} (aim {GROWTH / MIB:.0f})"
    if options.minutes <= SETTLED:
        after = f"its growth counts from minute {SETTLED} on, which this run does not reach"
    print(
        f"memwb: {marks[0].bytes / MIB:.1f} MiB before, {marks[-1].bytes / MIB:.1f} after; "
        f"{after}, {frame * 1e3:.0f} ms of CPU for {EVERY} seconds of events and their frame",
        flush=True,
    )
    if options.replayed:
        growth = max(growth, replayed(options.replayed))
    for name in ("textual-plotext", "textual-hires-canvas") if options.frames else ():
        command = [sys.executable, "-m", "benchmarks.endurance", "--rival", name]
        subprocess.run([*command, "--frames", str(options.frames)], check=True)
    return 1 if growth > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
