"""Choosing the GPU that plans are predicted for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

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
        Binding("enter,space", "take", "Choose"),
        Binding("escape,q,t", "dismiss", "Leave"),
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
            yield Rows(self._rows())

    def on_mount(self) -> None:
        """The cursor stands on what it is now."""
        rows = self.query_one(Rows)
        rows.focus()
        rows.select(self._target or HERE)

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click chooses."""
        if event.again:
            self.action_take()

    def action_take(self) -> None:
        """Choose the row at the cursor."""
        row = self.query_one(Rows).current
        if row is not None:
            self.dismiss("" if row.id == HERE else row.id)

    def _rows(self) -> list[Row]:
        known = library.targets()
        here = self._device.name if self._device is not None else ""
        rows = [self._row(HERE, "this machine", here, None)]
        rows += [self._row(each.id, each.id, each.name, each.capacity) for each in known]
        return [*rows, self._row("cpu", "cpu", "any CPU: what its meter would measure", None)]

    def _row(self, id: str, shown: str, name: str, capacity: int | None) -> Row:
        mark = "●" if id == (self._target or HERE) else " "
        fit = self._fits.get(id)
        right = ((f"{MARKS[fit.verdict]} {fit.verdict:<8}", STYLES[fit.verdict]),) if fit else ()
        room = f"{gib(capacity):>9}  " if capacity else ""
        left = ((f" {mark} ", "on"), (f"{shown:<20}", "accent"), (f"{name}", "muted"))
        return Row(id, left, ((f"  {room}", "value"), *right))
