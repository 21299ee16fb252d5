"""The peak: predicted and measured, what it is made of; with two runs, what differs."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from memwb.workbench.panels.texts import comparison, peak_lines
from memwb.workbench.trace import Trace


class PeakPanel(Static, can_focus=True):
    """Text only; it grows with the table of a comparison."""

    def __init__(self, *, id: str) -> None:
        super().__init__(peak_lines(None), id=id)
        self.border_title = "4 Peak"

    def show(self, trace: Trace | None, over: Trace | None) -> None:
        """One run's peak, or the difference of two."""
        both = trace is not None and over is not None
        text: Content
        if trace is not None and over is not None:
            text = comparison(trace, over)
        else:
            text = peak_lines(trace)
        self.border_title = "4 Difference" if both else "4 Peak"
        self.update(text)
