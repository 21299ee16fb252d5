"""The whole workbench while an engine streams a burst into it: frames, bytes, CPU, delay.

``python -m benchmarks.streaming`` opens the workbench on an engine process that speaks the
protocol as the real one does under load, at twenty events a second with a hundred samples each,
but trains nothing; the terminal counts instead of showing. The process is this very module.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import os
import random
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rich.console import Console
from textual.drivers.headless_driver import HeadlessDriver

from benchmarks.samples import sample
from memwb.engine.client import Engine
from memwb.engine.plan import Plan
from memwb.engine.protocol import (
    Device,
    Ended,
    Event,
    Hello,
    Predict,
    Ready,
    Sample,
    Samples,
    Start,
    Started,
    Step,
    Timeline,
    Unpredicted,
    decode_command,
    encode,
)

if TYPE_CHECKING:
    from memwb.workbench.charts.stacked import StackedChart

EVENTS = 20
"""Events a second: what the engine's coalescing lets through at most."""
EACH = 100
"""Samples of an event."""
SPAN = 4.0
"""Seconds of a traced step."""
KIB = 2**10
FRAMES_A_SECOND, KIB_A_SECOND = 10.0, 80.0

# The engine


def say(event: Event) -> None:
    """Send one event."""
    sys.stdout.buffer.write(encode(event))
    sys.stdout.flush()


def burst(start: Start, seconds: float) -> None:
    """As many traced steps as there is time for, each replaced by its exact samples at its end."""
    noise, began = random.Random(0), time.monotonic()
    span = min(SPAN, seconds)
    steps = max(1, round(seconds / span))
    traced = tuple(range(1, steps + 1))
    device = Device("cuda", "a made-up GPU", 24 * 2**30)
    name = start.burst
    say(Started(name, device, str(start.plan["model"]), "random", 1_500_000_000, steps, traced, ""))
    for step in traced:
        held: list[Sample] = []
        events = int(span * EVENTS)
        for index in range(events):
            due = began + (step - 1) * span + index / EVENTS
            time.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic() - began
            part = [sample(now, step, (index + at / EACH) / events, noise) for at in range(EACH)]
            held += part
            say(Samples(name, part))
        say(Timeline(name, step, held[::4]))
        say(Step(name, step, 7.0 - step / 10, span, 1024, True))
    say(Ended(name, "done", losses=[7.0 - step / 10 for step in traced], seconds=seconds))


def serve(seconds: float) -> None:
    """The engine's side: predicts nothing, runs what it is told to."""
    say(Hello("0", os.getpid()))
    say(Ready(Device("cuda", "a made-up GPU", 24 * 2**30), {}))
    for line in sys.stdin.buffer:
        command = decode_command(line)
        if isinstance(command, Start):
            burst(command, seconds)
        if isinstance(command, Predict):
            say(Unpredicted(command.prediction, "Not predicted"))


# The workbench


class Terminal:
    """What was written, and when."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, int]] = []

    def driver(self) -> type[HeadlessDriver]:
        """A driver that counts."""
        frames = self.frames

        class Counting(HeadlessDriver):
            @property
            def is_headless(self) -> bool:
                return False

            def write(self, data: str) -> None:
                # Marks that a frame begins or ends are no frame.
                if len(data) > 16:
                    frames.append((time.perf_counter(), len(data.encode())))

        return Counting


async def stream(width: int, height: int, seconds: float) -> dict[str, Any]:
    """Run a burst of so many seconds in a workbench of that size and say what it took."""
    from memwb.workbench.start import COLLECT, open_workbench

    gc.set_threshold(*COLLECT)
    terminal = Terminal()
    command = [sys.executable, "-m", "benchmarks.streaming", "--engine", str(seconds)]
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEMWB_HOME"] = home
        app = open_workbench(Plan(model="tiny"), lambda: Engine(command), guide=False)
        app.driver_class = terminal.driver()
        app.console = Console(file=io.StringIO(), color_system="truecolor", legacy_windows=False)
        async with app.run_test(headless=False, size=(width, height)) as pilot:
            await _until(pilot.pause, lambda: app.engine_state == "ready")
            app.main.focus_panel("memory")
            await pilot.pause(0.5)
            arrivals: list[float] = []
            plain = app.main.memory.chart.append

            def append(samples: list[Sample]) -> None:
                arrivals.append(time.perf_counter())
                plain(samples)

            app.main.memory.chart.append = append  # type: ignore[method-assign, assignment]
            causes = _causes(app.main.memory.chart)
            app.action_run()
            await _until(pilot.pause, lambda: bool(arrivals))
            terminal.frames.clear()
            cpu, began = time.process_time(), time.perf_counter()
            # The last moment is another frame: the whole burst, drawn anew.
            await _until(pilot.pause, lambda: bool(app.live and app.live.ended))
            spent, taken = time.process_time() - cpu, time.perf_counter() - began
    found = _told(terminal.frames, arrivals, spent, taken)
    return {**found, **_worst(terminal.frames, causes)}


def _causes(chart: StackedChart) -> list[tuple[float, str]]:
    """When something other than new columns was drawn, and what: it is noted from here on."""
    found: list[tuple[float, str]] = []
    rebuild, replace = chart._rebuild, chart.replace_step

    def noted_rebuild() -> None:
        found.append((time.perf_counter(), "all of the chart on another scale"))
        rebuild()

    def noted_replace(step: int, samples: Sequence[Sample]) -> None:
        found.append((time.perf_counter(), f"step {step} with its exact samples"))
        replace(step, samples)

    chart._rebuild = noted_rebuild  # type: ignore[method-assign]
    chart.replace_step = noted_replace  # type: ignore[method-assign]
    return found


def _worst(frames: list[tuple[float, int]], causes: list[tuple[float, str]]) -> dict[str, Any]:
    """The first paint, and of the seconds after it that with the most bytes: what it was made of.

    The seconds are those of a window that slides, so that none is cut where it is worst.
    """
    (painted, first), *rest = frames
    ends = list(accumulate((size for _, size in rest), initial=0))
    times = [at for at, _ in rest]
    most, begin, end = 0, 0, 0
    for at, moment in enumerate(times):
        after = bisect_left(times, moment + 1)
        if ends[after] - ends[at] > most:
            most, begin, end = ends[after] - ends[at], at, after
    held = rest[begin:end]
    told = [
        f"{cause} ({max(size for at, size in held if moment <= at <= moment + 0.1) / KIB:.0f} KiB)"
        for moment, cause in causes
        if any(moment <= at <= moment + 0.1 for at, _ in held)
    ]
    return {
        "kib_first_paint": round(first / KIB, 1),
        "kib_worst_second": round(most / KIB, 1),
        "worst_second": round(times[begin] - painted, 1) if times else 0.0,
        "worst_second_drew": ["new columns", *dict.fromkeys(told)],
    }


def _told(
    frames: list[tuple[float, int]], arrivals: list[float], spent: float, taken: float
) -> dict[str, Any]:
    """Frames that show new samples, bytes of all frames, and the wait of samples for theirs."""
    times = [at for at, _ in frames]
    waits, drawn, index = [], 0, 0
    for at in times:
        new = 0
        while index < len(arrivals) and arrivals[index] <= at:
            waits.append(at - arrivals[index])
            index, new = index + 1, new + 1
        drawn += bool(new)
    return {
        "seconds": round(taken, 1),
        "frames_a_second": round(drawn / taken, 1),
        "kib_a_second": round(sum(size for _, size in frames) / taken / KIB, 1),
        "cpu_share": round(spent / taken, 3),
        "cpu_ms_a_frame": round(spent / max(1, drawn) * 1e3, 1),
        "wait_ms": round(statistics.median(waits) * 1e3, 1),
        "wait_ms_worst": round(max(waits) * 1e3, 1),
    }


async def _until(pause: Callable[[float], object], done: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("the burst did not come to its end")
        await asyncio.sleep(0.02)


def aims(found: dict[str, Any]) -> dict[str, tuple[float, Callable[[float], bool]]]:
    """What is aimed at: the figure, and whether it will do."""
    if not found:
        return {}
    return {
        "frames a second": (found["frames_a_second"], lambda value: value >= FRAMES_A_SECOND),
        "KiB a second": (found["kib_a_second"], lambda value: value <= KIB_A_SECOND),
        "KiB in the worst second": (
            found["kib_worst_second"],
            lambda value: value <= KIB_A_SECOND,
        ),
    }


def told(found: dict[str, Any]) -> str:
    """The figures in a few lines."""
    return (
        f"a burst streamed for {found['seconds']} s, {EVENTS} events a second of {EACH} samples:\n"
        f"  {found['frames_a_second']} frames a second that show new samples "
        f"(aim {FRAMES_A_SECOND:.0f})\n"
        f"  {found['kib_a_second']} KiB a second to the terminal (aim {KIB_A_SECOND:.0f})\n"
        f"  {found['kib_worst_second']} in the worst after the first paint's "
        f"{found['kib_first_paint']} (aim {KIB_A_SECOND:.0f}): that from {found['worst_second']} s "
        f"on, {', '.join(found['worst_second_drew'])}\n"
        f"  {found['cpu_share'] * 100:.0f} % of a core, {found['cpu_ms_a_frame']} ms a frame with "
        "everything around it\n"
        f"  {found['wait_ms']} ms from samples to their frame, {found['wait_ms_worst']} at worst"
    )


def main() -> None:
    """Print the figures, or be the engine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--engine", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--size", default="200x50", help="columns x rows (default 200x50)")
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    if options.engine is not None:
        serve(options.engine)
        return
    width, height = (int(part) for part in options.size.split("x"))
    found = asyncio.run(stream(width, height, options.seconds))
    print(told(found))
    sys.exit(0 if all(aim(value) for value, aim in aims(found).values()) else 1)


if __name__ == "__main__":
    main()
