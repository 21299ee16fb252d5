"""What is said of a run: its name and a note."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from memwb.engine.errors import MemwbError
from memwb.engine.keeping import given_name
from memwb.engine.runs import plain_name
from memwb.workbench import library
from memwb.workbench.screens.dialog import DIALOG, HELP_TYPING, explain
from memwb.workbench.units import printable

if TYPE_CHECKING:
    from memwb.engine.runs import Summary


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
        .keys {{ height: 1; margin-top: 1; color: $foreground 60%; }}
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

    def compose(self) -> ComposeResult:
        """A line for the name, an area for the note."""
        run = self._run
        with Vertical(classes="dialog") as box:
            box.border_title = f"Name and note of #{run.run}"
            unnamed = f"a name, in the place of: {printable(plain_name(run.techniques))}"
            name = printable(given_name(run))
            yield Input(name, placeholder=unnamed, select_on_focus=False, id="name")
            # Lines of a note are wrapped, and tab goes on to the name.
            yield TextArea(run.note, id="note", placeholder="a note: what was tried, what was seen")
            yield Static(_keys(), classes="keys")
            yield Static(classes="said", markup=False)

    def on_mount(self) -> None:
        """What was asked for is typed into."""
        if not self.children:  # the workbench was left meanwhile
            return
        self.query_one(f"#{self._first}").focus()
        self.query_one(".said").display = False
        note = self.query_one(TextArea)
        note.move_cursor(note.document.end)

    def on_input_submitted(self) -> None:
        """Enter in the name keeps both."""
        self.action_keep()

    def action_keep(self) -> None:
        """Write what was changed into the run's folder, and that alone."""
        name, note = self.query_one(Input).value, self.query_one(TextArea).text
        run = self._run
        changed = {}
        if name.strip() != printable(given_name(run)).strip():
            changed["name"] = name
        if note.rstrip() != run.note.rstrip():
            changed["note"] = note
        try:
            library.describe(run.folder, **changed)
        except MemwbError as error:
            said = self.query_one(".said", Static)
            said.display = True
            said.set_class(True, "-bad")
            said.update(f"✗ {error}")
            return
        self.dismiss(bool(changed))

    def action_explain(self) -> None:
        """What is kept, and where."""
        explain(self, "remarks")

    def action_leave(self) -> None:
        """Nothing is kept."""
        self.dismiss(False)


def _keys() -> Content:
    return Content.from_markup(
        "[@click=screen.keep][b]ctrl+s[/b] keep[/]    [@click=screen.leave][b]esc[/b] leave[/]"
        "    [b]tab[/b] name, note    [@click=screen.explain][b]f1[/b] help[/]"
    )
