"""Words can be read in every theme: whatever is drawn too faintly for its ground is moved from it.

Textual's themes promise no contrast, and their muted texts, accents on a cursor's line and
placeholders miss 4.5 in most of them. What a widget draws is therefore looked at once more, on the
ground that it really has. Shapes (the bands of a chart, borders, hatches) keep their colours.
"""

from __future__ import annotations

import functools
import re

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

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


@functools.lru_cache(4096)
def _readable(style: Style) -> Style:
    return legible(style, style, TEXT)
