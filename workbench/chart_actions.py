"""What the commands of the charts do: see ``chart_commands``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memwb.engine.memory import CATEGORIES

if TYPE_CHECKING:
    from memwb.workbench.charts.lines import LineChart
    from memwb.workbench.charts.stacked import StackedChart
    from memwb.workbench.screens.main import MainScreen


def zoom(main: MainScreen, factor: float) -> None:
    """Nearer to a chart, or further away."""
    _meant(main).zoom(factor)


def pan(main: MainScreen, way: int) -> None:
    """Earlier or later in a chart."""
    _meant(main).pan(way)


def show_all(main: MainScreen) -> None:
    """All of a chart."""
    _meant(main).show_all()


def band(main: MainScreen, category: str) -> None:
    """Draw a band of the memory chart no more, or again."""
    _memory(main).toggle_band(CATEGORIES.index(category))


def travel(main: MainScreen, to: str, way: int = 1) -> None:
    """Move the memory chart's cursor to its ``peak``, or to the ``phase`` or ``step`` beside."""
    if main.panel != "memory":
        main.action_jump("memory")
    if to == "peak":
        main.memory.chart.action_peak()
    else:
        main.memory.chart.action_jump(way, to == "phase")


def _meant(main: MainScreen) -> StackedChart | LineChart:
    """The chart that is meant: the loss's if it has the focus, or else memory's."""
    return main.loss.chart if main.panel == "loss" else _memory(main)


def _memory(main: MainScreen) -> StackedChart:
    """The memory chart, in sight."""
    if not main.memory.region.area:
        main.action_jump("memory")
    return main.memory.chart
