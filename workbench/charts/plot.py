"""Values over steps as a picture of characters: lines in braille dots, their axes, their cursor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from memwb.workbench.charts.outline import BRAILLE, LEFT, RIGHT
from memwb.workbench.charts.scale import number, step_of, ticks
from memwb.workbench.charts.window import WHOLE, Window, extent

Point = tuple[int, float]
"""A step, from 1, and its value; a value that is not finite leaves a gap."""
Row = list[tuple[str, str]]
"""Characters, each with the role that gives its style."""

OVERLAYS = ("overlay", "overlay-2", "overlay-3", "overlay-4")
"""The styles of overlays in their order."""
PATTERNS = ((1, 1, 0), (1, 1, 1, 1, 1, 0, 0, 0), (1, 0, 0), (1, 1, 1, 1, 0, 0, 1, 0, 0))
"""Which of its columns of dots an overlay has, over and over: told apart without colours."""
FEWEST = 4
"""Steps that are seen at least, however far one zooms."""


class Line(msgspec.Struct, frozen=True):
    """One series; an ``overlay`` is drawn behind the others, paler and with spaced dots."""

    name: str
    points: tuple[Point, ...] = ()
    overlay: bool = False


class Across(msgspec.Struct, frozen=True):
    """The step axis: which column of dots a step is in."""

    last: int
    """The last step of the whole axis; the first is 1."""
    wide: int
    """Columns of dots that are seen."""
    total: int
    first: int

    def dot(self, step: float) -> int:
        """The column of dots of a step; outside ``0 … wide`` it is not seen."""
        return round((step - 1) * (self.total - 1) / max(1, self.last - 1)) - self.first

    def step(self, dot: float) -> float:
        """The step at a column of dots."""
        return 1 + (dot + self.first) * (self.last - 1) / max(1, self.total - 1)

    def sees(self, step: float) -> bool:
        """Whether the step's column is seen."""
        return 0 <= self.dot(step) < self.wide


def across(lines: Sequence[Line], steps: int, plot: int, window: Window = WHOLE) -> Across:
    """The step axis of some lines in ``plot`` cells."""
    last = max([steps, 2, *(step for line in lines for step, _ in line.points)])
    most = max(1.0, (last - 1) / (FEWEST - 1))
    near = Window(min(window.zoom, most), window.middle)
    return Across(last, plot * 2, *extent(near, plot * 2))


class Picture(msgspec.Struct, frozen=True):
    """A drawn chart: rows of characters, each with the role that gives its style."""

    size: tuple[int, int]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    axis: Across | None = None
    """Where a step is in the plot; None where nothing is drawn."""
    left: int = 0
    """Columns that the values' axis takes."""


def picture(
    lines: Sequence[Line],
    steps: int,
    width: int,
    height: int,
    window: Window = WHOLE,
    cursor: int | None = None,
) -> Picture:
    """The lines in ``width`` × ``height`` cells: plot, value axis, step axis, last values.

    The values' axis is that of the steps which the ``window`` shows. The ``cursor`` is a step:
    its values stand in the place of the steps' numbers.
    """
    size = (width, height)
    if width <= 0 or height <= 0 or not (steps or any(line.points for line in lines)):
        return Picture(size, ())
    has_axis, has_labels = height >= 4, width >= 24
    rows = height - (2 if has_axis else 0)
    ends = [_last(line) for line in lines]
    finite = [value for line in lines for _, value in line.points if math.isfinite(value)]
    margin = max(map(len, ends), default=0) + 1 if has_labels and finite else 0
    if not window.whole:
        # Labels may take another column or two: about what is seen is enough for the range.
        about = across(lines, steps, max(1, width - margin), window)
        there = (line.points for line in lines)
        part = [v for points in there for s, v in points if about.sees(s) and math.isfinite(v)]
        finite = part or finite
    low, high = bounds(finite)
    marks = ticks(low, high, max(3, rows // 2)) if has_labels and finite else []
    spacing = marks[1] - marks[0] if len(marks) > 1 else step_of(high - low, 2)
    names = [number(mark, spacing) for mark in marks]
    gutter = max((len(name) for name in names), default=-1) + 1
    plot = max(1, width - gutter - margin)
    axis = across(lines, steps, plot, window)
    canvas = [[(" ", "")] * plot for _ in range(rows)]
    overlays = [line for line in lines if line.overlay]
    for line in sorted(lines, key=lambda line: not line.overlay):
        _draw(canvas, line, axis, (low, high), overlays.index(line) if line.overlay else -1)
    here = axis.dot(cursor) // 2 if cursor is not None and axis.sees(cursor) else None
    if here is not None:
        for row in canvas:
            row[here] = ("│", "cursor") if row[here][0] == " " else (row[here][0], "cursor")
    left = _left(marks, names, gutter, rows, low, high)
    right = _right(lines, ends, margin, rows, low, high)
    drawn = [(*left[y], *canvas[y], *right[y]) for y in range(rows)]
    if has_axis:
        corner = " " * (gutter - 1) + "└" if gutter else ""
        drawn.append(tuple((char, "axis") for char in corner) + tuple(_strip(axis, plot, here)))
        said = _values(lines, cursor, width) if cursor is not None else ""
        foot = " " * gutter + _steps(axis, plot)
        told = [(char, "value") for char in said] or [(char, "label") for char in foot]
        drawn.append(tuple(told))
    return Picture(size, tuple(drawn), axis, gutter)


def _strip(axis: Across, plot: int, here: int | None) -> Row:
    """The line under the plot: the cursor, and marks at the ends beyond which there is more."""
    line = [("─", "axis")] * plot
    if axis.first > 0:
        line[0] = ("◂", "value")
    if axis.first + axis.wide < axis.total:
        line[-1] = ("▸", "value")
    if here is not None:
        line[here] = ("▲", "cursor")
    return line


def _values(lines: Sequence[Line], step: int, width: int) -> str:
    """What each line is at a step: ``step 3 · 7.31402 · 7.91 #6``, as many as there is room for."""
    found = f"step {step}"
    for line in sorted(lines, key=lambda line: line.overlay):
        value = next((value for at, value in line.points if at == step), None)
        told = f" · {'–' if value is None else f'{value:.6g}'} {line.name}".rstrip()
        if len(found) + len(told) > width:
            break
        found += told
    return found[:width]


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The range of the value axis: a little more than the values', on a quarter of a tick."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low <= abs(high) * 1e-9:
        low, high = low - (abs(low) * 0.05 or 1.0), high + (abs(high) * 0.05 or 1.0)
    quarter = step_of(high - low, 4) / 4
    return math.floor(low / quarter) * quarter, math.ceil(high / quarter) * quarter


def _draw(
    canvas: list[Row], line: Line, axis: Across, up: tuple[float, float], overlay: int
) -> None:
    """Put the line's dots onto the canvas, over what is there."""
    rows = len(canvas)
    high = rows * 4 - 1
    masks: dict[tuple[int, int], int] = {}
    up_scale = high / (up[1] - up[0])
    scale, first, wide = (axis.total - 1) / max(1, axis.last - 1), axis.first, axis.wide
    dots: dict[int, tuple[int, int]] = {}
    before: tuple[int, int] | None = None
    for step, value in line.points:
        if not math.isfinite(value):
            before = None
            continue
        x = round((step - 1) * scale) - first
        if x < 0:
            before = (x, round((value - up[0]) * up_scale))
            continue
        y = round((value - up[0]) * up_scale)
        # A column of dots holds everything between its lowest and its highest.
        if before is None or before[0] == x:
            _reach(dots, x, y, y if before is None else before[1])
        else:
            for dot_x, dot_y in _between(before, (x, y)):
                _reach(dots, dot_x, dot_y, dot_y)
        before = (x, y)
        if x >= wide:
            break
    pattern = PATTERNS[overlay % len(PATTERNS)] if line.overlay else (1,)
    for dot_x, (lowest, highest) in dots.items():
        # Only what is seen; an overlay is spaced, so that it is told apart without colours.
        if not 0 <= dot_x < wide or not pattern[(dot_x + first) % len(pattern)]:
            continue
        side = RIGHT if dot_x % 2 else LEFT
        for dot_y in range(max(0, lowest), min(high, highest) + 1):
            key = (rows - 1 - dot_y // 4, dot_x // 2)
            masks[key] = masks.get(key, 0) | side[dot_y % 4]
    role = OVERLAYS[overlay % len(OVERLAYS)] if line.overlay else "line"
    for (row, column), mask in masks.items():
        held = canvas[row][column][0]
        mask |= ord(held) - BRAILLE if held != " " else 0
        canvas[row][column] = (chr(BRAILLE | mask), role)


def _reach(dots: dict[int, tuple[int, int]], x: int, y: int, other: int) -> None:
    """Widen a column of dots to hold two heights."""
    low, high = dots.get(x, (y, y))
    dots[x] = (min(low, y, other), max(high, y, other))


def _between(start: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """The dots of a straight line."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for index in range(count + 1):
        part = index / count
        yield (
            round(start[0] + (end[0] - start[0]) * part),
            round(start[1] + (end[1] - start[1]) * part),
        )


def _row(value: float, rows: int, low: float, high: float) -> int:
    return rows - 1 - min(rows - 1, max(0, int((value - low) / (high - low) * rows)))


def _left(
    marks: Sequence[float], names: Sequence[str], gutter: int, rows: int, low: float, high: float
) -> list[Row]:
    """The value axis: a label where a tick is."""
    if not gutter:
        return [[] for _ in range(rows)]
    found = [[(" ", "label")] * (gutter - 1) + [("│", "axis")] for _ in range(rows)]
    for mark, name in zip(marks, names, strict=True):
        label = name.rjust(gutter - 1)
        found[_row(mark, rows, low, high)] = [*((c, "label") for c in label), ("┤", "axis")]
    return found


def _right(
    lines: Sequence[Line], ends: Sequence[str], margin: int, rows: int, low: float, high: float
) -> list[Row]:
    """The last value of each line, at its height; the one that is being drawn has precedence."""
    found = [[(" ", "")] * margin for _ in range(rows)]
    if not margin:
        return found
    taken: set[int] = set()
    overlays = [line for line in lines if line.overlay]
    for line, text in sorted(zip(lines, ends, strict=True), key=lambda pair: pair[0].overlay):
        values = [value for _, value in line.points if math.isfinite(value)]
        if not values:
            continue
        wanted = _row(values[-1], rows, low, high)
        free = [row for row in range(rows) if row not in taken]
        if free:
            row = min(free, key=lambda row: abs(row - wanted))
            taken.add(row)
            role = OVERLAYS[overlays.index(line) % len(OVERLAYS)] if line.overlay else "value"
            found[row] = [(" ", ""), *((c, role) for c in text.ljust(margin - 1))]
    return found


def _last(line: Line) -> str:
    if not line.points:
        return ""
    text = f"{line.points[-1][1]:.4g}"
    return f"{text} {line.name}" if line.overlay else text


def _steps(axis: Across, plot: int) -> str:
    """The step axis's labels: the first step that is seen, 1-2-5 steps between, the last."""
    text = [" "] * plot
    begin = max(1, math.ceil(axis.step(-0.499)))
    end = min(axis.last, math.floor(axis.step(axis.wide - 0.501)))
    every = max(1, round(step_of(end - begin + 1, max(1, plot // 10))))
    inner = range(begin // every * every + every, end, every)
    for step in [begin, end, *inner]:
        name = f"step {step}" if step == begin and plot >= 24 else str(step)
        x = axis.dot(step) // 2
        at = max(0, min(plot - len(name), x - (len(name) // 2 if step > begin else 0)))
        if at >= 0 and all(char == " " for char in text[max(0, at - 1) : at + len(name) + 1]):
            text[at : at + len(name)] = name
    return "".join(text)[:plot]
