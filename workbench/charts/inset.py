"""The box beside the cursor: everything that is known of one moment, to the byte."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memwb.engine.protocol import Sample
from memwb.workbench.charts.bands import NONE, Hidden, values
from memwb.workbench.charts.legend import Part, bands_of, length, place, seconds, totals_of
from memwb.workbench.charts.palette import LETTERS, NAMES
from memwb.workbench.charts.scale import delta, gib

NARROW, WIDE = 31, 45
"""Columns of the box with its frame: figures to the byte, and beside them those that are read."""
AIRY = 34
"""Columns from which on there is a space within the frame."""
LEAST = 7
"""Rows below which there is no box."""


class Moment(msgspec.Struct, frozen=True):
    """A sample and what else is known of its moment."""

    sample: Sample
    before: Sample | None = None
    """The sample before it: what differs is what was allocated or freed."""
    others: tuple[tuple[str, int], ...] = ()
    """The name of each run laid over this one, and its bytes at that moment."""
    timed: bool = True
    """Whether its time is one of a clock."""
    words: tuple[str, ...] = ()
    """What else there is to say of it, such as the largest tensors."""


def box(
    moment: Moment, width: int, rows: int, hatched: bool, hidden: Hidden = NONE
) -> list[list[Part]] | None:
    """The box's lines, of equal length; None where it would not fit into half the plot.

    What has least to say goes first when there are few rows.
    """
    room = width // 2 - 1
    if room < NARROW or rows < LEAST:
        return None
    width = min(room, WIDE)
    wide = width == WIDE
    pad = int(width >= AIRY)
    inner = width - 2 - 2 * pad
    sample, sizes = moment.sample, values(moment.sample)
    shown = [
        _band(band, sizes[band], inner, wide, hatched, band in hidden) for band in bands_of(sample)
    ]
    totals = [
        _figure(name, size, inner, wide)
        for name, size in totals_of(sample)
        if size or name == "allocated"
    ]
    extra = [_figure(name[:10], size, inner, wide) for name, size in moment.others]
    extra += [[(text[:inner], "label", -1)] for text in changed(moment)]
    extra += [[(text[:inner], "label", -1)] for text in moment.words]
    body = [*shown, totals[0]]
    free = rows - 2 - len(body)
    body = body[-max(1, rows - 2) :]
    body += [*totals[1:], *extra][: max(0, free)]
    return _framed(body, _title(moment, width - 6), width, pad)


def changed(moment: Moment) -> list[str]:
    """What was allocated or freed since the sample before, the largest first."""
    sample, before = moment.sample, moment.before
    if before is None:
        return []
    if sample.categories is None or before.categories is None:
        gap = sample.allocated - before.allocated
        return [f"just now {delta(gap)}"] if gap else []
    gaps = [now - old for now, old in zip(values(sample), values(before), strict=True)]
    order = sorted((band for band in range(len(gaps)) if gaps[band]), key=lambda at: -abs(gaps[at]))
    return [
        f"{'just now' if not at else '':<8} {delta(gaps[band])} {NAMES[band]}"
        for at, band in enumerate(order[:2])
    ]


def _title(moment: Moment, inner: int) -> str:
    """Where and when, as long as there is room."""
    where = place(moment.sample)
    if not moment.timed:
        return where[:inner]
    whole = f"{where} · {seconds(moment.sample.time)}"
    return next((text for text in (whole, whole.replace(" ·", "")) if len(text) <= inner), where)


def _band(band: int, size: int, inner: int, wide: bool, hatched: bool, away: bool) -> list[Part]:
    name = f"{LETTERS[band]} {NAMES[band]}" if hatched else NAMES[band]
    look = "label" if away else "value"
    mark: Part = ("", "off" if away else "key", band)
    return [mark, *_figure(f" {name}"[:14], size, inner - 1, wide, look)]


def _figure(name: str, size: int, inner: int, wide: bool, look: str = "value") -> list[Part]:
    """A name, the exact bytes at the right, and before them a figure as a person says it."""
    exact = f"{size:,}"
    about = f"{gib(size):>9}" if wide else ""
    gap = inner - len(name) - len(about) - len(exact)
    if gap < 1:
        name = name[: max(0, len(name) + gap - 1)]
        gap = inner - len(name) - len(about) - len(exact)
    # The exact figure ends at the frame; the other stands in a column of its own.
    pad = max(1, gap - max(0, 17 - len(exact))) if wide else gap
    rest = gap - pad
    return [
        (name + " " * pad, "label", -1),
        (about, look, -1),
        (" " * rest, "label", -1),
        (exact, "label" if wide else look, -1),
    ]


def _framed(body: Sequence[list[Part]], title: str, width: int, pad: int) -> list[list[Part]]:
    rule = "─" * (width - len(title) - 5) + "╮"
    lines: list[list[Part]] = [
        [("╭─", "axis", -1), (f" {title} ", "label", -1), (rule, "axis", -1)]
    ]
    for parts in body:
        space = " " * (width - 2 - pad - length(parts))
        lines.append([("│" + " " * pad, "axis", -1), *parts, (f"{space}│", "axis", -1)])
    return [*lines, [("╰" + "─" * (width - 2) + "╯", "axis", -1)]]
