"""The same five bands, drawn by other libraries for Textual, as their authors show it.

Both are given what a frame of ours has to find out first: textual-hires-canvas the columns'
peaks, textual-plotext the running sums. Neither draws a legend or a cursor here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from textual.widget import Widget

from memwb.engine.protocol import Sample
from memwb.workbench.charts.bands import values
from memwb.workbench.charts.palette import DARK
from memwb.workbench.charts.timeline import peaks

Rival = tuple[str, Widget | str, Callable[[], object]]
"""Its name; its widget, or why there is none; what draws one frame."""


def all_of(samples: Sequence[Sample], width: int, height: int) -> Iterator[Rival]:
    """Each of them, told apart from those that are not installed."""
    for name, module, build in (
        ("textual-plotext", "textual_plotext", plotext),
        ("textual-hires-canvas", "textual_hires_canvas", hires),
    ):
        if importlib.util.find_spec(module) is None:
            yield name, f"skipped: pip install {name}", lambda: None
        else:
            yield (name, *build(samples, width, height))


def alone(name: str) -> None:
    """An application of one chart and nothing else, for how long it takes to its first paint.

    ``name`` is that of a rival, or ``memwb`` for our own; the word below says that it is painted.
    """
    from textual.app import App, ComposeResult
    from textual.widgets import Static

    from benchmarks.samples import burst
    from memwb.workbench.charts.stacked import StackedChart

    samples = burst(2000, 2)

    class Alone(App[None]):
        def compose(self) -> ComposeResult:
            if name == "memwb":
                yield StackedChart(samples)
            for known, widget, draw in all_of(samples, 120, 39) if name != "memwb" else ():
                if known == name and isinstance(widget, Widget):
                    self.call_after_refresh(draw)
                    widget.styles.height = 39
                    yield widget
            yield Static("commands")

    Alone().run()


def sums(samples: Sequence[Sample]) -> list[list[int]]:
    """The upper edge of each of the five bands, in bytes."""
    edges = [list(accumulate(values(sample)[:5])) for sample in samples]
    return [list(band) for band in zip(*edges, strict=True)]


def plotext(
    samples: Sequence[Sample], width: int, height: int
) -> tuple[Widget, Callable[[], object]]:
    """Filled lines over every sample, the highest first."""
    from textual_plotext import PlotextPlot

    widget = PlotextPlot()
    bands = sums(samples)
    times = [sample.time for sample in samples]
    colours = [tuple(int(name[at : at + 2], 16) for at in (1, 3, 5)) for name in DARK]

    def draw() -> None:
        plot = widget.plt
        plot.clear_data()
        for band in range(4, -1, -1):
            plot.plot(times, bands[band], fillx=True, marker="fhd", color=colours[band])
        widget.refresh()

    return widget, draw


def hires(
    samples: Sequence[Sample], width: int, height: int
) -> tuple[Widget, Callable[[], object]]:
    """An upright line in quarter cells for each band of each of two columns in a cell."""
    from textual_hires_canvas import Canvas, HiResMode

    widget = Canvas(width, height)
    span = samples[-1].time - samples[0].time
    found = [one for one in peaks(samples, width * 2, span, True) if one is not None]
    bands = sums(found)
    top = max(bands[4])

    def draw() -> None:
        widget.reset(refresh=False)
        below = [0] * len(found)
        for band, colour in enumerate(DARK[:5]):
            lines = [
                (at / 2, height - 1 - low * height / top, at / 2, height - 1 - high * height / top)
                for at, (low, high) in enumerate(zip(below, bands[band], strict=True))
            ]
            widget.draw_hires_lines(lines, HiResMode.QUADRANT, colour)
            below = bands[band]
        widget.refresh()

    return widget, draw
