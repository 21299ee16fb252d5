"""The list of GPUs: in which order, which of them, and how each is written. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content

from memwb.engine.prediction import Fit
from memwb.workbench.foresight import Room
from memwb.workbench.library import Target
from memwb.workbench.panels.forecast import MARKS
from memwb.workbench.panels.rows import Row, Spans
from memwb.workbench.screens.needs import STYLES
from memwb.workbench.units import gib

SORTS = {
    "": "list",
    "capacity": "usable",
    "bandwidth": "GB/s",
    "bf16": "bf16 TFLOP/s",
    "free": "free",
}
"""What the list can be sorted by, and the names of the columns; the empty one is the list's own."""
VERDICTS = {"": "all", "fits": "fits", "tight": "tight", "exceeds": "exceeds"}
"""What the list can be narrowed to."""
ID = 19
WIDE = 104
"""Columns from which the GPUs' names have room."""
NAME, LONGEST_NAME = 25, 43
RATE = 14
"""The rate's column where there is room, 9 where there is not."""


def name_width(width: int) -> int:
    """How wide the column of names is: all that is left, as far as a name needs it."""
    return min(NAME + width - WIDE, LONGEST_NAME) if width >= WIDE else 0


def chosen(
    targets: Sequence[Target], fits: Mapping[str, Fit], text: str, verdict: str, sort: str
) -> list[Target]:
    """The GPUs that what is typed and the verdict mean, in the chosen order, the most first."""
    words = text.lower().split()
    found = [
        each
        for each in targets
        if all(word in f"{each.id} {each.name}".lower() for word in words)
        and (not verdict or (each.id in fits and fits[each.id].verdict == verdict))
    ]
    if sort == "free":
        least = -(2**60)
        found.sort(key=lambda one: -(fits[one.id].free if one.id in fits else least))
    elif sort:
        found.sort(key=lambda one: -(getattr(one, sort) or 0))
    return found


def chips(verdict: str, fits: Mapping[str, Fit], gpus: int) -> Content:
    """The verdicts to choose from, each with how many of the GPUs have it.

    This machine and the CPU are not among them: their own rows say it.
    """
    parts = []
    for key, title in VERDICTS.items():
        number = sum(fit.verdict == key for fit in fits.values())
        shown = f"{MARKS[key]} {title} {number}" if key else f"{title} {gpus} GPUs:"
        look = "reverse b" if key == verdict else "$foreground 60%"
        parts.append(Content.from_markup(f"[@click=screen.narrow('{key}')][{look}] {shown} [/][/]"))
    if len(fits) < gpus:
        parts.append(Content.styled(f"… {gpus - len(fits)}", "$foreground 60%"))
    return Content(" ").join(parts)


def columns(width: int, sort: str) -> Content:
    """The names of the columns, each of which sorts when it is pressed."""
    names = name_width(width)
    heads = [
        ("", f"   {'gpu':<{ID}}" + (f"{'name':<{names}}" if names else "")),
        ("capacity", f"{'usable':>9}"),
        ("bandwidth", f"{'GB/s':>7}"),
        ("bf16", f"{'bf16 TFLOP/s':>{RATE}}" if names else f"{'TFLOP/s':>9}"),
        ("free", "  for this plan"),
    ]
    parts = []
    for key, title in heads:
        here = key == sort and key
        if here:
            # In the room before its name, so that no other moves.
            before = len(title) - len(title.lstrip())
            title = f"{title[: before - 1]}▼{title[before:]}"
        look = "b $text-primary" if here else "$foreground 60%"
        parts.append(Content.from_markup(f"[@click=screen.sort('{key}')][{look}]{title}[/][/]"))
    return Content("").join(parts)


def row(target: Target, chosen: bool, told: Spans, width: int) -> Row:
    """One GPU: what it is, what it has, and the verdict."""
    names = name_width(width)
    rate = f"{_figure(target.bf16, 12):>{RATE if names else 9}}"
    name = target.name if len(target.name) < names else f"{target.name[: names - 2]}…"
    local = " here" if target.local else ""
    return Row(
        target.id,
        (
            (" ● " if chosen else "   ", "on"),
            (f"{target.id}{local}".ljust(ID), "accent"),
            *(((f"{name:<{names}}", "muted"),) if names else ()),
            (f"{gib(target.capacity):>9}", "value"),
            (
                f"{_figure(target.bandwidth, 9):>7}{rate}  ",
                "plain",
            ),
            *told,
        ),
    )


def fit_spans(fit: Fit | None, waiting: str = "") -> Spans:
    """The verdict and what is free; dots where it is not known."""
    if fit is None:
        return ((waiting or "…", "old"),)
    other = " " if fit.same_kernels else "~"
    return room_spans(Room(fit.verdict, fit.free, fit.capacity), other)


def room_spans(room: Room, other: str = " ") -> Spans:
    """The same of what is not told as a fit."""
    free = f"{gib(room.free)} free" if room.free >= 0 else f"{gib(-room.free)} short"
    return (
        (f"{MARKS[room.verdict]} {room.verdict:<7}{other}", STYLES[room.verdict]),
        (f"{free:>14}", "muted"),
    )


def merged(fits: Mapping[str, Fit], told: Sequence[Fit]) -> dict[str, Fit]:
    """The verdicts with those of another prediction: what was told of the same kernels stays."""
    found = dict(fits)
    for fit in told:
        if fit.same_kernels or fit.gpu not in found:
            found[fit.gpu] = fit
    return found


def _figure(value: float | None, power: int) -> str:
    return "–" if value is None else f"{value / 10**power:,.0f}"
