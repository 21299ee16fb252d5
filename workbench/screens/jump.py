"""Jump mode: a letter on everything that can be gone to; typing it goes there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from textual import events
from textual.app import ComposeResult
from textual.geometry import Offset, Size
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static

from memwb.workbench.layout import PANELS
from memwb.workbench.panels.line import Line
from memwb.workbench.panels.rows import Rows

if TYPE_CHECKING:
    from memwb.workbench.screens.main import MainScreen

LETTERS = "asdfghjklqwertyuiopzxcvbnm"
"""Those under the fingers first."""


class Target(NamedTuple):
    """Where a letter stands on the screen and what it leads to."""

    at: Offset
    widget: Widget
    row: str = ""
    """The row of a list; empty for the widget itself."""
    panel: str = ""
    """The panel that a tab stands for, where it is not in sight."""


def targets(screen: Screen[object]) -> list[Target]:
    """Everything in sight that can have the focus, and the rows of lists, from the top left."""
    found: list[Target] = []
    for widget in screen.focus_chain:
        place = widget.region.intersection(screen.region)
        if not place:
            continue
        frame = _frame(widget)
        found.append(Target(frame.region.offset if frame is not None else place.offset, widget))
        if isinstance(widget, Rows):
            found += _rows(widget)
    return sorted(found, key=lambda target: (bool(target.row), target.at.x, target.at.y))


def tabs(main: MainScreen) -> list[Target]:
    """The panels that only their tabs are seen of."""
    bar = main.query_one("#tabs", Line)
    if not bar.display:
        return []
    text = bar.render().plain
    return [
        # Before its title stands the key, with a space around it.
        Target(
            bar.region.offset + Offset(text[: text.index(title)].rindex(" ", 0, -1), 0),
            bar,
            panel=name,
        )
        for name, title in PANELS.items()
        if name != main.panel and title in text
    ]


def _frame(widget: Widget) -> Widget | None:
    """The nearest panel around a widget that has a title: its letter stands beside that."""
    around = (node for node in widget.ancestors_with_self if isinstance(node, Widget))
    return next((node for node in around if node.border_title), None)


def _rows(rows: Rows) -> Iterator[Target]:
    corner, top = rows.region.offset, int(rows.scroll_offset.y)
    for line in range(rows.size.height):
        if top + line < len(rows.rows) and rows.rows[top + line].selectable:
            yield Target(corner + Offset(0, line), rows, rows.rows[top + line].id)


def labels(count: int) -> list[str]:
    """As many labels, one letter long or two; none is the beginning of another.

    The first ones are the short ones: panels come before rows.
    """
    letters = len(LETTERS)
    # Every letter that two-letter labels begin with makes one fewer of the short ones.
    begun = 0
    while letters - begun + begun * letters < count and begun < letters:
        begun += 1
    short = list(LETTERS[: letters - begun])
    long = ["".join(pair) for pair in product(LETTERS[letters - begun :], LETTERS)]
    return [*short, *long][:count]


class JumpScreen(ModalScreen[Target | None]):
    """Letters over another screen. Returns what was chosen; any other key leaves."""

    DEFAULT_CSS = """
    JumpScreen {
        background: $background 40%;
        .label {
            position: absolute;
            width: auto;
            height: 1;
            background: $warning;
            color: $text;
            text-style: bold;
            &:ansi { background: ansi_yellow; color: ansi_black; }
            &.-panel { background: $accent; &:ansi { background: ansi_cyan; } }
            &.-away { display: none; }
        }
    }
    """

    def __init__(self, found: Sequence[Target]) -> None:
        super().__init__()
        self._found = dict(zip(labels(len(found)), found, strict=False))
        self._typed = ""
        self._sized: Size | None = None

    def compose(self) -> ComposeResult:
        """A label for each target."""
        for label, target in self._found.items():
            # Plain text where there are no colours: brackets tell it from what it stands on.
            # On a row it is as narrow as the mark that it lies on: the words beside it stay whole.
            shaded = f"{label:2}" if target.row else f" {label} "
            text = f"[{label}]" if self.app.no_color else shaded
            shown = Static(text, markup=False, classes="label")
            shown.set_class(not target.row, "-panel")
            shown.styles.offset = (target.at.x, target.at.y)
            yield shown

    def on_key(self, event: events.Key) -> None:
        """A letter more, or away."""
        event.stop()
        event.prevent_default()
        self._typed += event.character or ""
        found = self._found.get(self._typed)
        left = [label for label in self._found if label.startswith(self._typed)]
        if found is not None or not left or not event.is_printable:
            self.dismiss(found)
            return
        for label, shown in zip(self._found, self.query(Static), strict=True):
            shown.set_class(not label.startswith(self._typed), "-away")

    def on_click(self, event: events.Click) -> None:
        """To a label, or away."""
        shown = zip(self._found.values(), self.query(Static), strict=True)
        place = event.screen_offset
        self.dismiss(next((to for to, label in shown if label.region.contains_point(place)), None))

    def on_resize(self, event: events.Resize) -> None:
        """In a terminal of another size what is under the letters stands elsewhere."""
        sized, self._sized = self._sized, event.size
        if sized is not None and sized != event.size:
            self.dismiss(None)
