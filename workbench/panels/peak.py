"""The peak: predicted and measured, what it is made of; with two runs, what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.widgets import Static

from memwb.workbench.panels.texts import comparison, peak_lines, peak_of
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from memwb.engine.guard import Verdict


class PeakPanel(Static, can_focus=True):
    """Text only; it grows with the table of a comparison."""

    def __init__(self, *, id: str) -> None:
        super().__init__(peak_lines(None), id=id)
        self.border_title = "4 Peak"
        self._traces: tuple[Trace | None, Trace | None, Verdict | None] = (None, None, None)

    def show(
        self, trace: Trace | None, over: Trace | None = None, verdict: Verdict | None = None
    ) -> None:
        """One run's peak, or the difference of two, with the verdict on the second's losses."""
        self._traces = (trace, over, verdict)
        if trace is not None and over is not None:
            self.border_title = "4 Difference"
            self.update(comparison(trace, over, verdict))
        else:
            peak = peak_of(trace) if trace is not None else None
            self.border_title = f"4 Peak · in {peak.phase}" if peak is not None else "4 Peak"
            # Where it has the screen for itself, it also says what the peak is made of.
            self.update(peak_lines(trace, self.screen.has_class("-single")))

    def on_resize(self) -> None:
        """More room shows more."""
        self.show(*self._traces)
