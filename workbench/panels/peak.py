"""The peak: predicted and measured, what it is made of; with several runs, what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from memwb.engine.protocol import Device
from memwb.workbench.commands import keyed_in
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels import forecast, forecast_whole
from memwb.workbench.panels.compared import Compared, comparison, held_against
from memwb.workbench.trace import Trace

if TYPE_CHECKING:
    from memwb.engine.runs import Summary


class PeakPanel(VerticalScroll):
    """Text only: a few lines, or everything where the panel has the screen for itself."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._title = ""
        self._text = Content()
        self._trace: Trace | None = None
        self._compared: Compared | None = None
        self._pinned: Summary | None = None
        self._outlook = Outlook()
        self._device: Device | None = None

    def compose(self) -> ComposeResult:
        """The text, which scrolls where it is long."""
        self._entitle(self._called)
        yield Static(forecast.lines(self._outlook, None, 0, None), id="peak-text")

    @property
    def text(self) -> str:
        """What it says."""
        return self._text.plain

    @property
    def trace(self) -> Trace | None:
        """The run that is shown; of several the first."""
        return self._trace

    def show(self, trace: Trace | None, compared: Compared | None = None) -> None:
        """One run's peak, or how several differ."""
        self._trace, self._compared = trace, compared
        self._write()

    def hold_against(self, pinned: Summary | None) -> None:
        """The baseline that a run is held against, where there is one."""
        if pinned != self._pinned:
            self._pinned = pinned
            self._write()

    def foresee(self, outlook: Outlook, device: Device | None) -> None:
        """What is predicted of the plan now."""
        self._outlook, self._device = outlook, device
        self._write()

    def rekey(self) -> None:
        """The keys have changed."""
        self._write()

    @property
    def _called(self) -> str:
        return keyed_in(self, "$jump_peak Peak")

    def _write(self) -> None:
        trace, width = self._trace, self.scrollable_content_region.width
        if self._compared is not None:
            self._entitle(f"{self._called} · difference")
            self._update(comparison(self._compared, width))
            self.call_after_refresh(self._hint)
            return
        self._hint()
        peak = trace.peak if trace is not None else None
        meant = forecast.meant(self._outlook)
        # Where both are shown, a place in the title would be that of either.
        parts = [self._called, f"in {peak.phase}" if peak is not None and not meant else "", meant]
        self._entitle(" · ".join(part for part in parts if part))
        mark = "~"
        alone = self.screen.has_class("-single")
        if alone:
            told = forecast_whole.whole(self._outlook, peak, trace, width, self._device, mark)
        else:
            how = keyed_in(self, "$target predicts for a GPU")
            told = forecast.lines(self._outlook, peak, width, trace, self._device, mark, how)
        against = held_against(trace, self._pinned).truncate(width, ellipsis=True)
        text = Content("\n").join((told, against)) if against.plain else told
        self._update(text if alone else self._filled(text))

    def _filled(self, text: Content) -> Content:
        """With empty lines in the place of what is not known yet: the charts above stay put."""
        usual = forecast.ROWS + (self._trace is not None) + (self._pinned is not None)
        missing = usual - 1 - text.plain.count("\n")
        return Content("\n").join((text, *[Content()] * missing)) if missing > 0 else text

    def _hint(self) -> None:
        """Where the table has more lines than the panel, how to see all of it."""
        cut = self._compared is not None and self.max_scroll_y > 0
        said = keyed_in(self, "$jump_peak $maximise shows all of it")
        said = said if cut and not self.screen.has_class("-single") else ""
        if said != self.border_subtitle:
            self.border_subtitle = said

    def _entitle(self, title: str) -> None:
        # A title that is set has all of the panel drawn again; a burst tells of it all the time.
        if title != self._title:
            self._title = title
            self.border_title = title

    def _update(self, text: Content) -> None:
        if text != self._text:
            # The screen is laid out anew only where the panel gets another height.
            taller = text.plain.count("\n") != self._text.plain.count("\n")
            self._text = text
            self.query_one("#peak-text", Static).update(text, layout=taller)

    def on_resize(self) -> None:
        """More room shows more."""
        self._write()
        self.call_after_refresh(self._settle)

    def _settle(self) -> None:
        """The height of the text as it is now: that of another width was wrapped in this one."""
        text = self.query_one("#peak-text", Static)
        if text.size.height != self._text.plain.count("\n") + 1:
            text.refresh(layout=True)
