"""Fewer bytes to the terminal: of a line that has changed, only what has changed is written.

Textual writes it from the start of its widget on (a note in its compositor says so), which is a
third of the bytes of a burst's chart; over ssh and in a browser that is felt. Textual has no door
for this: the two names are of its inside, and pyproject.toml says up to which Textual they are
known.
"""

from __future__ import annotations

from rich.cells import get_character_cell_size
from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate, Compositor


class LeanUpdate(ChopsUpdate):
    """Changed spans of lines, each written from its first cell to its last."""

    def render_segments(self, console: Console) -> str:
        """The spans as they go to the terminal."""
        written: list[str] = []
        for y, begin, end in self.spans:
            for stop, (start, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                first, last = max(start, begin), min(stop, end)
                if strip is None or first >= last:
                    continue
                # Half of a character of two cells can't be written, nor an accent without its
                # letter: such a line is, whole.
                if any(get_character_cell_size(each) != 1 for each in set(strip.text)):
                    first = start
                elif (first, last) != (start, stop):
                    strip = strip.crop(first - start, last - start)
                written += (Control.move_to(first, y).segment.text, strip.render(console))
        return "".join(written)


class LeanCompositor(Compositor):
    """Textual's compositor, whose updates are lean."""

    def render_partial_update(self) -> ChopsUpdate | None:
        """What has changed since the last update."""
        update = super().render_partial_update()
        return update and LeanUpdate(update.chops, update.spans, update.chop_ends)
