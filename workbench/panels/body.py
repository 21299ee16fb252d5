"""Where the panels stand: the borders between them can be dragged and stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from textual import events
from textual.containers import Horizontal
from textual.css.scalar import Scalar
from textual.widget import Widget

from memwb.workbench import sizes
from memwb.workbench.sizes import RIGHT

WIDTH = -1
"""The border between the plan and the panels at its right; the others are those below a panel."""

ALONE = "One panel has the whole screen here: there is no border to move."


class Body(Horizontal):
    """Holds ``#plan`` and ``#right``; tells the sizes that a hand or a key has given them."""

    DEFAULT_CSS = """
    Body.-dragged #plan, Body.-dragged #right > * { border: round $accent; }
    """

    def __init__(self, keep: Callable[[dict[str, float]], object], *, id: str) -> None:
        super().__init__(id=id)
        self._keep = keep
        self._sizes: dict[str, float] = {}
        self._grip: int | None = None
        self._dragged = False
        self._given: tuple[int | None, list[int] | None] = (None, None)

    def share(self, wanted: Mapping[str, float], single: bool) -> None:
        """Give the panels these sizes; alone, a panel has the whole screen."""
        self._sizes = dict(wanted)
        columns, lines = self.app.size.width, self._lines
        given: tuple[int | None, list[int] | None] = (None, None)
        if not single:
            given = sizes.width(wanted, columns), sizes.heights(wanted, lines)
        if given == self._given or not self.children:
            return
        self._given = given
        width, heights = given
        self.query_one("#plan").styles.width = width
        for place, name in enumerate(RIGHT):
            styles = self.query_one(f"#{name}").styles
            height = heights[place] if heights is not None else None
            # What the session says goes before what is usual, which has its own bounds. Shares,
            # so that a notice above the keys takes its lines from all.
            styles.height = Scalar.parse(f"{height}fr") if height is not None else None
            styles.min_height = None if height is None else sizes.FEWEST
            styles.max_height = None if height is None else "100%"

    def on_resize(self) -> None:
        """Shares of another height."""
        self.share(self._sizes, self.screen.has_class("-single"))

    def grow(self, name: str, way: int) -> None:
        """More room for a panel, or less: the border at the plan's right moves, or one below."""
        if self.screen.has_class("-single"):
            self.app.notify(ALONE)
        elif name == "plan":
            to = self.query_one("#plan").outer_size.width + way * sizes.STRIDE["width"]
            self._keep(sizes.widened(self._sizes, to, self.app.size.width))
        else:
            now = sizes.grown(self._heights, RIGHT.index(name), way * sizes.STRIDE["height"])
            self._keep(sizes.as_shares(self._sizes, now))

    # The mouse.

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Take hold of a border."""
        if event.button == 1 and not self.screen.has_class("-single"):
            self._grip = self._border(event.screen_x, event.screen_y)
            self._dragged = False

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The border follows the hand."""
        if self._grip is None:
            return
        if event.button == 0:
            # It was let go where nobody could see it.
            self._let_go()
            return
        if not self._dragged and self._at(self._grip, event.screen_x, event.screen_y):
            return
        if not self._dragged:
            # Not before: a click on a word of the border is for that word.
            self._dragged = True
            self.capture_mouse()
            self.add_class("-dragged")
        event.stop()
        if self._grip == WIDTH:
            found = sizes.widened(self._sizes, event.screen_x + 1, self.app.size.width)
        else:
            by = event.screen_y - self._right[self._grip].region.bottom + 1
            found = sizes.as_shares(self._sizes, sizes.moved(self._heights, self._grip, by))
        self.share(found, False)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        """Let go: it stays there."""
        if self._dragged:
            event.stop()
        self._let_go()

    def _let_go(self) -> None:
        dragged, self._grip, self._dragged = self._dragged, None, False
        if dragged:
            self.release_mouse()
            self.remove_class("-dragged")
            self._keep(self._sizes)

    @property
    def _right(self) -> list[Widget]:
        return [self.query_one(f"#{name}") for name in RIGHT]

    @property
    def _lines(self) -> int:
        return self.query_one("#right").size.height if self.children else 0

    @property
    def _heights(self) -> list[int]:
        return [panel.outer_size.height for panel in self._right]

    def _border(self, x: int, y: int) -> int | None:
        """The border at a place of the screen."""
        return next((at for at in (WIDTH, 0, 1, 2) if self._at(at, x, y)), None)

    def _at(self, border: int, x: int, y: int) -> bool:
        """Whether a border is at a place of the screen: it is as wide as the frames it parts."""
        plan = self.query_one("#plan").region
        if border == WIDTH:
            return x in (plan.right - 1, plan.right)
        return x > plan.right and y in (
            self._right[border].region.bottom - 1,
            self._right[border].region.bottom,
        )
