"""The peak on a screen of its own: what is alive in that moment, predicted beside measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen

from memwb.engine.prediction import Prediction
from memwb.engine.protocol import Device
from memwb.workbench import library, workers
from memwb.workbench.charts.looks import band_colours
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels.forecast import MUTED, wrapped
from memwb.workbench.panels.line import Line
from memwb.workbench.screens import peak_tensors, peak_text
from memwb.workbench.screens.dialog import DIALOG, HEIGHTS, HELP, explain, keys_line
from memwb.workbench.screens.help import Page
from memwb.workbench.trace import Trace

EVERY = 0.5
"""Seconds between two looks at what there is to show: a burst, or a prediction, may go on."""
KEYS = {
    "next_view": ("tab", "prediction of plan or run"),
    "target": ("t", "another GPU"),
    "explain": ("?", "help"),
    "dismiss": ("esc", "leave"),
}


class Shown(NamedTuple):
    """What there is to show just now."""

    outlook: Outlook
    trace: Trace | None
    folder: str
    """Of the run that is shown; empty where it is not recorded."""
    device: Device | None


class PeakScreen(ModalScreen[str | None]):
    """Returns ``target`` where another GPU is wanted."""

    DEFAULT_CSS = f"""
    PeakScreen {{
        {DIALOG}
        .dialog {{ width: 98%; max-width: 150; }}
        VerticalScroll {{ height: 1fr; padding-right: 1; scrollbar-gutter: stable; }}
        #peak-keys {{ margin-top: 1; }}
        &.-short #peak-keys {{ margin-top: 0; }}
    }}
    """
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,P", "dismiss", "leave"),
        HELP,
        Binding("tab,shift+tab", "next_view", "plan or run", priority=True, show=False),
        Binding("t", "target", "predict for…"),
        Binding("down,j", "scroll_text(1)", "down", show=False),
        Binding("up,k", "scroll_text(-1)", "up", show=False),
    ]

    def __init__(self, look: Callable[[], Shown]) -> None:
        """``look`` gives what there is to show."""
        super().__init__()
        self._look = look
        self._shown = look()
        self._of_run = False
        """Whether the tensors predicted of the run's plan are listed, and not of the plan as it
        stands."""
        self._run: tuple[str, Prediction | None] = ("", None)
        """A run's folder, and what is kept of the prediction of its plan."""

    def compose(self) -> ComposeResult:
        """A page that scrolls, and the keys."""
        with Vertical(classes="dialog") as box:
            box.border_title = "The peak: what is alive"
            with VerticalScroll():
                yield Page(self._page)
            yield Line(keys_line(KEYS), id="peak-keys")

    def on_mount(self) -> None:
        """What is shown goes on while it is looked at."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one(VerticalScroll).focus()
        self.set_interval(EVERY, self._follow)
        self._follow()

    def _follow(self) -> None:
        before, now = self._shown, self._look()
        if now.folder and now.folder != self._run[0]:
            self._run = (now.folder, None)
            workers.displace(self, "default", self._recall, now)
        live = now.trace is not None and now.trace.ended is None
        if live or (now.outlook, now.trace) != (before.outlook, before.trace):
            self._shown = now
            self._write()

    async def _recall(self, shown: Shown) -> None:
        """What was predicted of the plan that the run ran, if it is kept."""
        trace = shown.trace
        kind = trace.device.kind if trace is not None and trace.device is not None else "cpu"
        found = await asyncio.to_thread(library.kept_of_run, shown.folder, kind, shown.device)
        self._run = (shown.folder, found)
        self._write()

    def _write(self) -> None:
        page = self.query_one(Page)
        page.update(self._page(page.size.width))

    def _page(self, width: int) -> Content:
        shown = self._shown
        mark = "~" if self.app.no_color else ""
        colours = band_colours(self)
        lines = peak_text.figures(shown.outlook, shown.trace, width, colours, mark)
        lines += peak_text.gaps(shown.outlook, shown.trace, width)
        lines += [Content()]
        lines += self._tensors(width, colours)
        lines += peak_text.notes(shown.outlook, width)
        return Content("\n").join(lines)

    def _tensors(self, width: int, colours: dict[str, str]) -> list[Content]:
        """Those that are predicted beside those that were measured."""
        outlook, trace, folder, _ = self._shown
        alive = peak_text.alive_of(trace)
        label = trace.label if trace is not None else ""
        result, whose, old = outlook.result, "the plan", not outlook.current
        lines: list[Content] = []
        if self._of_run:
            told = self._run[1] if self._run[0] == folder else None
            result, whose, old = told, f"{label}'s plan", False
            if told is None and trace is not None and trace.started:
                said = f"No prediction of {label or 'the run'}'s plan is kept."
                lines += wrapped(said, width, MUTED)
        if alive is None:
            lines += peak_tensors.missing(trace, width)
        head = peak_tensors.heading(result, whose, alive, label)
        return [*peak_tensors.tensors(result, alive, head, width, colours, old), *lines]

    def action_next_view(self) -> None:
        """The tensors predicted of the plan as it stands, or of the plan that the run ran."""
        self._of_run = not self._of_run
        self._write()

    def action_target(self) -> None:
        """Predict for another GPU."""
        self.dismiss("target")

    def action_scroll_text(self, by: int) -> None:
        """A line up or down."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_explain(self) -> None:
        """What this screen is for."""
        explain(self, "peak_screen")
