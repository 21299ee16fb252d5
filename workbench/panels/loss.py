"""The loss of each step, and how fast the steps went."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical

from memwb.workbench.charts.lines import LineChart
from memwb.workbench.panels.texts import loss_line
from memwb.workbench.trace import Trace


class LossPanel(Vertical):
    """The loss curve of one burst, or of two."""

    def compose(self) -> ComposeResult:
        """The chart."""
        self.border_title = "3 Loss"
        yield LineChart(id="loss-chart")

    def show(self, trace: Trace | None, over: Trace | None = None) -> None:
        """The losses so far; the axis has room for every planned step."""
        if trace is None:
            return
        self.border_subtitle = loss_line(trace)
        chart = self.query_one(LineChart)
        chart.clear()
        chart.steps = max(trace.planned, over.planned if over is not None else 0)
        if over is not None:
            chart.set_series(over.label, enumerate(over.losses, 1), overlay=True)
        # With one run its number is already in the title of the memory chart.
        chart.set_series(trace.label if over is not None else "", enumerate(trace.losses, 1))

    def freeze(self, frozen: bool) -> None:
        """Hold the curve still, or let it catch up."""
        self.query_one(LineChart).frozen = frozen
