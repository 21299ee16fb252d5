"""One line of the screen with something at the left and something at the right."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from textual.content import Content
from textual.widget import Widget

Left = Content | str | Sequence[Content]


class Line(Widget):
    """A single line; the right part wins where both do not fit, in its longest form that leaves
    the left part whole, or else its shortest.

    A left part of several, as keys are, loses whole ones where there is no room: the last two,
    help and the way out, stay longest.
    """

    DEFAULT_CSS = """
    Line {
        height: 1;
        width: 1fr;
        link-background-hover: $primary 40%;
        link-style-hover: none;
        link-color-hover: $foreground;
    }
    """

    def __init__(self, left: Left = "", right: Content | str = "", *, id: str) -> None:
        super().__init__(id=id)
        self._lefts = _parts(left)
        self._rights: tuple[Content, ...] = (_content(right),)

    @property
    def link_style(self) -> Style:
        """None: what can be clicked has its own colours, as it has while text is being selected,
        when Textual gives links none."""
        return Style.null()

    def show(self, left: Left, right: Content | str = "", *shorter: Content | str) -> None:
        """Other contents, with shorter forms of the right part; strings may hold markup."""
        self._lefts = _parts(left)
        self._rights = tuple(_content(each) for each in (right, *shorter))
        self.refresh()

    def render(self) -> Content:
        """The line as wide as the widget."""
        width, parts = self.content_size.width, list(self._lefts)
        least = min(each.cell_length for each in self._rights)
        while len(parts) > 2 and _joined(parts).cell_length + least + bool(least) > width:
            del parts[-3]
        left = _joined(parts)
        free = width - left.cell_length - 1
        fitting = (each for each in self._rights if each.cell_length <= free)
        right = next(fitting, self._rights[-1])
        left = left.truncate(max(0, width - right.cell_length - 1), ellipsis=True)
        gap = " " * max(0, width - left.cell_length - right.cell_length)
        return Content.assemble(left, gap, right)


def _parts(left: Left) -> tuple[Content, ...]:
    return (_content(left),) if isinstance(left, Content | str) else tuple(left)


def _joined(parts: Sequence[Content]) -> Content:
    return Content("   ").join(parts)


def _content(text: Content | str) -> Content:
    return text if isinstance(text, Content) else Content.from_markup(text)
