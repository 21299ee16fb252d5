"""What the focused thing is and which keys it takes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from memwb.engine.explain import Explanation
from memwb.workbench.commands import COMMANDS, keyed, shown_key
from memwb.workbench.explained import sections
from memwb.workbench.screens.dialog import DIALOG
from memwb.workbench.screens.help_texts import ABOUT, MARKS, OWN_KEYS, SCREENS

KEYS = 13
"""Columns of the keys and names at the left, as long as the longest does not need more."""


class Page(Static):
    """A text that is written anew for each width, so that what is wrapped stays in its column."""

    def __init__(self, write: Callable[[int], Content]) -> None:
        super().__init__()
        self._write = write

    def on_resize(self, event: events.Resize) -> None:
        """Wrap it for the width there is."""
        self.update(self._write(event.size.width))


class HelpScreen(ModalScreen[None]):
    """One page of text; any of the usual keys closes it."""

    DEFAULT_CSS = f"""
    HelpScreen {{
        {DIALOG}
        .dialog {{ max-width: 92; padding: 1 2; scrollbar-gutter: stable; }}
        &.-short .dialog {{ height: 100%; padding: 0 2; }}
    }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", "close"),
        Binding("down,j", "scroll_text(1)", "down", show=False),
        Binding("up,k", "scroll_text(-1)", "up", show=False),
    ]

    def __init__(
        self,
        panel: str,
        keymap: dict[str, str],
        explanation: Explanation | None = None,
        predicted: str = "",
    ) -> None:
        super().__init__()
        # Every line counts in a small terminal.
        self.VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-high")]
        self._panel = panel
        self._keymap = keymap
        self._explanation = explanation
        self._predicted = predicted

    def compose(self) -> ComposeResult:
        """The page."""
        told = self._explanation
        with VerticalScroll(classes="dialog") as box:
            box.border_subtitle = "esc closes"
            about = ABOUT | SCREENS
            box.border_title = told.title if told else about[self._panel][0]
            yield Page(self._page)

    def _page(self, width: int) -> Content:
        if self._explanation is not None:
            told = technique_help(self._explanation, width, self._predicted)
            marks = Content(textwrap.fill(MARKS, max(16, width)))
            keys = [_head("Here"), *_keys("plan", self._keymap, width)]
            return Content("\n").join([told, Content(), marks, Content(), *keys])
        return panel_help(self._panel, self._keymap, width)

    def action_scroll_text(self, by: int) -> None:
        """A line up or down."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)


def panel_help(panel: str, keymap: dict[str, str], width: int) -> Content:
    """What a panel shows, its own keys, then those that work everywhere."""
    about = keyed((ABOUT | SCREENS)[panel][1], keymap)
    lines = [Content(about), Content(), _head("Here")]
    lines += _keys(panel, keymap, width)
    if panel in SCREENS:
        return Content("\n").join(lines)
    lines += [Content(), _head("Everywhere")]
    rest = [command for command in COMMANDS if not command.where]
    lines += [_pair(shown_key(command, keymap), command.title, width) for command in rest]
    return Content("\n").join(lines)


def _keys(panel: str, keymap: dict[str, str], width: int) -> list[Content]:
    """The keys of a panel or screen alone."""
    own = ((keyed(key, keymap), keyed(text, keymap)) for key, text in OWN_KEYS[panel])
    lines = [_pair(key, text, width) for key, text in own]
    here = [command for command in COMMANDS if panel in command.where]
    return lines + [_pair(shown_key(command, keymap), command.title, width) for command in here]


def technique_help(explanation: Explanation, width: int, predicted: str = "") -> Content:
    """The explanation of a technique as a page, with what is predicted of toggling it."""
    lines: list[Content] = []
    told = sections(explanation)
    column = max(KEYS, *(len(label) + 1 for section in told for label, _ in section.rows))
    for section in told:
        if section.title:
            title = textwrap.fill(section.title, max(16, width), subsequent_indent="  ")
            lines += [Content(), _head(title)]
        lines += [_pair(label, text, width, column) for label, text in section.rows]
        if predicted and section is told[0]:
            lines.append(_pair("predicted", predicted, width, column))
    return Content("\n").join(lines)


def _head(text: str) -> Content:
    return Content.styled(text, "bold $text-primary")


def _pair(key: str, text: str, width: int, column: int = KEYS) -> Content:
    """A key and its text, whose further lines stand under the first."""
    label = f"{key:<{column - 1}} "
    # A key that is longer than its column takes from its own line alone.
    told = textwrap.fill(
        text,
        max(16 + column, width),
        initial_indent=" " * len(label),
        subsequent_indent=" " * column,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return Content.assemble((label, "$text-accent"), told[len(label) :])
