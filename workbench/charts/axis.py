"""The text around a memory chart: byte labels, the strip of phases, the row of steps, lines."""

from __future__ import annotations

from collections.abc import Sequence

from memwb.workbench.charts.scale import byte_ticks, intervals, step_of
from memwb.workbench.charts.timeline import Column, Slot

PHASE_NAMES = {
    "forward": ("forward", "fwd", "f"),
    "loss": ("loss", "l"),
    "backward": ("backward", "bwd", "b"),
    "optimizer": ("optimizer", "optim", "opt", "o"),
}
"""What a phase is called, from the longest to the shortest."""


def gutter(top: int, rows: int) -> tuple[list[str], str]:
    """The labels left of each plot row (from the top row down) and of the axis row below.

    Each ends with its piece of the axis; all are equally wide.
    """
    marks = byte_ticks(top, intervals(rows))
    width = max(len(label) for _, label in marks)
    lines = [" " * width + "│"] * rows
    for value, label in marks[1:]:
        # The row whose middle is nearest to the value.
        row = min(rows - 1, max(0, round(value * rows / top - 0.5)))
        lines[rows - 1 - row] = label.rjust(width) + "┤"
    return lines, "0".rjust(width) + "┼"


def phases(columns: Sequence[Column], layout: Sequence[Slot]) -> str:
    """The axis under the plot: phases by name where there is room, ``┬`` where a step begins."""
    line = ["─"] * len(columns)
    starts = {slot.first for slot in layout}
    begin = 0
    for column in range(1, len(columns) + 1):
        if column < len(columns) and column not in starts:
            before, here = columns[column - 1], columns[column]
            if (before and before.phase) == (here and here.phase):
                continue
        _name(line, columns[begin], begin, column)
        begin = column
    for start in starts:
        if 0 < start < len(line):
            line[start] = "┬"
    return "".join(line)


def ends(phases: str, total: int, first: int) -> str:
    """The strip of phases with a mark at each end beyond which there is more."""
    before = "◂" if first > 0 else phases[:1]
    after = "▸" if first + len(phases) < total else phases[-1:]
    return before + phases[1:-1] + after if len(phases) > 1 else phases


def _name(line: list[str], column: Column, begin: int, end: int) -> None:
    """Write the phase of the columns ``[begin, end)`` into their middle."""
    if column is None or column.step == 0:
        # Loading has one phase, which the row of steps names.
        return
    line[begin] = "┴"
    room = end - begin - 1
    names = PHASE_NAMES.get(column.phase, (column.phase, column.phase[:1]))
    name = next((name for name in names if len(name) <= room), "")
    at = begin + 1 + (room - len(name)) // 2
    line[at : at + len(name)] = name


def steps(layout: Sequence[Slot], width: int) -> str:
    """The row of steps: ``load``, ``step 1``, … under their columns; at 1-2-5 steps if narrow."""
    line = [" "] * width
    numbered = [slot for slot in layout if slot.step]
    if numbered:
        share = numbered[0].width
        longest = len(str(numbered[-1].step))
        every = 1
        if share < longest + 1:
            every = max(1, round(step_of(len(numbered), max(1, width // (longest + 3)))))
        for slot in numbered:
            if every == 1 or slot.step % every == 0:
                _write(line, slot, (f"step {slot.step}", str(slot.step)), narrow=every > 1)
    for slot in layout:
        if not slot.step:
            _write(line, slot, ("loading", "load", "l"), narrow=False)
    return "".join(line)


def _write(line: list[str], slot: Slot, names: tuple[str, ...], narrow: bool) -> None:
    room = slot.columns
    name = next((name for name in names if len(name) + 1 <= room), "")
    at = slot.first + max(0, (room - len(name)) // 2)
    if not name and (narrow or len(names[-1]) <= room):
        name, at = names[-1], slot.first
    if at + len(name) <= len(line):
        line[at : at + len(name)] = name


def line_text(
    free: Sequence[bool], dash: str, labels: Sequence[str], edges: Sequence[bool] = ()
) -> tuple[dict[int, str], range]:
    """A horizontal line by column, and the columns of its label.

    The label is the longest that fits into free columns, as far right as it can; the line itself
    runs through every column. Where no label fits, the longest one that the line holds stands on
    what is drawn there, if possible not on an edge (``edges``).
    """
    found = {column: dash for column in range(len(free))}
    for columns in (free, [not edge for edge in edges], [bool(edges)] * len(free)):
        for label in labels:
            # In a line its name needs room; where there is none it stands alone.
            text = f" {label} " if dash.strip() else label
            at = _room(columns, len(text))
            if at is not None:
                found.update(enumerate(text, at))
                return found, range(at, at + len(text))
    return found, range(0)


def _room(free: Sequence[bool], length: int) -> int | None:
    """The first of the rightmost ``length`` free columns side by side."""
    run = 0
    for column in range(len(free) - 1, -1, -1):
        run = run + 1 if free[column] else 0
        if run == length:
            return column
    return None
