"""Colours, letters and hatches of the bands: the one place where a category gets its looks.

The colours were chosen so that neighbouring bands stay at least 0.16 apart in Oklab, and any two
0.10, for normal sight and for simulated protanopia, deuteranopia and tritanopia (tests compute
it), each with a contrast of at least 2 to the theme's background.
"""

from __future__ import annotations

import functools

import msgspec
from rich.color import Color
from rich.style import Style

from memwb.engine.protocol import CATEGORIES

BANDS = (*CATEGORIES, "unattributed")
"""What a chart stacks, from the bottom: the categories, then bytes not yet given to one."""
NAMES = ("weights", "gradients", "optimizer", "activations", "temporary", "not attributed")
LETTERS = ("W", "G", "O", "A", "T", "?")
HATCHES = ("▓", "░", "█", "╱", "▒", "·")

DARK = ("#5b9bea", "#c2902f", "#8fe8d4", "#c4446a", "#dccb86", "#8a8f98")
LIGHT = ("#346baa", "#b8791f", "#0f5a55", "#f0807f", "#5b2a8c", "#7a7f87")
ANSI = ("blue", "yellow", "cyan", "red", "magenta", "white")

EIGHTHS = " ▁▂▃▄▅▆▇█"

Cell = tuple[str, Style]
Code = tuple[int, int, int]
"""Eighths of the lower band, the lower band, the upper band; band −1 is the background."""
LETTER = 9
"""In the place of the eighths: the band's letter."""

BLANK: Cell = (" ", Style.null())


class Palette(msgspec.Struct, frozen=True):
    """How bands are drawn: ``colours`` by band, or hatches and letters where it is empty."""

    colours: tuple[str, ...]
    ink: str = "#101010"
    """What is drawn on top of a band: a line, the cursor."""

    @property
    def hatched(self) -> bool:
        """Bands are told apart by hatches and letters, without colours."""
        return not self.colours

    def cell(self, code: Code) -> Cell:
        """The character and style of a cell."""
        return _cell(self.colours, code)

    def key(self, band: int) -> Cell:
        """The band's mark in a legend."""
        if self.hatched:
            return (HATCHES[band], Style.null())
        return ("■", _style(self.colours, band, -1))

    def over(self, code: Code, character: str, line: Style) -> Cell:
        """A character drawn over a cell, which keeps its ground: the larger part of the cell."""
        eighths, lower, upper = code
        band = lower if eighths >= 4 else upper
        if band < 0 or self.hatched:
            return (character, line)
        return (character, _ink(self.colours, band, self.ink))


def palette(*, dark: bool = True, ansi: bool = False, colours: bool = True) -> Palette:
    """The looks for a theme: ``ansi`` takes the terminal's own colours, ``colours=False`` none."""
    if not colours:
        return Palette(())
    if ansi:
        return Palette(ANSI, ink="black")
    return Palette(DARK) if dark else Palette(LIGHT, ink="#ffffff")


@functools.cache
def _colour(name: str) -> Color:
    return Color.parse(name)


@functools.cache
def _style(colours: tuple[str, ...], lower: int, upper: int) -> Style:
    return Style(
        color=_colour(colours[lower]) if lower >= 0 else None,
        bgcolor=_colour(colours[upper]) if upper >= 0 else None,
    )


@functools.cache
def _ink(colours: tuple[str, ...], band: int, ink: str) -> Style:
    return Style(color=_colour(ink), bgcolor=_colour(colours[band]))


@functools.cache
def _cell(colours: tuple[str, ...], code: Code) -> Cell:
    eighths, lower, upper = code
    if lower < 0:
        return BLANK
    if eighths == LETTER:
        return (LETTERS[lower], Style.null())
    if not colours:
        band = lower if eighths >= 4 else upper
        return (HATCHES[band], Style.null()) if band >= 0 else BLANK
    if eighths == 8:
        # A space on a colour: no gaps between the lines of a font, and fewer bytes.
        return (" ", _style(colours, -1, lower))
    return (EIGHTHS[eighths], _style(colours, lower, upper))
