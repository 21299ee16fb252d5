"""Words can be read in every theme: whatever is drawn too faintly for its ground is moved from it.

Textual's themes promise no contrast, and their muted texts, accents on a cursor's line and
placeholders miss 4.5 in most of them. What a widget draws is therefore looked at once more, on the
ground that it really has. Shapes (the bands of a chart, borders, hatches) keep their colours.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter, Monochrome, NoColor

from memwb.workbench.charts.looks import TEXT, legible

WORDS = re.compile(r"[^\s\u2500-\u25a1\u2800-\u28ff]")
"""Anything but boxes, blocks, the squares of a legend, and braille patterns."""


class Legible(LineFilter):
    """Moves the colour of words towards black or white until it has the contrast that they need."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments with readable words; most come back as they are."""
        found = WORDS.search
        return [
            Segment(text, _readable(style), control)
            if style is not None and found(text)
            else Segment(text, style, control)
            for text, style, control in segments
        ]


def colourless(filters: Sequence[LineFilter]) -> list[LineFilter]:
    """The same filters for a terminal's own sixteen colours under NO_COLOR: none of them is drawn.

    Textual chooses before it is told the theme, and makes greys of colours of which nothing is
    known: black on black, most of them.
    """
    return [NoColor() if isinstance(each, Monochrome) else each for each in filters]


@functools.lru_cache(4096)
def _readable(style: Style) -> Style:
    return legible(style, style, TEXT)
