"""The frame of the screens that open over the main one, and what they have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.binding import Binding
from textual.content import Content
from textual.widgets import Static

if TYPE_CHECKING:
    from textual.screen import Screen

HEIGHTS = [(0, "-short"), (30, "-high")]
"""``VERTICAL_BREAKPOINTS`` of a screen that takes all of a small terminal."""
WIDTHS = [(0, "-small"), (110, "-large")]
"""``HORIZONTAL_BREAKPOINTS`` of a screen that has two columns where there is room."""

DIALOG = """
    align: center middle;
    background: $background 60%;
    .dialog {
        width: 90%;
        max-width: 130;
        height: 90%;
        padding: 0 1;
        border: round $primary;
        border-title-color: $text-primary;
        border-title-style: bold;
        border-subtitle-color: $foreground 60%;
        background: $surface;
    }
    &.-short .dialog { width: 100%; height: 100%; }
    .said { height: auto; color: $foreground 60%; }
    .said.-bad { color: $text-error; }
    .said.-good { color: $text-success; }
    .columns { color: $foreground 60%; padding-right: 1; }
    .keys { link-color: $foreground; }
    Rows { scrollbar-gutter: stable; }
    Input, Input:focus {
        margin: 0 0 1 0;
        padding: 0 1;
        height: 1;
        border: none;
        background: $surface-lighten-1;
    }
"""
"""Rules that every such screen nests under its own name."""

HELP = Binding("question_mark,f1", "explain", "help", priority=True)
"""For screens in which no question mark is typed; its action calls ``explain``."""
HELP_TYPING = Binding("f1", "explain", "help", priority=True)
"""The same for those in which it may be text."""


def explain(screen: Screen[Any], topic: str) -> None:
    """Open the help on a screen, over it."""
    from memwb.workbench.screens.help import HelpScreen

    keymap = screen.app.settings.keymap  # type: ignore[attr-defined]
    screen.app.push_screen(HelpScreen(topic, keymap))


def keys_line(keys: dict[str, tuple[str, str]]) -> list[Content]:
    """Actions of a screen with their keys, to be clicked, for a line; the last two stay longest."""
    return [
        Content.from_markup(f"[@click=screen.{action}][b $text-accent]{key}[/] {word}[/]")
        for action, (key, word) in keys.items()
    ]


def say(screen: Screen[Any], text: str, kind: str = "") -> None:
    """A line of the screen's own: ``-bad`` what went wrong, ``-good`` what was done."""
    said = screen.query_one(".said", Static)
    said.update(text)
    for name in ("-bad", "-good"):
        said.set_class(name == kind, name)
