"""A screen as a small SVG: a line of text for each line of the screen, so that a diff can be read.

Blocks and box-drawing characters are drawn as shapes and everything else as text at its own place,
so that a picture looks the same whatever font there is, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from rich.cells import cell_len
from rich.color import Color
from rich.segment import Segment
from rich.terminal_theme import SVG_EXPORT_THEME as OWN

WIDTH, HEIGHT, MARGIN = 8, 17, 8
"""Of a cell, and around the screen, in pixels."""
LOOK = (
    'text{font:13.3px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre}'
    "rect,path{shape-rendering:crispEdges}path{fill:none;stroke-width:1}"
)
BLOCKS = {
    **{block: (0, 1 - height / 8, 1, height / 8) for height, block in enumerate("▁▂▃▄▅▆▇█", 1)},
    **{
        block: (0, 0, width / 8, 1) for width, block in zip(range(7, 0, -1), "▉▊▋▌▍▎▏", strict=True)
    },
    "▀": (0, 0, 1, 0.5),
    "▔": (0, 0, 1, 0.125),
    "▐": (0.5, 0, 0.5, 1),
    "▕": (0.875, 0, 0.125, 1),
}
"""What is filled of a cell: left, top, width, height."""
ARMS = {"─": "lr", "│": "ud", "├": "udr", "┤": "udl", "┬": "lrd", "┴": "lru", "┼": "lrud"}
ARMS |= {"╭": "rd", "╮": "ld", "╰": "ru", "╯": "lu", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu"}
ARMS |= {"╴": "l", "╵": "u", "╶": "r", "╷": "d"}
"""Where the lines of a box-drawing character go from the middle of its cell."""


class Ink(NamedTuple):
    """How something is drawn."""

    front: str
    back: str
    bold: bool = False
    italic: bool = False
    underline: bool = False
    dim: bool = False


def screen(app: Any) -> list[list[Segment]]:
    """What an app's terminal shows, line by line: filtered, with what lies behind a dialogue."""
    compositor = app.screen._compositor
    update = compositor.render_update(full=True, screen_stack=app._background_screens)
    return [[segment for strip in line for segment in strip] for line in update.strips]


def svg(lines: list[list[Segment]]) -> str:
    """The picture of a screen."""
    found = [list(runs(line)) for line in lines]
    area: dict[str, int] = {}
    for _, text, ink in (run for line in found for run in line):
        area[ink.back] = area.get(ink.back, 0) + cell_len(text)
    ground = max(area, key=lambda colour: area[colour])
    looks: dict[str, str] = {}
    body = ["".join(_line(y, line, ground, looks)) for y, line in enumerate(found)]
    width = max(sum(cell_len(text) for _, text, _ in line) for line in found) * WIDTH
    size = f"{width + 2 * MARGIN} {len(lines) * HEIGHT + 2 * MARGIN}"
    style = LOOK + "".join(f".{name}{{{text}}}" for text, name in looks.items())
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}">',
            f"<style>{style}</style>",
            f'<rect width="100%" height="100%" rx="6" fill="{ground}"/>',
            f'<g transform="translate({MARGIN} {MARGIN})">',
            *(line for line in body if line),
            "</g></svg>\n",
        )
    )


def runs(line: Iterable[Segment]) -> Iterator[tuple[int, str, Ink]]:
    """The texts of a line by how they are drawn, each with the column it begins in."""
    x = 0
    pieces = [(segment.text, _ink(segment)) for segment in line if segment.text]
    for ink, group in groupby(pieces, key=lambda piece: piece[1]):
        text = "".join(text for text, _ in group)
        yield x, text, ink
        x += cell_len(text)


def _ink(segment: Segment) -> Ink:
    style = segment.style
    if style is None:
        return Ink(OWN.foreground_color.hex, OWN.background_color.hex)
    front, back = _hex(style.color, True), _hex(style.bgcolor, False)
    if style.reverse:
        front, back = back, front
    return Ink(
        front, back, bool(style.bold), bool(style.italic), bool(style.underline), bool(style.dim)
    )


def _hex(colour: Color | None, foreground: bool) -> str:
    """A colour; a terminal's own ones as Rich draws them."""
    if colour is None:
        return (OWN.foreground_color if foreground else OWN.background_color).hex
    return colour.get_truecolor(OWN, foreground).hex


def _line(
    y: int, runs: list[tuple[int, str, Ink]], ground: str, looks: dict[str, str]
) -> Iterator[str]:
    """Grounds, then what is on them; ``looks`` collects the styles by their text."""
    for back, group in groupby(runs, key=lambda run: run[2].back):
        filled = list(group)
        if back != ground:
            width = sum(cell_len(text) for _, text, _ in filled)
            yield _rect(filled[0][0], y, 0, 0, width, 1, _named(looks, f"fill:{back}"))
    strokes: dict[str, str] = {}
    for x, text, ink in runs:
        yield from _drawn(x, y, text, ink, looks, strokes)
    for name, path in strokes.items():
        yield f'<path class="{name}" d="{path}"/>'


def _drawn(
    x: int, y: int, text: str, ink: Ink, looks: dict[str, str], strokes: dict[str, str]
) -> Iterator[str]:
    """What a run consists of; what is stroked is added to ``strokes``, by the name of its look."""
    fill = f"fill:{ink.front}" + ";opacity:.6" * ink.dim
    words = [(kind, "".join(group)) for kind, group in groupby(text, key=_kind)]
    at = 0
    # Words that one space parts are one text.
    while at < len(words):
        kind, word = words[at]
        while (
            kind == "a" and at + 2 < len(words) and words[at + 1][1] == " "
            and words[at + 2][0] == "a"
        ):  # fmt: skip
            word += " " + words[at + 2][1]
            at += 2
        at += 1
        width = cell_len(word)
        if kind in BLOCKS:
            left, top, wide, high = BLOCKS[kind]
            wide = width if wide == 1 else wide
            for each in range(1 if wide == width else width):
                yield _rect(x + each, y, left, top, wide, high, _named(looks, fill))
        elif kind in ("─", "⠿"):
            thick = ";stroke-width:2" * (kind == "⠿")
            name = _named(looks, f"stroke:{ink.front}{thick}")
            strokes[name] = strokes.get(name, "") + (_box if kind == "─" else _dots)(x, y, word)
        elif kind == "a":
            look = fill + ";font-weight:700" * ink.bold + ";font-style:italic" * ink.italic
            look += ";text-decoration:underline" * ink.underline
            length = f' textLength="{width * WIDTH}"' if width > 1 else ""
            yield (
                f'<text class="{_named(looks, look)}" x="{x * WIDTH}" y="{y * HEIGHT + 13}"'
                f"{length}>{escape(word)}</text>"
            )
        x += width


def _kind(character: str) -> str:
    """A block itself, or what stands for how it is drawn: lines, dots, nothing, text."""
    if character in BLOCKS:
        return character
    if character in ARMS:
        return "─"
    if "\u2800" <= character <= "\u28ff":
        return "⠿"
    return "" if character == " " else "a"


def _dots(x: int, y: int, text: str) -> str:
    """The dots of braille patterns; Unicode numbers them down the columns, the last row after."""
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
    return "".join(
        f"M{(x + at) * WIDTH + 1 + 4 * column} {y * HEIGHT + 2 + round(row * 4.25)}h2"
        for at, character in enumerate(text)
        for bit, (column, row) in enumerate(places)
        if ord(character) >> bit & 1
    )


def _box(x: int, y: int, text: str) -> str:
    """The lines of box-drawing characters; those that go on beside each other are one."""
    middle, found, at = y * HEIGHT + 8.5, [], 0
    while at < len(text):
        centre, arms = (x + at) * WIDTH + 4.5, ARMS[text[at]]
        long = len(text[at:]) - len(text[at:].lstrip("─")) if text[at] == "─" else 0
        if arms == "ud":
            found.append(f"M{centre:g} {y * HEIGHT}v{HEIGHT}")
        elif long:
            found.append(f"M{(x + at) * WIDTH} {middle:g}h{long * WIDTH}")
        else:
            found += [f"M{centre:g} {middle:g}h-4.5"] if "l" in arms else []
            found += [f"M{centre:g} {middle:g}h3.5"] if "r" in arms else []
            found += [f"M{centre:g} {y * HEIGHT}v8.5"] if "u" in arms else []
            found += [f"M{centre:g} {middle:g}v8.5"] if "d" in arms else []
        at += long or 1
    return "".join(found)


def _rect(x: int, y: int, left: float, top: float, width: float, height: float, name: str) -> str:
    place = ((x + left) * WIDTH, (y + top) * HEIGHT, width * WIDTH, height * HEIGHT)
    names = ("x", "y", "width", "height")
    return f'<rect class="{name}" ' + " ".join(
        f'{key}="{round(value, 2):g}"' for key, value in zip(names, place, strict=True)
    ) + "/>"  # fmt: skip


def _named(looks: dict[str, str], text: str) -> str:
    """The short name of a style."""
    return looks.setdefault(text, f"s{len(looks)}")
