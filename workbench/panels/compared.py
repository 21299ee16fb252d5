"""What differs between the runs in the charts, as a table: a pure function of two to four runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from textual.content import Content

from memwb.engine.technique import techniques
from memwb.workbench.comparing import LETTERS, Line, Side, apart_by, lines, percent
from memwb.workbench.deviation import verdict_line
from memwb.workbench.ordering import COMPARABLE, whole_peak
from memwb.workbench.units import delta, printable

if TYPE_CHECKING:
    from memwb.engine.guard import Verdict
    from memwb.engine.runs import Summary
    from memwb.workbench.trace import Trace

MUTED = "$foreground 60%"
APART = 2
"""Columns between those of the table."""
FEWEST = 12
"""Columns that a name keeps in the narrowest table."""


class Compared(NamedTuple):
    """Runs laid over each other; the first is the one that the others are held against."""

    sides: tuple[Side, ...]
    verdicts: tuple[Verdict | None, ...]
    """On the losses of those after the first; None where they cannot be compared."""


def comparison(compared: Compared, width: int) -> Content:
    """The table: values and differences where there is room for both, else the first's values and
    how the others differ. The plan's differences come first."""
    sides = compared.sides
    found = lines(sides, brief=True)
    heads = [f"{letter} #{side.run}" for letter, side in zip(LETTERS, sides, strict=False)]
    gaps = [f"{letter} \N{MINUS SIGN} A" for letter in LETTERS[1 : len(sides)]]
    whole = [["", heads[0], *_paired(heads[1:], gaps)], *map(_whole, found)]
    short = [
        ["", heads[0], *(f"{head} \N{MINUS SIGN} A" for head in heads[1:])],
        *map(_short, found),
    ]
    rows = whole if not width or sum(_widths(whole)) <= width else short
    widths = _widths(rows)
    widths[0] = max(FEWEST, min(widths[0], (width or 999) - sum(widths[1:])))
    drawn = [_row(row, widths, line) for row, line in zip(rows, [None, *found], strict=True)]
    for side, verdict in zip(sides[1:], compared.verdicts, strict=True):
        style = MUTED if verdict is None or verdict.within else "bold $text-error"
        told = verdict_line(verdict) if verdict is not None else ""
        told = told or f"not judged: {apart_by(sides[0], side)}"
        letter = LETTERS[sides.index(side)]
        drawn.append(Content.styled(f"{letter} #{side.run} {told}", style))
    if not any(line.plan for line in found) and all(side.plan for side in sides):
        drawn.insert(1, Content.styled("the same plan", MUTED))
    return Content("\n").join(drawn)


def held_against(trace: Trace | None, pinned: Summary | None) -> Content:
    """How far a run is from the pinned one, in a line; empty where there is nothing to hold."""
    if trace is None or pinned is None or trace.label == f"#{pinned.run}":
        return Content()
    peak, other, parts = trace.peak, whole_peak(pinned), []
    done = trace.ended is not None and trace.ended.outcome in COMPARABLE
    if done and peak is not None and other is not None:
        parts.append(f"{delta(peak.allocated - other)} peak")
    if trace.tokens_per_second and pinned.tokens_per_second:
        parts.append(f"{percent(trace.tokens_per_second / pinned.tokens_per_second)} tok/s")
    if not parts:
        return Content()
    return Content.assemble(
        ("◆ to ", MUTED),
        (f"#{pinned.run}", "$text-accent"),
        f"  {' · '.join(parts)}  ",
        (printable(pinned.name), MUTED),
    )


def _paired(values: Sequence[str], gaps: Sequence[str]) -> list[str]:
    return [text for pair in zip(values, gaps, strict=True) for text in pair]


def _whole(line: Line) -> list[str]:
    return [_name(line), line.values[0], *_paired(line.values[1:], line.gaps)]


def _short(line: Line) -> list[str]:
    others = zip(line.values[1:], line.gaps, strict=True)
    # Of the deviation the figure alone: the step has no room.
    told = [gap.partition(" at ")[0] or value for value, gap in others]
    return [_name(line), line.values[0], *told]


def _name(line: Line) -> str:
    """What the row of the plan is called that a line is about."""
    name = line.name.removeprefix("techniques.")
    if line.plan and name != line.name and name in techniques():
        return techniques()[name].title
    return name.removeprefix("workload.").replace("_", " ") if line.plan else name


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    columns = list(zip(*rows, strict=True))
    found = [max(map(len, column)) for column in columns]
    return [found[0], *(width + APART for width in found[1:])]


def _row(row: Sequence[str], widths: Sequence[int], line: Line | None) -> Content:
    name = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
    style = "$text-accent" if line is not None and line.plan else MUTED
    parts = [Content.styled(f"{printable(name):<{widths[0]}}", style)]
    for text, width in zip(row[1:], widths[1:], strict=True):
        sign = text[:1] in "+\N{MINUS SIGN}±" and text != ""
        look = MUTED if line is None else "bold" if sign else ""
        parts.append(Content.styled(f"{printable(text):>{width}}", look))
    return Content.assemble(*parts)
