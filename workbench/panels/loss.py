"""The loss of each step, and how fast the steps went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from memwb.workbench import library
from memwb.workbench.charts.lines import LineChart
from memwb.workbench.commands import bindings, keyed_in
from memwb.workbench.panels.texts import loss_behind, loss_line
from memwb.workbench.panels.titled import Titled
from memwb.workbench.trace import Trace, curve

if TYPE_CHECKING:
    from memwb.engine.guard import Baseline, Verdict
    from memwb.workbench.charts.thinning import Point

OFTEN = 256
"""Steps up to which each is judged at once; beyond, one of so many is."""
AROUND = 6
"""Columns of the border that a subtitle cannot take."""


class LossPanel(Titled):
    """The loss curve of one burst, over that of its baseline where it has one, or of several."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("loss")

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._trace: Trace | None = None
        self._alone: Trace | None = None
        """The burst whose curve is drawn, if it is no other's."""
        self._verdict: Verdict | None = None
        self._behind: tuple[Baseline | None, list[Point]] = (None, [])
        """The baseline whose curve was drawn last, and its points."""

    def compose(self) -> ComposeResult:
        """The chart."""
        self.rekey()
        yield LineChart(id="loss-chart")

    def rekey(self) -> None:
        """The keys have changed: of the title, and of how to run before anything has."""
        self._tell()

    @property
    def _called(self) -> str:
        return keyed_in(self, "$jump_loss Loss")

    def _titled(self) -> str:
        return self._called + (loss_behind(self._alone) if self._alone is not None else "")

    def show(self, trace: Trace | None, over: Sequence[Trace] = ()) -> None:
        """The losses so far, with those of other runs; the axis has room for every planned step."""
        if trace is None:
            return
        single = not over
        behind = trace.baseline if single else None
        self._alone = trace if single else None
        self._judge(trace, single)
        self._tell()
        chart = self.query_one(LineChart)
        chart.clear()
        chart.steps = max(each.planned for each in (trace, *over))
        for each in over:
            chart.set_series(each.label, each.curve, overlay=True)
        if behind is not None:
            if self._behind[0] is not behind:
                self._behind = (behind, curve(behind.losses))
            chart.set_series(f"#{behind.run}", self._behind[1], overlay=True)
        # With one run its number is already in the title of the memory chart.
        alone = single and behind is None
        chart.set_series("" if alone else trace.label, trace.curve)

    def _judge(self, trace: Trace, single: bool) -> None:
        """Hold the losses against the baseline's; in a long burst not at every step."""
        steps = trace.steps
        known = trace is self._trace and self._verdict is not None
        if known and steps > OFTEN and trace.ended is None and steps % OFTEN:
            return
        self._trace, self._verdict = trace, library.verdict(trace) if single else None

    def on_resize(self) -> None:
        """Less room says less."""
        self._tell()

    def _tell(self) -> None:
        room = self.outer_size.width - AROUND
        if self._trace is None:
            self.entitle(
                self._titled(), keyed_in(self, "the loss of each step · $run runs the plan")
            )
        else:
            self.entitle(self._titled(), loss_line(self._trace, self._verdict, room))

    @property
    def chart(self) -> LineChart:
        """The chart."""
        return self.query_one(LineChart)

    def release(self) -> bool:
        """Take the chart's cursor away if the chart has the focus; False without one."""
        if self.chart.cursor is None or not self.chart.has_focus:
            return False
        self.chart.action_release()
        return True

    def freeze(self, frozen: bool) -> None:
        """Hold the curve still, or let it catch up."""
        self.query_one(LineChart).frozen = frozen
