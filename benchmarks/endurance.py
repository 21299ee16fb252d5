"""What the workbench's memory comes to over an hour's worth of events, played as fast as it takes.

``python -m benchmarks.endurance`` opens the workbench at 200×50 on a terminal that counts, and
gives it one burst of an hour: twenty events a second with a hundred samples each, one step every
four seconds, each step's exact samples at its end, a frame for every five. It prints the
process's memory minute by minute and what a frame took. The exit code is 1 where it grows by more
than GROWTH after the first ten minutes. Beside it stand the same five bands in textual-plotext and
textual-hires-canvas, each in a process of its own, drawn over and over, where these are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psutil
from rich.console import Console
from textual.app import App

from benchmarks import charts_rivals
from benchmarks.charts import Charts, burst
from benchmarks.streaming import EACH, EVENTS, MIB, SPAN, Terminal, sample
from memwb.engine.client import Engine
from memwb.engine.plan import Plan
from memwb.engine.protocol import Device, Ended, Event, Sample, Samples, Started, Step, Timeline

SIZE = (200, 50)
SETTLED = 10
"""Minutes after which nothing is supposed to grow any more."""
GROWTH = 16 * MIB
"""What the kept samples of a burst swing by, as reckoned; an hour took one mebibyte more."""
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


def memory() -> int:
    """Bytes of this process that nobody else has."""
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


async def endure(minutes: float) -> tuple[list[int], list[int], float]:
    """The memory and the objects after each minute of the burst, the first before it; CPU a frame.

    Nothing is printed meanwhile: an app's screen is not written into.
    """
    from memwb.workbench.start import open_workbench

    found, blocks = [], []
    # An engine that says nothing: the events come from here.
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEMWB_HOME"] = home
        app = open_workbench(Plan(model="tiny"), lambda: Engine(silent))
        app.driver_class = Terminal().driver()
        app.console = Console(file=io.StringIO(), color_system="truecolor", legacy_windows=False)
        async with app.run_test(headless=False, size=SIZE) as pilot:
            await pilot.pause(2)
            found.append(memory())
            blocks.append(sys.getallocatedblocks())
            spent, frames = 0.0, 0
            for second, heard in enumerate(events(minutes)):
                began = time.process_time()
                for event in heard:
                    app.bursts.hear(event)
                if second % EVERY == 0:
                    await pilot.pause()
                    frames += 1
                spent += time.process_time() - began
                if second and second % 60 == 0:
                    found.append(memory())
                    blocks.append(sys.getallocatedblocks())
    return found, blocks, spent / frames


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


def main() -> int:
    """Print the figures; 1 where memory grows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--frames", type=int, default=20, help="of each of the others; 0: none")
    parser.add_argument("--rival", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rival:
        print(asyncio.run(rival(options.rival, options.frames)))
        return 0
    print(f"{options.minutes:g} minutes of events, {EVENTS} a second of {EACH} samples", flush=True)
    found, blocks, frame = asyncio.run(endure(options.minutes))
    for minute in range(0, len(found), 5):
        size = f"{found[minute] / MIB:>8.1f} MiB"
        print(f"  after {minute:>2} minutes {size} {blocks[minute]:>9,} objects")
    settled = found[min(SETTLED, len(found) - 1)]
    grown = max(found[SETTLED:], default=settled) - settled
    told = f"{grown / MIB:+.1f} MiB after minute {SETTLED} (aim {GROWTH / MIB:.0f})"
    if options.minutes <= SETTLED:
        told = f"its growth counts from minute {SETTLED} on, which this run does not reach"
    print(
        f"memwb: {found[0] / MIB:.1f} MiB before, {found[-1] / MIB:.1f} after; "
        f"{told}, "
        f"{frame * 1e3:.0f} ms of CPU for {EVERY} seconds of events and their frame",
        flush=True,
    )
    for name in ("textual-plotext", "textual-hires-canvas") if options.frames else ():
        command = [sys.executable, "-m", "benchmarks.endurance", "--rival", name]
        subprocess.run([*command, "--frames", str(options.frames)], check=True)
    return 1 if grown > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
