"""One line of the screen with something at the left and something at the right."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget


class Line(Widget):
    """A single line; the right part wins where both do not fit."""

    DEFAULT_CSS = """
    Line {
        height: 1;
        width: 1fr;
        link-style: none;
        link-color: $foreground;
        link-background-hover: $primary 40%;
        link-style-hover: none;
        link-color-hover: $foreground;
    }
    """

    def __init__(self, left: Content | str = "", right: Content | str = "", *, id: str) -> None:
        super().__init__(id=id)
        self._left = _content(left)
        self._right = _content(right)

    def show(self, left: Content | str, right: Content | str = "") -> None:
        """Other contents; markup is allowed in strings."""
        self._left, self._right = _content(left), _content(right)
        self.refresh()

    def render(self) -> Content:
        """The line as wide as the widget."""
        width = self.content_size.width
        room = max(0, width - self._right.cell_length - 1)
        left = self._left.truncate(room, ellipsis=True)
        gap = " " * max(0, width - left.cell_length - self._right.cell_length)
        return Content.assemble(left, gap, self._right)


def _content(text: Content | str) -> Content:
    return text if isinstance(text, Content) else Content.from_markup(text)
