"""Values over steps, such as the loss: a widget that draws lines in braille dots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec
from rich.style import Style
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from memwb.workbench.charts.outline import BRAILLE, LEFT, RIGHT
from memwb.workbench.charts.palette import Cell
from memwb.workbench.charts.scale import number, step_of, ticks
from memwb.workbench.charts.strips import joined

Point = tuple[int, float]
"""A step, from 1, and its value; a value that is not finite leaves a gap."""


class Line(msgspec.Struct, frozen=True):
    """One series; an ``overlay`` is drawn behind the others, in grey and with spaced dots."""

    name: str
    points: tuple[Point, ...] = ()
    overlay: bool = False


class LineChart(Widget, can_focus=True):
    """Lines over a fixed range of steps. Works at any size: what has no room is left out."""

    DEFAULT_CSS = """
    LineChart {
        height: 1fr;
        width: 1fr;
        & .line-chart--axis { color: $foreground 45%; }
        & .line-chart--label { color: $foreground 70%; }
        & .line-chart--value { color: $foreground; text-style: bold; }
        & .line-chart--line { color: $accent; }
        & .line-chart--overlay { color: $foreground 55%; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "line-chart--axis",
        "line-chart--label",
        "line-chart--value",
        "line-chart--line",
        "line-chart--overlay",
    }

    steps: reactive[int] = reactive(0)
    """How many steps there will be; the axis stands still from the start. 0: as many as seen."""
    frozen: reactive[bool] = reactive(False)
    """While true new points are kept but not shown."""

    def __init__(
        self, *, name: str | None = None, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._lines: dict[str, Line] = {}
        self._shown: dict[str, Line] = {}
        self._picture: Picture | None = None
        self._cells: dict[tuple[str, str], Cell] = {}
        """One object for each character in each role: what is the same is joined fast."""

    def set_series(self, name: str, points: Iterable[Point], overlay: bool = False) -> None:
        """Show a whole series, in the place of the one of that name if there is one."""
        self._lines[name] = Line(name, tuple(points), overlay)
        self._changed()

    def append(self, name: str, step: int, value: float) -> None:
        """Add one point to a series, which is made if there is none of that name."""
        line = self._lines.get(name, Line(name))
        self._lines[name] = Line(name, (*line.points, (step, value)), line.overlay)
        self._changed()

    def remove_series(self, name: str) -> None:
        """Take a series away, if there is one of that name."""
        if self._lines.pop(name, None):
            self._changed()

    def clear(self) -> None:
        """Take every series away."""
        self._lines.clear()
        self._changed()

    def watch_frozen(self) -> None:
        """Catch up when it goes on again."""
        self._changed()

    def watch_steps(self) -> None:
        """The range of the axis changed."""
        self._picture = None

    def notify_style_update(self) -> None:
        """Another theme: draw again."""
        super().notify_style_update()
        self._cells = {}

    def _changed(self) -> None:
        if self.frozen:
            return
        self._shown = dict(self._lines)
        self._picture = None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the picture."""
        width, height = self.size
        if self._picture is None or self._picture.size != (width, height):
            self._picture = picture(tuple(self._shown.values()), self.steps, width, height)
        if y >= len(self._picture.rows):
            return Strip.blank(width, self.rich_style)
        table = self._cells
        cells = []
        for key in self._picture.rows[y]:
            cell = table.get(key)
            if cell is None:
                cell = table[key] = (key[0], self._look(key[1]))
            cells.append(cell)
        return Strip(joined(cells)).adjust_cell_length(width, self.rich_style)

    def _look(self, role: str) -> Style:
        return self.get_component_rich_style(f"line-chart--{role}") if role else self.rich_style


class Picture(msgspec.Struct, frozen=True):
    """A drawn chart: rows of characters, each with the role that gives its style."""

    size: tuple[int, int]
    rows: tuple[tuple[tuple[str, str], ...], ...]


def picture(lines: Sequence[Line], steps: int, width: int, height: int) -> Picture:
    """The lines in ``width`` × ``height`` cells: plot, value axis, step axis, last values."""
    if width <= 0 or height <= 0 or not (steps or any(line.points for line in lines)):
        return Picture((width, height), ())
    finite = [value for line in lines for _, value in line.points if math.isfinite(value)]
    low, high = bounds(finite)
    last = max([steps, 2, *(step for line in lines for step, _ in line.points)])
    has_axis, has_labels = height >= 4, width >= 24
    rows = height - (2 if has_axis else 0)
    marks = ticks(low, high, max(3, rows // 2)) if has_labels and finite else []
    spacing = marks[1] - marks[0] if len(marks) > 1 else step_of(high - low, 2)
    names = [number(mark, spacing) for mark in marks]
    gutter = max((len(name) for name in names), default=-1) + 1
    ends = [_last(line) for line in lines]
    margin = max(map(len, ends), default=0) + 1 if has_labels and finite else 0
    plot = max(1, width - gutter - margin)
    canvas = [[(" ", "")] * plot for _ in range(rows)]
    for line in sorted(lines, key=lambda line: not line.overlay):
        _draw(canvas, line, (1, last), (low, high))
    left = _left(marks, names, gutter, rows, low, high)
    right = _right(lines, ends, margin, rows, low, high)
    drawn = [(*left[y], *canvas[y], *right[y]) for y in range(rows)]
    if has_axis:
        corner = " " * (gutter - 1) + "└" if gutter else ""
        drawn.append(tuple((char, "axis") for char in corner + "─" * plot))
        drawn.append(tuple((char, "label") for char in " " * gutter + _steps(last, plot)))
    return Picture((width, height), tuple(drawn))


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
    canvas: list[list[tuple[str, str]]],
    line: Line,
    across: tuple[int, int],
    up: tuple[float, float],
) -> None:
    """Put the line's dots onto the canvas, over what is there."""
    rows, columns = len(canvas), len(canvas[0])
    wide, high = columns * 2 - 1, rows * 4 - 1
    masks: dict[tuple[int, int], int] = {}
    across_scale = wide / max(1, across[1] - across[0])
    up_scale = high / (up[1] - up[0])
    dots: dict[int, tuple[int, int]] = {}
    before: tuple[int, int] | None = None
    for step, value in line.points:
        if not math.isfinite(value):
            before = None
            continue
        x = round((step - across[0]) * across_scale)
        y = round((value - up[0]) * up_scale)
        # A column of dots holds everything between its lowest and its highest.
        if before is None or before[0] == x:
            _reach(dots, x, y, y if before is None else before[1])
        else:
            for dot_x, dot_y in _between(before, (x, y)):
                _reach(dots, dot_x, dot_y, dot_y)
        before = (x, y)
    for dot_x, (lowest, highest) in dots.items():
        # An overlay is spaced, so that it is told apart without colours.
        if line.overlay and dot_x % 3 == 2:
            continue
        side = RIGHT if dot_x % 2 else LEFT
        for dot_y in range(lowest, highest + 1):
            key = (rows - 1 - dot_y // 4, dot_x // 2)
            masks[key] = masks.get(key, 0) | side[dot_y % 4]
    role = "overlay" if line.overlay else "line"
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
) -> list[list[tuple[str, str]]]:
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
) -> list[list[tuple[str, str]]]:
    """The last value of each line, at its height; the one that is being drawn has precedence."""
    found = [[(" ", "")] * margin for _ in range(rows)]
    if not margin:
        return found
    taken: set[int] = set()
    for line, text in sorted(zip(lines, ends, strict=True), key=lambda pair: pair[0].overlay):
        values = [value for _, value in line.points if math.isfinite(value)]
        if not values:
            continue
        wanted = _row(values[-1], rows, low, high)
        free = [row for row in range(rows) if row not in taken]
        if free:
            row = min(free, key=lambda row: abs(row - wanted))
            taken.add(row)
            role = "overlay" if line.overlay else "value"
            found[row] = [(" ", ""), *((c, role) for c in text.ljust(margin - 1))]
    return found


def _last(line: Line) -> str:
    if not line.points:
        return ""
    text = f"{line.points[-1][1]:.4g}"
    return f"{text} {line.name}" if line.overlay else text


def _steps(last: int, plot: int) -> str:
    """The step axis's labels: the first step, 1-2-5 steps between, the last."""
    text = [" "] * plot
    every = max(1, round(step_of(last, max(1, plot // 10))))
    wanted = [1, last, *range(every, last, every)]
    for step in wanted:
        name = f"step {step}" if step == 1 and plot >= 24 else str(step)
        x = round((step - 1) / max(1, last - 1) * (plot * 2 - 1)) // 2
        at = max(0, min(plot - len(name), x - (len(name) // 2 if step > 1 else 0)))
        if at >= 0 and all(char == " " for char in text[max(0, at - 1) : at + len(name) + 1]):
            text[at : at + len(name)] = name
    return "".join(text)[:plot]
