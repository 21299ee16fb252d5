"""The field that opens over a row to edit its value, with what is wrong said below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

Check = Callable[[str, str], str]
"""Takes a path and a text; says what is wrong with it, or nothing."""


class Editor(Vertical):
    """One value being edited. Posts ``Accepted`` or ``Left``; it never changes the plan itself."""

    DEFAULT_CSS = """
    Editor {
        display: none;
        layer: above;
        position: absolute;
        height: auto;
        background: $surface;
        Input { background: $surface-lighten-2; color: $foreground; }
        Input.-bad { color: $text-error; }
        #note { height: auto; padding: 0 1; color: $text-muted; background: $surface-lighten-1; }
        #note.-bad { color: $text-error; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Leave", show=False),
        Binding("tab,down", "next(1)", "Next value", show=False),
        Binding("shift+tab,up", "next(-1)", "Previous value", show=False),
    ]

    class Accepted(Message):
        """The text is right and was confirmed; ``step`` says which row to edit next, 0 none."""

        def __init__(self, path: str, text: str, step: int) -> None:
            super().__init__()
            self.path = path
            self.text = text
            self.step = step

    class Left(Message):
        """The field was left without a change."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self._check = check
        self._hint = ""
        self.path = ""

    def compose(self) -> ComposeResult:
        """A line to type in and a line that answers."""
        yield Input(compact=True, select_on_focus=True, classes="field")
        yield Static(id="note", markup=False)

    def open(self, path: str, text: str, hint: str) -> None:
        """Show the field with a value; ``hint`` says what may be typed."""
        self.path, self._hint = path, hint
        field = self.query_one(Input)
        field.value = text
        self.display = True
        field.focus()
        self._answer(text)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say at once what is wrong."""
        event.stop()
        self._answer(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the value if it is right."""
        event.stop()
        self._accept(0)

    def action_next(self, step: int) -> None:
        """Take the value and go on to the next or previous one."""
        self._accept(step)

    def action_leave(self) -> None:
        """Close without a change."""
        self.display = False
        self.post_message(self.Left())

    def _accept(self, step: int) -> None:
        text = self.query_one(Input).value
        if self._check(self.path, text):
            self.app.bell()
            return
        self.display = False
        self.post_message(self.Accepted(self.path, text, step))

    def _answer(self, text: str) -> None:
        wrong = self._check(self.path, text)
        note = self.query_one("#note", Static)
        note.update(f"✗ {wrong}" if wrong else self._hint)
        for widget in (note, self.query_one(Input)):
            widget.set_class(bool(wrong), "-bad")
