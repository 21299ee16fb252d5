"""The whole prediction, where the peak panel has the screen for itself."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from memwb.engine.prediction import Fit, Large, Prediction
from memwb.engine.protocol import CATEGORIES, Device, Peak
from memwb.workbench.foresight import OTHER_KERNELS
from memwb.workbench.outlook import Outlook
from memwb.workbench.panels.forecast import (
    LABEL,
    LOOKS,
    MUTED,
    OLD,
    SMALL,
    TOTALS,
    compared,
    faint,
    fits_line,
    mark_of,
    measured,
    module_of,
    state_words,
    untold,
    value,
    wrapped,
)
from memwb.workbench.trace import Trace
from memwb.workbench.units import gib

NARROW = 100
"""Columns below which a module is not written after its operator."""
FIT = 57
"""Columns of one GPU in the fit list."""


def whole(
    outlook: Outlook,
    peak: Peak | None,
    trace: Trace | None,
    width: int,
    device: Device | None = None,
    mark: str = "",
) -> Content:
    """Everything: figures beside each other, words, the fit list, the tensors, the notes.

    The mark stands before figures of an earlier plan, where colours cannot tell; what is below
    them comes after words that do.
    """
    result = outlook.result
    figures = _pairs(outlook, peak, trace, width, "" if outlook.current else mark)
    if told := compared(peak, trace):
        figures += wrapped(told, width, MUTED)
    said = state_words(outlook)
    if said:
        figures += [Content(), *wrapped(said, width, "$text-warning")]
    if result is None:
        return Content("\n").join(figures)
    found = [Content(), *(line for text in result.words for line in wrapped(text, width))]
    found.append(fits_line(result, width))
    if result.largest:
        # What was measured is told beside it on the screen of the peak.
        ended = trace.ended if trace is not None else None
        more = " · P: and measured" if ended is not None and ended.alive is not None else ""
        head = f"Largest at the peak, as predicted, in {result.peak.phase}{more}"
        found += [Content(), _head(head)]
        found += _largest(result.largest, width)
    if result.fits:
        found += [Content(), _head("Fits"), *_beside(result.fits, width)]
        if not all(fit.same_kernels for fit in result.fits):
            found += wrapped(OTHER_KERNELS, width, MUTED)
    if result.notes:
        found += [Content(), _head("Notes")]
        found += [line for text in result.notes for line in wrapped(text, width, MUTED)]
    return Content("\n").join([*figures, *(found if outlook.current else map(faint, found))])


def _step(result: Prediction) -> str:
    return f"step {result.step}" if result.step else "while loading"


def _beside(fits: Sequence[Fit], width: int) -> list[Content]:
    """The fit list in as many columns as there is room for, each read downwards."""
    count = max(1, min(3, width // FIT))
    rows = -(-len(fits) // count)
    lines = []
    for row in range(rows):
        parts: list[Content | str] = []
        for fit in fits[row::rows]:
            told = _told(fit)
            parts += [told, " " * max(2, FIT - told.cell_length)]
        lines.append(Content.assemble(*parts[:-1]))
    return lines


def _told(fit: Fit) -> Content:
    free = f"{gib(fit.free)} free" if fit.free >= 0 else f"{gib(-fit.free)} short"
    return Content.assemble(
        mark_of(fit),
        (f" {fit.verdict:<8}", LOOKS[fit.verdict]),
        f"{' ' if fit.same_kernels else '~'}{fit.gpu:<17}",
        (f" {gib(fit.capacity):>8}  {free}", MUTED),
    )


def _largest(largest: Sequence[Large], width: int) -> list[Content]:
    """Bytes, category, shape and dtype, operator, module: what may be long comes last."""
    cells = [
        (
            f"{f'{large.count} × ' if large.count > 1 else ''}{'×'.join(map(str, large.shape))} "
            f"{SMALL.get(large.dtype, large.dtype)}",
            large.op.removeprefix("aten.") or "–",
        )
        for large in largest
    ]
    narrow = width < NARROW
    shapes, ops = (max(len(row[at]) for row in cells) for at in (0, 1))
    return [
        Content.assemble(
            f"{gib(large.bytes):>9}  ",
            (f"{large.category:<13}", MUTED),
            f"{shape:<{shapes}}  ",
            # Where both have no room the module tells more.
            f"{module_of(large) or '–'}  " if narrow else (f"{op:<{ops}}  ", MUTED),
            (op, MUTED) if narrow else module_of(large) or "–",
        ).truncate(max(20, width), ellipsis=True)
        for large, (shape, op) in zip(largest, cells, strict=True)
    ]


def _head(text: str) -> Content:
    return Content.styled(text, "bold $text-primary")


def _pairs(
    outlook: Outlook, peak: Peak | None, trace: Trace | None, width: int, mark: str
) -> list[Content]:
    """The figures, one a line: predicted, then measured."""
    result = outlook.result
    first = result.peak if result is not None else None
    start = f"{'':<{LABEL}}{'predicted':>11}{'':>7}   "
    who = (measured(trace) if peak else "") or "measured"
    if len(start) + len(who) > width and trace is not None:
        who = trace.label
    who = f"{who:>12}"
    head = start + who
    lines = [Content.styled(head, MUTED)]
    plain = "" if outlook.current else OLD
    for key in (*CATEGORIES, *TOTALS):
        told = mark + gib(value(first, key)) if first and not untold(first, key) else "–"
        found = gib(value(peak, key)) if peak else "–"
        share = f"{value(first, key) / max(1, first.allocated):.0%}" if first else ""
        look = "bold" if key == "allocated" else ""
        lines.append(
            Content.assemble(
                (f"{key:<{LABEL}}", MUTED),
                (f"{told:>11}", plain or look),
                (f"{share if key in CATEGORIES else '':>7}", MUTED),
                (f"{found:>{len(who) + 3}}", look),
            )
        )
    places = f"in {first.phase}, {_step(result)}" if first and result else ""
    lines.append(
        Content.styled(
            f"{'peak':<{LABEL}}{places:<18}{f'in {peak.phase}' if peak else '':>{len(who) + 3}}",
            MUTED,
        )
    )
    return lines
