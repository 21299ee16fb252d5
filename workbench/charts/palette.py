"""Colours, letters and hatches of the bands: the one place where a category gets its looks.

The colours were chosen so that neighbouring bands stay at least 0.16 apart in Oklab, and any two
0.10, for normal sight and for simulated protanopia, deuteranopia and tritanopia (tests compute
it), each with a contrast of at least 2 to the theme's background.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec
from rich.style import Style

from memwb.engine.protocol import CATEGORIES

BANDS = (*CATEGORIES, "unattributed")
"""What a chart stacks, from the bottom: the categories, then bytes not yet given to one."""
NAMES = ("weights", "gradients", "optimizer", "activations", "temporary", "not attributed")
LETTERS = ("W", "G", "O", "A", "T", "?")
HATCHES = ("▓", "░", "█", "╱", "▒", "·")

DARK = ("#5b9bea", "#c2902f", "#8fe8d4", "#c4446a", "#dcc676", "#8a8f98")
LIGHT = ("#346baa", "#b8791f", "#0f5a55", "#f0807f", "#5b2a8c", "#7a7f87")
ANSI = ("blue", "yellow", "cyan", "magenta", "green", "bright_black")

EIGHTHS = " ▁▂▃▄▅▆▇█"

Cell = tuple[str, Style]
Code = tuple[int, int, int]
"""Eighths of the lower band, the lower band, the upper band; band −1 is the background."""
HATCHED = "░"
"""How a cell that is full of one predicted band looks."""
LETTER = 9
"""In the place of the eighths: the band's letter."""


class Palette(msgspec.Struct, frozen=True):
    """How bands are drawn: ``colours`` by band, or hatches and letters where it is empty."""

    colours: tuple[str, ...]
    ink: str = "#101010"
    """What is drawn on top of a band: a line, the cursor."""
    ground: str = "default"
    """The background behind the bands."""
    faint: bool = False
    """What was predicted, not measured: the bands are hatched in their colours."""

    @property
    def hatched(self) -> bool:
        """Bands are told apart by hatches and letters, without colours."""
        return not self.colours

    def cells(self, codes: Iterable[Code]) -> list[Cell]:
        """The characters and styles of cells."""
        return list(map(_table(self.colours, self.ground, self.faint).__getitem__, codes))

    def styles(self) -> list[Style]:
        """Every colour of it, before and behind something."""
        every = (*self.colours, self.ink, self.ground, *_dim(self.colours, self.ground))
        return [_style(*pair) for each in every for pair in ((each, ""), ("", each))]

    def key(self, band: int) -> Cell:
        """The band's mark in a legend."""
        if self.hatched:
            return (HATCHES[band], _style("", self.ground))
        return ("■", _style(self.colours[band], self.ground))

    def off(self, band: int) -> Cell:
        """The mark of a band that is hidden."""
        if self.hatched:
            return ("□", _style("", self.ground))
        return ("□", _style(self.colours[band], self.ground))

    def over(self, code: Code, character: str, line: Style) -> Cell:
        """A character drawn over a cell, which keeps its ground: the larger part of the cell."""
        eighths, lower, upper = code
        band = lower if eighths >= 4 else upper
        if band < 0 or self.hatched or self.faint:
            return (character, line)
        return (character, _style(self.ink, self.colours[band]))


def palette(
    *,
    dark: bool = True,
    ansi: bool = False,
    colours: bool = True,
    ground: str = "default",
    faint: bool = False,
) -> Palette:
    """The looks for a theme: ``ansi`` takes the terminal's own colours, ``colours=False`` none."""
    if not colours:
        return Palette((), ground=ground)
    if ansi:
        return Palette(ANSI, ink="black", ground=ground, faint=faint)
    bands, ink = (DARK, "#101010") if dark else (LIGHT, "#ffffff")
    return Palette(bands, ink=ink, ground=ground, faint=faint)


@functools.cache
def _style(front: str, back: str) -> Style:
    return Style(color=front or None, bgcolor=back or None)


class _Table(dict[Code, Cell]):
    """Cells by code, made when first asked for: a plain look-up is what a frame can afford."""

    def __init__(self, colours: tuple[str, ...], ground: str, faint: bool) -> None:
        super().__init__()
        self.colours, self.ground, self.faint = colours, ground, faint

    def __missing__(self, code: Code) -> Cell:
        draw = _faint_cell if self.faint and self.colours else _cell
        self[code] = draw(self.colours, self.ground, code)
        return self[code]


_table = functools.cache(_Table)


def _cell(colours: tuple[str, ...], ground: str, code: Code) -> Cell:
    eighths, lower, upper = code
    if eighths == LETTER:
        return (LETTERS[lower], _style("", ground))
    if lower < 0:
        return (" ", _style("", ground))
    if not colours:
        band = lower if eighths >= 4 else upper
        return (HATCHES[band] if band >= 0 else " ", _style("", ground))
    if eighths == 8:
        # A space on a colour: no gaps between the lines of a font, and fewer bytes.
        return (" ", _style("", colours[lower]))
    return (EIGHTHS[eighths], _style(colours[lower], colours[upper] if upper >= 0 else ground))


def _faint_cell(colours: tuple[str, ...], ground: str, code: Code) -> Cell:
    """A cell of what is predicted: hatched, its edges in what a hatched colour looks like."""
    eighths, lower, _ = code
    dim = _dim(colours, ground)
    if eighths == 8 and lower >= 0:
        back = dim[lower] if dim[lower] != colours[lower] else ground
        return (HATCHED, _style(colours[lower], back))
    return _cell(dim, ground, code)


def _dim(colours: tuple[str, ...], ground: str) -> tuple[str, ...]:
    return tuple(_half(colour, ground) for colour in colours)


@functools.cache
def _half(colour: str, ground: str) -> str:
    """Halfway to the ground; a terminal's own colours stay what they are."""
    if not (colour.startswith("#") and ground.startswith("#")):
        return colour
    pairs = ((int(each[at : at + 2], 16) for each in (colour, ground)) for at in (1, 3, 5))
    return "#" + "".join(f"{sum(pair) // 2:02x}" for pair in pairs)
