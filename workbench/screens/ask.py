"""A question with two answers."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from memwb.workbench.screens.dialog import DIALOG, HELP, explain


class AskScreen(ModalScreen[bool]):
    """Returns whether the person is sure."""

    DEFAULT_CSS = f"""
    AskScreen {{
        {DIALOG}
        .dialog {{ width: 60; max-width: 100%; height: auto; padding: 1 2; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("enter", "enter", "yes, or leave"),
        Binding("n,escape,q", "answer(False)", "no"),
        HELP,
    ]

    def __init__(self, title: str, text: str, yes: str, no: str, *, careful: bool = False) -> None:
        """A careful question is left by Enter: what came with a habit is no answer to it."""
        super().__init__()
        self._careful = careful
        self._answers = (yes, no)
        self._title = title
        self._text = self._asked(text)

    def _asked(self, text: str) -> Content:
        yes, no = self._answers
        return Content.from_markup(
            "$text\n\n[@click=screen.answer(True)][b]y[/b] $yes[/]    "
            "[@click=screen.answer(False)][b]n[/b] $no[/]$keys",
            text=text,
            yes=yes,
            no=no,
            keys=" (esc, ↵)" if self._careful else "",
        )

    def compose(self) -> ComposeResult:
        """The question."""
        box = Static(self._text, classes="dialog")
        box.border_title = self._title
        box.border_subtitle = "? help"
        yield box

    def put(self, title: str, text: str) -> None:
        """The question in other words, since more is known by now; the answers stay the same."""
        self._title, self._text = title, self._asked(text)
        box = self.query_one(Static)
        box.border_title = title
        box.update(self._text)

    def action_explain(self) -> None:
        """What the answers mean."""
        explain(self, "question")

    def action_enter(self) -> None:
        """What Enter answers."""
        self.dismiss(not self._careful)

    def action_answer(self, sure: bool) -> None:
        """Give the answer."""
        self.dismiss(sure)
