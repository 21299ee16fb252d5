"""The field that opens over a row to edit its value, and what is to be said of that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from memwb.workbench.panels.field import Field

Check = Callable[[str, str], str]
"""Takes a path and a text; says what is wrong with it, or nothing."""

Accept = Callable[[str, str, int], Awaitable[None]]
"""Takes a path, a text that is right, and which row to edit next."""


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
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "confirm(0)", "take it", show=False, priority=True),
        Binding("tab,down", "confirm(1)", "next value", show=False, priority=True),
        Binding("shift+tab,up", "confirm(-1)", "previous value", show=False, priority=True),
        Binding("escape", "leave", "leave", show=False, priority=True),
    ]

    def __init__(
        self,
        check: Check,
        accept: Accept,
        leave: Callable[[], None],
        room: Callable[[], None],
    ) -> None:
        """``room`` is called when something else is to be said, or nothing: see ``said``."""
        super().__init__()
        self._check = check
        self._accept = accept
        self._leave = leave
        self._room = room
        self._hint = self.path = ""
        self.said = ("", "muted")
        """What is wrong with the text or may be typed, and its style."""

    def compose(self) -> ComposeResult:
        """A line to type in."""
        yield Field()

    def open(self, path: str, text: str, hint: str) -> None:
        """Show the field with a value; ``hint`` says what may be typed."""
        self.path, self._hint = path, hint
        field = self.query_one(Input)
        field.value = text
        self.display = True
        self.screen.set_focus(field)
        self._answer(text)

    def place(self, x: int, line: int, width: int) -> None:
        """Stand on a line of a panel."""
        self.styles.offset = (x, line)
        self.styles.width = width

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say at once what is wrong."""
        event.stop()
        self._answer(event.value)

    def on_descendant_blur(self) -> None:
        """Close when somebody goes elsewhere, but not when only the terminal loses the focus."""
        if self.app.app_focus and self.screen.focused is not self.query_one(Input):
            self._close()

    async def action_confirm(self, step: int) -> None:
        """Take the value if it is right; ``step`` says which row to edit next, 0 none."""
        field = self.query_one(Field)
        await field.settled()
        if self._check(self.path, field.value):
            self.app.bell()
            return
        self._close()
        await self._accept(self.path, field.value, step)

    def action_leave(self) -> None:
        """Close without a change."""
        self._close()
        self._leave()

    def _answer(self, text: str) -> None:
        wrong = self._check(self.path, text)
        self.said = (f"✗ {wrong}", "error") if wrong else (self._hint, "muted")
        self.query_one(Input).set_class(bool(wrong), "-bad")
        self._room()

    def _close(self) -> None:
        self.display = False
        self._room()
