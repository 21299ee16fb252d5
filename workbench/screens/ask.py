"""A question with two answers."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from memwb.workbench.screens.dialog import DIALOG


class AskScreen(ModalScreen[bool]):
    """Returns whether the person is sure."""

    DEFAULT_CSS = f"""
    AskScreen {{
        {DIALOG}
        .dialog {{ width: 60; max-width: 100%; height: auto; padding: 1 2; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
    ]

    def __init__(self, title: str, text: str, yes: str, no: str) -> None:
        super().__init__()
        self._title = title
        self._text = Content.from_markup(
            "$text\n\n[@click=screen.answer(True)][b]y[/b] $yes[/]    "
            "[@click=screen.answer(False)][b]n[/b] $no[/]",
            text=text,
            yes=yes,
            no=no,
        )

    def compose(self) -> ComposeResult:
        """The question."""
        box = Static(self._text, classes="dialog")
        box.border_title = self._title
        yield box

    def action_answer(self, sure: bool) -> None:
        """Give the answer."""
        self.dismiss(sure)
