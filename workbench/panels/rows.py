"""A scrolling list of styled rows with a cursor: the plan, the history and the pickers use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import ClassVar, overload

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from memwb.workbench.units import printable

Spans = tuple[tuple[str, str], ...]
"""Pieces of text, each with the name of its style."""

STYLES = {
    "plain": "$foreground",
    "muted": "$foreground 60%",
    "group": "bold $text-secondary",
    "on": "bold $text-success",
    "off": "$foreground",
    "value": "$text-accent",
    "saves": "$text-success",
    "old": "$foreground 45%",
    "warning": "$text-warning",
    "error": "$text-error",
    "accent": "bold $text-primary",
    "cursor": "bold on $primary 45%",
    "cursor-plain": "reverse",
    "cursor-blurred": "on $foreground 8%",
}
"""The looks by name. A component class each would be styled anew at every change of focus."""


class Row(msgspec.Struct, frozen=True):
    """One line: spans at the left, spans at the right edge, and what it stands for."""

    id: str
    left: Spans
    right: Spans = ()
    selectable: bool = True


SAID = "said"
"""The id of lines that say something of the row above them for a while."""


class Lazy(Sequence[Row]):
    """Rows that are made when they come in sight; which there are is known by their ids."""

    def __init__(self, ids: Sequence[str], make: Callable[[int], Row]) -> None:
        self.ids = ids
        self._make = make

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        places = range(len(self.ids))[at]
        return self._make(places) if isinstance(places, int) else [*map(self._make, places)]


class Rows(ScrollView, can_focus=True):
    """The list. Posts ``Moved`` when the cursor moves and ``Pressed`` when a row is clicked."""

    DEFAULT_CSS = """
    Rows {
        scrollbar-size-vertical: 1;
        overflow-x: hidden;
    }
    """
    # In order with the keys of the screen: "down, space" must not toggle the row before.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False, priority=True),
        Binding("down,j", "move(1)", "down", show=False, priority=True),
        Binding("pageup", "page(-1)", "page up", show=False, priority=True),
        Binding("pagedown", "page(1)", "page down", show=False, priority=True),
        Binding("home,g", "edge(0)", "first", show=False, priority=True),
        Binding("end,G", "edge(-1)", "last", show=False, priority=True),
    ]

    cursor: reactive[int] = reactive(0, always_update=True)

    class Moved(Message):
        """The cursor stands on another row."""

        def __init__(self, rows: Rows, row: Row) -> None:
            super().__init__()
            self.rows = rows
            self.row = row

        @property
        def control(self) -> Rows:
            """The list it happened in."""
            return self.rows

    class Pressed(Message):
        """A row was clicked at a column; ``again`` when the cursor already stood there."""

        def __init__(self, rows: Rows, row: Row, column: int, again: bool) -> None:
            super().__init__()
            self.rows = rows
            self.row = row
            self.column = column
            self.again = again

        @property
        def control(self) -> Rows:
            """The list it happened in."""
            return self.rows

    def __init__(self, rows: Sequence[Row] = (), *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.rows: Sequence[Row] = list(rows)
        self._ids: Sequence[str] = [row.id for row in self.rows]
        self.led = False
        """Whether a field that has the focus moves its cursor, which then looks like its own."""
        self._parted: tuple[str, tuple[Row, ...]] = ("", ())
        self._before = 0
        self._looks: dict[str, Style] = {}
        self._beside: dict[str, Spans] = {}

    @property
    def current(self) -> Row | None:
        """The row at the cursor."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def fill(self, rows: Sequence[Row]) -> None:
        """Other rows; the cursor stays on the row it stood on, or near where that was.

        On the same line too, so that what is filled in above does not push the list away.
        """
        before = self.current.id if self.current else ""
        line, top = self.cursor - self.scroll_offset.y, self.scroll_offset.y
        self.rows = self._spread(rows)
        self._ids = self.rows.ids if isinstance(self.rows, Lazy) else [row.id for row in self.rows]
        known = before in self._ids
        at = self._ids.index(before) if known else min(self.cursor, max(0, len(self.rows) - 1))
        self.set_reactive(Rows.cursor, self._selectable(at, 1))
        self.virtual_size = Size(1, len(self.rows))
        height = self.size.height
        if 0 <= line < height and (top or self.cursor >= height):
            self._scroll(self.cursor - line)
        self.refresh()

    def part(self, after: str, said: Sequence[Row]) -> None:
        """Lines below a row that say something of it, each with the id SAID; without, as it was."""
        parted = (after, tuple(said)) if said else ("", ())
        if parted == self._parted:
            return
        if not self._parted[1]:
            self._before = int(self.scroll_offset.y)
        self._parted = parted
        self.fill([row for row in self.rows if row.id != SAID])
        if said:
            self.reveal(self.cursor, self.cursor + len(said))
        elif self._before <= self.cursor < self._before + self.size.height:
            self._scroll(self._before)

    def _spread(self, rows: Sequence[Row]) -> Sequence[Row]:
        after, said = self._parted
        if not said:
            return rows if isinstance(rows, Lazy) else list(rows)
        at = next((at for at, row in enumerate(rows) if row.id == after), -1) + 1
        return [*rows[:at], *(said if at else ()), *rows[at:]]

    def beside(self, spans: dict[str, Spans]) -> None:
        """What stands at the right edge of rows by their id, until others are given."""
        if spans != self._beside:
            self._beside = spans
            self.refresh()

    def in_sight(self) -> list[Row]:
        """The rows that are seen, those nearest to the cursor first."""
        top = int(self.scroll_offset.y)
        seen = range(top, min(len(self.rows), top + self.size.height))
        return [self.rows[at] for at in sorted(seen, key=lambda at: abs(at - self.cursor))]

    def reveal(self, first: int, last: int) -> None:
        """Scroll so far that these rows are seen; if not all, the first; the cursor always."""
        height = self.size.height
        top = max(self.scroll_offset.y, last - height + 1)
        top = max(min(top, first), self.cursor - height + 1)
        if height:
            self._scroll(min(top, self.cursor))

    def _scroll(self, top: int) -> None:
        self.scroll_to(y=max(0, top), animate=False, force=True, immediate=True)

    def select(self, row_id: str) -> bool:
        """Put the cursor on the row of that id; False when there is none."""
        for place, known in enumerate(self._ids):
            if known == row_id and self.rows[place].selectable:
                self.cursor = place
                return True
        return False

    def watch_cursor(self, old: int, new: int) -> None:
        """Keep the cursor in sight and tell who listens."""
        for line in {old, new}:
            self.refresh_line(line)
        if self.size.height:
            # One line above stays visible, so that a group's name is seen with its first row.
            around = Region(0, max(0, new - 1), 1, 3)
            self.scroll_to_region(around, animate=False, force=True, immediate=True)
        if old != new and self.current is not None:
            self.post_message(self.Moved(self, self.current))

    def action_move(self, by: int) -> None:
        """One row up or down, past those that cannot be chosen."""
        self.cursor = self._selectable(self.cursor + by, by)

    def action_page(self, by: int) -> None:
        """A screenful up or down."""
        self.cursor = self._selectable(self.cursor + by * max(1, self.size.height - 2), by)

    def action_edge(self, to: int) -> None:
        """The first or the last row."""
        self.cursor = self._selectable(0 if to == 0 else len(self.rows) - 1, 1 if to == 0 else -1)

    def on_resize(self) -> None:
        """The cursor stays in sight when the list gets smaller."""
        self.virtual_size = Size(1, len(self.rows))
        self.call_after_refresh(self.watch_cursor, self.cursor, self.cursor)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        place = event.y + self.scroll_offset.y
        if 0 <= place < len(self.rows) and self.rows[place].selectable:
            again = place == self.cursor
            self.cursor = place
            self.post_message(self.Pressed(self, self.rows[place], event.x, again))

    def line_of(self, row_id: str) -> int:
        """The line of a row within the visible part; may lie outside of it."""
        place = self._ids.index(row_id) if row_id in self._ids else 0
        return place - int(self.scroll_offset.y)

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        width = self.scrollable_content_region.width
        place = y + self.scroll_offset.y
        base = self._look("")
        if place >= len(self.rows):
            return Strip.blank(width, base)
        at_cursor = place == self.cursor and self.rows[place].selectable
        if at_cursor:
            base += self._look(self._cursor())
        if at_cursor and self._cursor() == "cursor-plain":
            # Reversed, each colour would be a patch of its own: the whole row has one.
            return _strip(self._row(place), width, base, lambda _: Style.null())
        return _strip(self._row(place), width, base, self._look)

    def _row(self, place: int) -> Row:
        row = self.rows[place]
        spans = self._beside.get(row.id)
        return Row(row.id, row.left, (*row.right, *spans)) if spans else row

    def notify_style_update(self) -> None:
        """Another theme or focus: the styles are looked up again."""
        super().notify_style_update()
        self._looks.clear()

    def _look(self, name: str) -> Style:
        """The style of that name; the empty name is the list's own."""
        found = self._looks.get(name)
        if found is None:
            if not name:
                found = self.rich_style
            else:
                # Colours with an alpha are blended with what is behind the list.
                style = self.app.stylesheet.parse_style(STYLES[name])
                whole = (self.visual_style + style).rich_style
                found = Style(
                    color=whole.color if style.foreground is not None else None,
                    bgcolor=whole.bgcolor if style.background is not None else None,
                    bold=style.bold,
                    reverse=style.reverse,
                )
            self._looks[name] = found
        return found

    def _cursor(self) -> str:
        if not self.has_focus and not self.led:
            return "cursor-blurred"
        # A terminal's own sixteen colours cannot be blended: its blue may be that of the text.
        plain = self.app.no_color or self.app.native_ansi_color
        return "cursor-plain" if plain else "cursor"

    def _selectable(self, place: int, by: int) -> int:
        """The nearest row that can be chosen, looking first in the direction of the move."""
        if not self.rows:
            return 0
        last = len(self.rows) - 1
        place = max(0, min(place, last))
        ahead = range(place, last + 1) if by > 0 else range(place, -1, -1)
        behind = range(place, -1, -1) if by > 0 else range(place, last + 1)
        return next((at for at in chain(ahead, behind) if self.rows[at].selectable), 0)


def _strip(row: Row, width: int, base: Style, style: Callable[[str], Style]) -> Strip:
    right = [Segment(printable(text), base + style(name)) for text, name in row.right]
    room = max(0, width - sum(cell_len(segment.text) for segment in right))
    left: list[Segment] = []
    for words, name in row.left:
        text = printable(words)
        taken = cell_len(text)
        if taken > room:
            text = set_cell_size(text, max(0, room - 1)) + ("…" if room else "")
            taken = room
        room -= taken
        left.append(Segment(text, base + style(name)))
    return Strip([*left, Segment(" " * room, base), *right]).adjust_cell_length(width, base)
