"""What happened and what to do about it, above the footer until it is put away."""

from __future__ import annotations

from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from memwb.workbench.units import printable

LASTS = 10.0
"""Seconds for which it is told what was done: there is nothing to do about it."""
MARKS = {"error": "✗ ", "warning": "! "}
"""What tells a kind of message where colours do not."""


class Notice(Static):
    """One message; nothing is shown while there is none."""

    DEFAULT_CSS = """
    Notice {
        display: none;
        height: auto;
        max-height: 9;
        padding: 0 2;
        border-left: outer $primary;
        background: $surface;
        &.-error { border-left: outer $error; background: $error 12%; }
        &.-warning { border-left: outer $warning; background: $warning 10%; }
        /* Of sixteen colours none can be thinned: the text would stand on the full one. */
        &:ansi { background: ansi_default; }
    }
    """

    passing = False
    """Whether the message is about the plan as it stood."""
    _leaves: Timer | None = None

    def tell(self, kind: str, title: str, text: str = "", passing: bool = False) -> None:
        """Show a message; ``kind`` is information, warning or error.

        Information goes by itself, unless it stays until the plan is another.
        """
        self.clear()
        self.passing = passing
        if kind == "information" and not passing:
            self._leaves = self.set_timer(LASTS, self.clear)
        style = {"error": "bold $text-error", "warning": "bold $text-warning"}
        head = Content.assemble(
            (MARKS.get(kind, "") + printable(title), style.get(kind, "bold $text-primary")),
            ("   esc", "$foreground 50%"),
        )
        # What an engine has said may be anything.
        lines = [Content(printable(line)) for line in text.splitlines()]
        parts = [head, *lines]
        self.update(Content("\n").join(parts))
        for name in ("information", "warning", "error"):
            self.set_class(name == kind, f"-{name}")
        self.display = True

    def clear(self) -> bool:
        """Put the message away; False when there was none."""
        if self._leaves is not None:
            self._leaves.stop()
            self._leaves = None
        shown = bool(self.display)
        self.display = False
        return shown
