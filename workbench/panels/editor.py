"""The field that opens over a row to edit its value, with what is wrong said below it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input, Static

from memwb.workbench.panels.field import Field

Check = Callable[[str, str], str]
"""Takes a path and a text; says what is wrong with it, or nothing."""

Accept = Callable[[str, str, int], Awaitable[None]]
"""Takes a path, a text that is right, and which row to edit next."""

STEPS = {"enter": 0, "tab": 1, "down": 1, "shift+tab": -1, "up": -1}
"""The keys that confirm a value, and which row is edited next."""


class Editor(Vertical):
    """One value being edited; who opened it is told the text when it is right and confirmed."""

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

    def __init__(self, check: Check, accept: Accept, leave: Callable[[], None]) -> None:
        super().__init__()
        self._check = check
        self._accept = accept
        self._leave = leave
        self._hint = ""
        self.path = ""

    def compose(self) -> ComposeResult:
        """A line to type in and a line that answers."""
        yield Field(self._special)
        yield Static(id="note", markup=False)

    def open(self, path: str, text: str, hint: str) -> None:
        """Show the field with a value; ``hint`` says what may be typed."""
        self.path, self._hint = path, hint
        field = self.query_one(Input)
        field.value = text
        self.display = True
        self.screen.set_focus(field)
        self._answer(text)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say at once what is wrong."""
        event.stop()
        self._answer(event.value)

    async def _special(self, key: str) -> bool:
        if key in STEPS:
            await self._confirm(STEPS[key])
        elif key == "escape":
            self.display = False
            self._leave()
        return key in STEPS or key == "escape"

    async def _confirm(self, step: int) -> None:
        text = self.query_one(Input).value
        if self._check(self.path, text):
            self.app.bell()
            return
        self.display = False
        await self._accept(self.path, text, step)

    def _answer(self, text: str) -> None:
        wrong = self._check(self.path, text)
        note = self.query_one("#note", Static)
        note.update(f"✗ {wrong}" if wrong else self._hint)
        for widget in (note, self.query_one(Input)):
            widget.set_class(bool(wrong), "-bad")
