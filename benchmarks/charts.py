"""What a frame of the charts costs: CPU time and bytes to the terminal.

``python -m benchmarks.charts`` runs each case in a real application with a terminal that counts
instead of showing, and prints the median and the least over its frames: beside other
work on the machine the least is the nearer to the truth. The cost of an idle turn of the
application is measured the same way and taken off. The same five bands drawn by
textual-plotext and by textual-hires-canvas stand beside, where these are installed. Then a burst
is streamed into the whole workbench, as ``benchmarks.streaming`` says. The exit code is 1 where
an aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import json
import math
import statistics
import sys
import time
from collections.abc import Callable

from rich.console import Console
from textual.app import App, ComposeResult
from textual.drivers.headless_driver import HeadlessDriver
from textual.pilot import Pilot
from textual.widget import Widget

from benchmarks import charts_rivals, streaming
from benchmarks.samples import burst
from memwb.workbench.charts.lines import LineChart
from memwb.workbench.charts.stacked import StackedChart
from memwb.workbench.start import COLLECT

TARGET_MS = 16.0

written = 0


class CountingDriver(HeadlessDriver):
    """A terminal that counts the bytes it is given."""

    @property
    def is_headless(self) -> bool:
        """No: the application must write."""
        return False

    def write(self, data: str) -> None:
        """Count."""
        global written
        written += len(data.encode())


class Charts(App[None]):
    """One chart that fills the screen."""

    def __init__(self, chart: Widget) -> None:
        super().__init__(driver_class=CountingDriver)
        # True colours take the most bytes, whatever terminal this happens to run in.
        self.console = Console(file=io.StringIO(), color_system="truecolor", legacy_windows=False)
        self.chart = chart

    def compose(self) -> ComposeResult:
        """The chart."""
        yield self.chart


async def frames(
    pilot: Pilot[None], change: Callable[[int], None], count: int
) -> tuple[float, float, float]:
    """CPU milliseconds (median, least) and median bytes of a frame after ``change(index)``."""
    global written
    cpu, sent = [], []
    for index in range(count):
        await pilot.pause()
        written = 0
        start = time.process_time()
        change(index)
        await pilot.pause()
        cpu.append((time.process_time() - start) * 1e3)
        sent.append(written)
    return statistics.median(cpu), min(cpu), statistics.median(sent)


async def measure(width: int, height: int, points: int, count: int) -> list[dict[str, object]]:
    """Every case at one size of the screen."""
    rows: list[dict[str, object]] = []

    async def case(name: str, pilot: Pilot[None], change: Callable[[int], None]) -> None:
        idle, _, _ = await frames(pilot, lambda index: None, count)
        cpu, least, sent = await frames(pilot, change, count)
        times = {"cpu_ms": cpu, "least_ms": least}
        spent = {key: round(max(0.0, value - idle), 1) for key, value in times.items()}
        rows.append({"case": name, **spent, "bytes": int(sent)})

    samples = burst(points, 2)
    chart = StackedChart(samples)
    async with Charts(chart).run_test(headless=False, size=(width, height)) as pilot:
        await case("stacked, all samples anew", pilot, lambda _: chart.set_samples(samples))
        chart.action_peak()
        await case(
            "stacked, cursor moved", pilot, lambda index: chart.action_move(-1 if index % 9 else 1)
        )
        chart.action_release()
        await case("stacked, zoomed or back", pilot, lambda index: chart.zoom(2 - index % 2 * 1.5))
        chart.zoom(8)
        await case("stacked, panned", pilot, lambda index: chart.pan(-1 if index // 9 % 2 else 1))
        chart.show_all()
        await case("stacked, a band hidden or back", pilot, lambda _: chart.toggle_band(0))
        chart.set_reactive(StackedChart.hidden, frozenset())
        live = points // 2
        stride = max(1, points // 2 // (width // 2))
        chart.set_samples(samples[:live], steps=(1, 2))

        def grow(index: int) -> None:
            at = live + index * stride
            chart.append(samples[at : at + stride])

        await case("stacked, one column appended", pilot, grow)

    losses = [(step, 7 + 5 * math.exp(-step / 300)) for step in range(1, points + 1)]
    lines = LineChart()
    lines.steps = points
    async with Charts(lines).run_test(headless=False, size=(width, height)) as pilot:
        await case("loss, all points anew", pilot, lambda _: lines.set_series("now", losses))
    for name, widget, draw in charts_rivals.all_of(samples, width, height):
        if isinstance(widget, str):
            rows.append({"case": name, "skipped": widget})
            continue
        async with Charts(widget).run_test(headless=False, size=(width, height)) as pilot:
            await case(name, pilot, lambda _, draw=draw: draw())  # type: ignore[misc]
    return rows


def main() -> None:
    """Print the table, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charts", description=__doc__)
    parser.add_argument("--size", default="200x50", help="columns x rows (default 200x50)")
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0, help="of streaming; 0: none")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    width, height = (int(part) for part in options.size.split("x"))
    gc.set_threshold(*COLLECT)
    rows = asyncio.run(measure(width, height, options.points, options.frames))
    streamed = (
        asyncio.run(streaming.stream(width, height, options.seconds)) if options.seconds else {}
    )
    missed = [row["case"] for row in rows if _missed(row)]
    missed += [name for name, (value, aim) in streaming.aims(streamed).items() if not aim(value)]
    if options.json:
        found = {"size": [width, height], "points": options.points, "cases": rows}
        print(json.dumps(found | {"streamed": streamed, "missed": missed}))
    else:
        print(f"{width}x{height} cells, 5 bands x {options.points} points; aim {TARGET_MS:.0f} ms")
        print(f"{'a frame of CPU ms':<40}{'median':>8}{'least':>8}{'bytes':>9}")
        for row in rows:
            if "skipped" in row:
                print(f"{row['case']:<40}{row['skipped']:>25}")
            else:
                print(f"{row['case']:<40}{row['cpu_ms']:>8}{row['least_ms']:>8}{row['bytes']:>9,}")
        if streamed:
            print(streaming.told(streamed))
        for name in missed:
            print(f"missed: {name}", file=sys.stderr)
    sys.exit(1 if missed else 0)


def _missed(row: dict[str, object]) -> bool:
    """Whether one of our own charts takes longer than it may."""
    least = row.get("least_ms")
    own = str(row["case"]).startswith(("stacked", "loss"))
    return own and isinstance(least, float) and least > TARGET_MS


if __name__ == "__main__":
    main()
