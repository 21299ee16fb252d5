"""Choosing the GPU that plans are predicted for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from memwb.engine.prediction import Fit
from memwb.engine.protocol import Device
from memwb.workbench import library
from memwb.workbench.panels.forecast import MARKS
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.screens.dialog import DIALOG
from memwb.workbench.units import gib

STYLES = {"fits": "on", "tight": "warning", "exceeds": "error"}
HERE = "here"
"""The id of the first row; no GPU is called so."""
NOTHING = Row("", (("  nothing matches", "muted"),), (), False)


class TargetScreen(ModalScreen[str | None]):
    """Returns the id of the chosen target, empty for this machine."""

    DEFAULT_CSS = f"""
    TargetScreen {{
        {DIALOG}
        .dialog {{ max-width: 84; }}
        Rows {{ height: 1fr; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Leave"),
        Binding("down", "move(1)", "Next", priority=True, show=False),
        Binding("up", "move(-1)", "Previous", priority=True, show=False),
        Binding("pagedown", "page(1)", "Page down", priority=True, show=False),
        Binding("pageup", "page(-1)", "Page up", priority=True, show=False),
    ]

    def __init__(self, target: str, fits: Sequence[Fit], device: Device | None) -> None:
        super().__init__()
        self._target = target
        self._fits = {fit.gpu: fit for fit in fits}
        self._device = device

    def compose(self) -> ComposeResult:
        """This machine, the GPUs, and the CPU; with the verdict on the plan as it stands."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Predict for…"
            box.border_subtitle = "↵ chooses · esc leaves"
            if not all(fit.same_kernels for fit in self._fits.values()):
                box.border_subtitle = f"~ chooses other kernels · {box.border_subtitle}"
            yield Input(placeholder="search, as 4090 or h100")
            yield Rows(self._rows(""))

    def on_mount(self) -> None:
        """The cursor stands on what it is now."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one(Input).focus()
        self.query_one(Rows).select(self._target or HERE)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list while one types."""
        rows = self._rows(event.value)
        listing = self.query_one(Rows)
        listing.fill(rows or [NOTHING])
        if event.value.strip():
            listing.action_edge(0)
        else:
            listing.select(self._target or HERE)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Choose the row at the cursor."""
        self._take()

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click chooses."""
        if event.again:
            self._take()

    def action_move(self, by: int) -> None:
        """Move in the list without leaving the field."""
        self.query_one(Rows).action_move(by)

    def action_page(self, by: int) -> None:
        """A screenful, without leaving the field."""
        self.query_one(Rows).action_page(by)

    def _take(self) -> None:
        row = self.query_one(Rows).current
        if row is not None and row.id:
            self.dismiss("" if row.id == HERE else row.id)

    def _rows(self, wanted: str) -> list[Row]:
        here = self._device.name if self._device is not None else ""
        found: list[tuple[str, str, str, int | None]] = [
            (HERE, "this machine", here, self._device.capacity if self._device else None)
        ]
        found += [(one.id, one.id, one.name, one.capacity) for one in library.targets()]
        found.append(("cpu", "cpu", "any CPU: what its meter would measure", None))
        words = wanted.lower().split()
        return [
            self._row(*row)
            for row in found
            if all(word in f"{row[1]} {row[2]}".lower() for word in words)
        ]

    def _row(self, id: str, shown: str, name: str, capacity: int | None) -> Row:
        mark = "●" if id == (self._target or HERE) else " "
        fit = self._fits.get(id)
        other = "~" if fit is not None and not fit.same_kernels else " "
        right = (
            ((f"{MARKS[fit.verdict]} {fit.verdict:<7}{other}", STYLES[fit.verdict]),) if fit else ()
        )
        room = f"{gib(capacity):>9}  " if capacity else ""
        left = ((f" {mark} ", "on"), (f"{shown:<20}", "accent"), (f"{name}", "muted"))
        return Row(id, left, ((f"  {room}", "value"), *right))
