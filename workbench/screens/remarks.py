"""What is said of a run: its name and a note."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from memwb.engine.errors import MemwbError
from memwb.engine.keeping import given_name
from memwb.engine.runs import plain_name
from memwb.workbench import library
from memwb.workbench.panels.line import Line
from memwb.workbench.screens.dialog import DIALOG, HELP_TYPING, explain, keys_line, say
from memwb.workbench.units import printable

if TYPE_CHECKING:
    from memwb.engine.runs import Summary


KEYS = {
    "keep": ("ctrl+s", "keep"),
    "other": ("tab", "name, note"),
    "explain": ("f1", "help"),
    "leave": ("esc", "leave"),
}


class RemarksScreen(ModalScreen[bool]):
    """Returns whether something was kept."""

    DEFAULT_CSS = f"""
    RemarksScreen {{
        {DIALOG}
        .dialog {{ width: 76; max-width: 100%; height: auto; max-height: 100%; padding: 1 2; }}
        TextArea, TextArea:focus {{
            height: 7;
            border: none;
            padding: 0 1;
            background: $surface-lighten-1;
        }}
        .label {{ padding: 0 1; color: $foreground 60%; }}
        .said {{ min-height: 1; padding: 0 1; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "keep", "keep", priority=True),
        Binding("escape", "leave", "leave", priority=True),
        HELP_TYPING,
    ]

    def __init__(self, run: Summary, first: str) -> None:
        """``first`` is what is typed into at once: name or note."""
        super().__init__()
        self._run = run
        self._first = first
        self._asked: dict[str, str] = {}
        """What was changed when leaving was asked about."""

    def compose(self) -> ComposeResult:
        """A line for the name, an area for the note."""
        run = self._run
        with Vertical(classes="dialog") as box:
            box.border_title = f"Name and note of #{run.run}"
            unnamed = f"a name, in the place of: {printable(plain_name(run.techniques))}"
            name = printable(given_name(run))
            yield Static("name", classes="label")
            yield Input(name, placeholder=unnamed, select_on_focus=False, id="name")
            yield Static("note", classes="label")
            # Lines of a note are wrapped, and tab goes on to the name.
            yield TextArea(run.note, id="note", placeholder="a note: what was tried, what was seen")
            yield Static(classes="said", markup=False)
            yield Line(keys_line(KEYS), id="remarks-keys")

    def on_mount(self) -> None:
        """What was asked for is typed into."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one(f"#{self._first}").focus()
        note = self.query_one(TextArea)
        note.move_cursor(note.document.end)

    def on_input_submitted(self) -> None:
        """Enter in the name keeps both."""
        self.action_keep()

    def action_keep(self) -> None:
        """Write what was changed into the run's folder, and that alone."""
        changed = self._changed()
        try:
            library.describe(self._run.folder, **changed)
        except MemwbError as error:
            say(self, f"✗ {error}", "-bad")
            return
        self.dismiss(bool(changed))

    def action_other(self) -> None:
        """From the name to the note, and back."""
        self.focus_next()

    def action_explain(self) -> None:
        """What is kept, and where."""
        explain(self, "remarks")

    def action_leave(self) -> None:
        """Nothing is kept; what was changed is asked about once."""
        changed = self._changed()
        if not changed or changed == self._asked:
            self.dismiss(False)
            return
        self._asked = changed
        say(self, "What you changed is not kept: esc again leaves it, ctrl+s keeps it.", "-bad")

    def _changed(self) -> dict[str, str]:
        name, note = self.query_one(Input).value, self.query_one(TextArea).text
        run, changed = self._run, {}
        if name.strip() != printable(given_name(run)).strip():
            changed["name"] = name
        if note.rstrip() != run.note.rstrip():
            changed["note"] = note
        return changed
