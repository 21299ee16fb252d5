"""The field that opens over a row to edit its value, with what is wrong said beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

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
        #note { height: auto; padding: 0 1; color: $text-muted; background: $surface-lighten-1; }
        #note.-bad { color: $text-error; }
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
        """``room`` is called when what is said takes other lines: see ``lines``."""
        super().__init__()
        self._check = check
        self._accept = accept
        self._leave = leave
        self._room = room
        self._hint = self._said = ""
        self.path = ""

    def compose(self) -> ComposeResult:
        """A line to type in and a line that answers."""
        yield Field()
        yield Static(id="note", markup=False)

    def open(self, path: str, text: str, hint: str) -> None:
        """Show the field with a value; ``hint`` says what may be typed."""
        self.path, self._hint = path, hint
        field = self.query_one(Input)
        field.value = text
        self.display = True
        self.screen.set_focus(field)
        self._answer(text)

    def lines(self, width: int) -> int:
        """How many lines below the field what is said takes; none while it is closed."""
        return len(self._wrapped(width)) if self.display else 0

    def place(self, x: int, line: int, width: int, below: int) -> None:
        """Stand on a line of a panel, with no more said than there are lines ``below`` it."""
        said = self._wrapped(width)
        if len(said) > below:
            said = said[:below]
            said[-1:] = [f"{last[: width - 3]}…" for last in said[-1:]]
        note = self.query_one("#note", Static)
        note.update("\n".join(said))
        note.display = bool(said)
        self.styles.offset = (x, line)
        self.styles.width = width

    def _wrapped(self, width: int) -> list[str]:
        return textwrap.wrap(self._said, max(8, width - 2), break_on_hyphens=False)

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
        self._said = f"✗ {wrong}" if wrong else self._hint
        for widget in (self.query_one("#note"), self.query_one(Input)):
            widget.set_class(bool(wrong), "-bad")
        self._room()

    def _close(self) -> None:
        self.display = False
        self._room()
