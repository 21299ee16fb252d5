"""Presets: what each is for, loading one, and saving the plan as one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from memwb.engine import paths
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.presets import load_plan, presets, save_preset
from memwb.workbench.panels.rows import Row, Rows
from memwb.workbench.preset_texts import comment, contents, goal
from memwb.workbench.screens.dialog import DIALOG

WIDEST = 34
"""Columns that a name may take in the list; the packaged ones have room."""


class PresetScreen(ModalScreen[Plan | None]):
    """Returns the plan of the chosen preset."""

    DEFAULT_CSS = f"""
    PresetScreen {{
        {DIALOG}
        Rows {{ height: 1fr; }}
        .said {{ margin-top: 1; height: 9; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "take", "Load"),
        Binding("escape,q", "dismiss", "Leave"),
    ]

    def compose(self) -> ComposeResult:
        """The list, and what the comment at the head of a preset says."""
        self._files = presets()
        with Vertical(classes="dialog") as box:
            box.border_title = "Load a preset"
            box.border_subtitle = "↵ loads it · esc leaves"
            room = min(WIDEST, max(map(len, self._files), default=0)) + 2
            yield Rows([_row(name, path, room) for name, path in self._files.items()])
            yield Static(classes="said", markup=False)

    def on_mount(self) -> None:
        """The first one is described at once."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one(Rows).focus()
        self._describe()

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Say what the preset at the cursor is for."""
        self._describe()

    def on_rows_pressed(self, event: Rows.Pressed) -> None:
        """A second click loads it."""
        if event.again:
            self.action_take()

    def action_take(self) -> None:
        """Load the preset at the cursor."""
        row = self.query_one(Rows).current
        if row is None:
            return
        try:
            self.dismiss(load_plan(row.id))
        except MemwbError as error:
            self._say(f"✗ {error}", bad=True)

    def _describe(self) -> None:
        row = self.query_one(Rows).current
        if row is not None and row.id in self._files:
            file = self._files[row.id]
            self._say(comment(file) or contents(file))

    def _say(self, text: str, bad: bool = False) -> None:
        said = self.query_one(".said", Static)
        said.update(text)
        said.set_class(bad, "-bad")


class SaveScreen(ModalScreen[str | None]):
    """Returns the file that the plan was saved to."""

    DEFAULT_CSS = f"""
    SaveScreen {{
        {DIALOG}
        .dialog {{ width: 70; max-width: 100%; height: auto; padding: 1 2; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Leave")]

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._asked = ""

    def compose(self) -> ComposeResult:
        """A name and an answer."""
        with Vertical(classes="dialog") as box:
            box.border_title = "Save the plan as a preset"
            box.border_subtitle = "↵ saves · esc leaves"
            yield Input(placeholder="a name, such as my-lora")
            yield Static("It is kept beside your runs.", classes="said", markup=False)

    def on_input_changed(self) -> None:
        """Another name asks again."""
        self._asked = ""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Save; a name that is taken is asked about once."""
        name = event.value.strip()
        said = self.query_one(".said", Static)
        said.set_class(True, "-bad")
        if name in presets() and self._asked != name:
            self._asked = name
            said.update(f"There is a preset {name!r} already. ↵ again replaces it for you.")
            return
        try:
            self.dismiss(str(save_preset(name, self._plan)))
        except MemwbError as error:
            said.update(f"✗ {error}")


def _row(name: str, path: Path, room: int) -> Row:
    shown = name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}…"
    own = "yours" if path.parent == paths.presets_folder() else ""
    return Row(
        name, ((f" {shown:<{room}}", "accent"), (goal(path), "muted")), ((f" {own} ", "value"),)
    )
